//! What is to be done for a stage.

use super::StageResult;
use sd3pipe_cache::Preimage;
use sd3pipe_stages::job::Job;

/// What is known of a stage.
#[derive(Debug)]
pub struct Examined {
    /// All that it reads, as far as that is known: a digest of a result that has yet to be made is null.
    pub preimage: Preimage,
    /// What is to be done.
    pub state: State,
}

/// What is to be done for a stage.
#[derive(Debug)]
pub enum State {
    /// Nothing: the store has its result.
    Kept {
        /// The result.
        result: StageResult,
    },
    /// Nothing but to write down what is known: every action's result is there.
    Assembled {
        /// The result, in memory.
        result: StageResult,
        /// How many actions it is made of.
        actions: usize,
    },
    /// Some actions.
    Run {
        /// The stage's work.
        job: Box<Job>,
        /// The actions to carry out.
        missing: Vec<usize>,
    },
    /// Something that can't be told yet: a stage that it reads from must run first.
    Waiting {
        /// Those stages.
        on: Vec<usize>,
    },
}

impl State {
    /// The result, if it's known.
    pub fn result(&self) -> Option<&StageResult> {
        match self {
            Self::Kept { result } | Self::Assembled { result, .. } => Some(result),
            Self::Run { .. } | Self::Waiting { .. } => None,
        }
    }
}
