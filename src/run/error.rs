//! Why a run did not end well.

use super::space::NoRoom;
use crate::plan::PlanError;
use sd3pipe_cache::Digest;
use sd3pipe_stages::error::StageError;
use std::path::PathBuf;
use thiserror::Error;

/// Why a run did not end well.
#[derive(Debug, Error)]
pub enum RunError {
    /// A stage could not be examined.
    #[error("{stage}: {error}")]
    Plan {
        /// The stage.
        stage: String,
        /// Why not.
        error: Box<PlanError>,
    },
    /// A stage failed.
    #[error("{stage}: {error}")]
    Stage {
        /// The stage.
        stage: String,
        /// How.
        error: Box<StageError>,
    },
    /// What will be written has no room: nothing was begun.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Inputs changed while the run went on: what was published is right for what was read, but that is not what lies there now.
    #[error(
        "these changed during the run: {}\nEverything that was made belongs to what was read; run again to take them in",
        list(paths)
    )]
    Changed {
        /// What changed.
        paths: Vec<PathBuf>,
    },
    /// Somebody asked to stop; the state is saved.
    #[error("interrupted; the state is saved, and the next run goes on from it")]
    Interrupted,
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl RunError {
    /// What could not be found out about a stage. An input that changed while it was read is no fault of the stage's.
    pub(super) fn of_plan(stage: String, error: PlanError) -> Self {
        match error {
            PlanError::Stage(StageError::Changed { paths }) => Self::Changed { paths },
            PlanError::Stage(StageError::Interrupted) => Self::Interrupted,
            error => Self::Plan { stage, error: Box::new(error) },
        }
    }

    pub(super) fn lost_object(&self) -> Option<Digest> {
        match self {
            Self::Plan { error, .. } => error.lost_object(),
            Self::Stage { error, .. } => error.lost_object(),
            Self::NoRoom(_) | Self::Changed { .. } | Self::Interrupted => None,
        }
    }
}
