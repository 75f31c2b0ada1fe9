//! What a run would do: every stage's key as far as it can be known, what is kept, what is missing, and why.

mod above;
mod data;
mod estimate;
mod examine;
mod fit;
mod losses;
mod memo;
mod model;
mod reasons;
mod report;
mod result;
mod shared;
mod start;
mod state;
pub mod target;

pub use data::Data;
pub use estimate::{Bytes, Cost, Estimate, Size};
pub use examine::Planner;
pub use losses::EpochLosses;
pub use reasons::{Cause, Difference, Reasons, differences};
pub use result::StageResult;
pub use shared::{Shared, Traffic};
pub use start::{Start, StartError};
pub use state::{Examined, State};

use sd3pipe_cache::{KeyError, StoreError};
use sd3pipe_stages::{
    captions::{CaptionsError, listing::LISTING},
    checkpoint::CheckpointError,
    error::StageError,
    text::tokenizer::TokenizerError,
};
use std::path::PathBuf;
use thiserror::Error;

/// Why no plan can be made.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The data is not what it should be.
    #[error(transparent)]
    Captions(#[from] CaptionsError),
    /// A model file is not what it should be.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tokenizer is not what it should be.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A parameter can't be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stages do not fit together.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// There are no weights to start from.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A parameter can't be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Pictures are needed that are not on this machine.
    #[error(
        "{count} of its pictures must be encoded, {first} for one, and they are not on this machine: {LISTING} stands in their folder\n\
         hint: bring them here and remove that file, or go back to the settings that they were packed with",
        first = first.display()
    )]
    Elsewhere {
        /// How many.
        count: usize,
        /// One of them.
        first: PathBuf,
    },
    /// A result can't be put into `out/`.
    #[error(
        "cannot write {path}: {source}; make room there or let this user write there, and run again: what was made is kept",
        path = path.display()
    )]
    Deliver {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// An input can't be read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl PlanError {
    /// The object that must be made again first, if that is what is wrong.
    pub fn lost_object(&self) -> Option<sd3pipe_cache::Digest> {
        match self {
            Self::Store(StoreError::Damaged { digest } | StoreError::Missing { digest }) => Some(*digest),
            Self::Stage(error) => error.lost_object(),
            _ => None,
        }
    }
}
