//! What a stage has to do, once everything that it reads is known.

use crate::{
    action::{Action, Artifact},
    error::StageError,
    export::{self, ExportJob},
    images::ImagesJob,
    sample::SampleJob,
    share::{CarryOut, Sharing, share},
    text::TextJob,
    train::TrainJob,
    work::Work,
};
use sd3pipe_cache::{Key, Output, Store};

/// A stage with its actions.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a pipeline has a handful of them")]
pub enum Job {
    /// Encoding texts.
    Text(TextJob),
    /// Encoding images.
    Images(ImagesJob),
    /// Training.
    Train(TrainJob),
    /// Exporting.
    Export(ExportJob),
    /// Drawing samples.
    Sample(SampleJob),
}

impl Job {
    /// What there is to do, in order.
    pub fn actions(&self) -> &[Action] {
        match self {
            Self::Text(job) => &job.actions,
            Self::Images(job) => &job.actions,
            Self::Train(job) => &job.actions,
            Self::Export(job) => &job.actions,
            Self::Sample(job) => &job.actions,
        }
    }

    /// The keys of all that is looked up to do it: its actions', and those of what they have encoded on the way.
    pub fn keys(&self) -> Result<Vec<Key>, StageError> {
        let mut keys: Vec<Key> = self.actions().iter().map(|action| action.key).collect();
        if let Self::Sample(job) = self {
            keys.extend(job.texts()?.actions.iter().map(|action| action.key));
        }
        Ok(keys)
    }

    /// What an action makes, in the plural.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Text(_) => "texts",
            Self::Images(_) => "images",
            Self::Train(job) if !job.validated.is_empty() => "epochs and validations",
            Self::Train(_) => "epochs",
            Self::Export(_) => "checkpoints",
            Self::Sample(_) => "images",
        }
    }

    /// Completes what is known of what the actions have put out with what that itself says of those that are missing: what comes after
    /// a training has stopped early is nothing.
    ///
    /// # Errors
    /// When the store has lost what that goes by.
    pub fn settle(&self, outputs: &mut [Option<Vec<Output>>], store: &Store) -> Result<(), StageError> {
        if let Self::Train(job) = self { job.settle(outputs, store) } else { Ok(()) }
    }

    /// What the stage made, from what each action made, in the order of [`actions`](Self::actions).
    pub fn artifact(&self, outputs: &[Vec<Output>]) -> Artifact {
        match self {
            Self::Text(job) => job.artifact(outputs),
            Self::Images(job) => job.artifact(outputs),
            Self::Train(job) => job.artifact(outputs),
            Self::Export(job) => job.artifact(outputs),
            Self::Sample(job) => job.artifact(outputs),
        }
    }

    /// Has `run` carry out the missing actions that no other run on the store is making, and waits for those that one is.
    ///
    /// # Errors
    /// As [`share`].
    pub fn share(
        &self,
        stage: &str,
        missing: Vec<usize>,
        anew: bool,
        work: &mut Work<'_>,
        run: &mut CarryOut<'_>,
    ) -> Result<(), StageError> {
        let last = match self {
            Self::Sample(job) => Some(job.sheet()),
            _ => None,
        };
        let sharing = Sharing { stage, chained: matches!(self, Self::Train(_)), last, anew };
        share(self.actions(), missing, sharing, work, run)
    }

    /// Carries out some of the actions, given by their indices.
    #[cfg(feature = "compute")]
    pub fn run(&self, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
        match self {
            Self::Text(job) => crate::text::encode(job, missing, work, false),
            Self::Images(job) => crate::images::encode(job, missing, work),
            Self::Train(job) => crate::train::train(job, missing, work),
            Self::Export(job) => export::export(job, missing, work),
            Self::Sample(job) => crate::sample::sample(job, missing, work),
        }
    }

    /// Carries out some of the actions, given by their indices: in this build only those that need no network.
    #[cfg(not(feature = "compute"))]
    pub fn run(&self, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
        match self {
            Self::Text(_) => Err(StageError::NoCompute("EncodeText")),
            Self::Images(_) => Err(StageError::NoCompute("EncodeImages")),
            Self::Train(_) => Err(StageError::NoCompute("Train")),
            Self::Export(job) => export::export(job, missing, work),
            Self::Sample(_) => Err(StageError::NoCompute("Sample")),
        }
    }
}
