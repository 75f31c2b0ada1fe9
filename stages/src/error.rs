//! What can go wrong while a stage runs.

use crate::checkpoint::CheckpointError;
use sd3pipe_cache::{KeyError, StoreError};
use std::path::PathBuf;
use thiserror::Error;

/// Why a stage did not finish.
#[derive(Debug, Error)]
pub enum StageError {
    /// The store could not be read or written, or an object in it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A parameter can't be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A model file is not what it should be.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An adapter is not what it should be.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::AdapterError),
    /// Tensors do not fit the network.
    #[cfg(feature = "compute")]
    #[error(transparent)]
    Weights(#[from] crate::nn::WeightsError),
    /// A tensor of a model file can't be loaded.
    #[cfg(feature = "compute")]
    #[error(transparent)]
    Load(#[from] crate::nn::LoadError),
    /// A tokenizer and an encoder do not belong together.
    #[cfg(feature = "compute")]
    #[error(transparent)]
    Tokens(#[from] crate::nn::TokenError),
    /// The data is not what it should be.
    #[error(transparent)]
    Captions(#[from] crate::captions::CaptionsError),
    /// A tokenizer can't be used.
    #[error(transparent)]
    Tokenizer(#[from] crate::text::tokenizer::TokenizerError),
    /// Some items could not be made; all others were, and are kept.
    #[error("{count} of the {what} can't be used:\n{list}", count = faults.len(), list = faults.join("\n"))]
    Items {
        /// What the items are: `images`.
        what: &'static str,
        /// One line an item: what it is, what is wrong, what to do.
        faults: Vec<String>,
    },
    /// Inputs changed after they were looked at. What was made from what was really read is kept; nothing else was.
    #[error("changed during the run: {}", list(paths))]
    Changed {
        /// What changed.
        paths: Vec<PathBuf>,
    },
    /// Somebody asked to stop; the state is saved.
    #[error("interrupted")]
    Interrupted,
    /// Another of the devices that train together has failed, which is the error to tell.
    #[error("another device of the training has failed")]
    LostDevice,
    /// Model, data and parameters do not fit together, or come to numbers that are of no use: the sentence says how, and the way out.
    #[error("{0}")]
    Unfit(String),
    /// An object of the store can't be read as what it should be, though its digest is right.
    #[error("the {what} in the store can't be read: {reason}; do its stage anew with `--force`")]
    Unreadable {
        /// What it should be.
        what: String,
        /// Why it is not.
        reason: String,
    },
    /// Something of the model has no form in the layout that was asked for.
    #[error("{what} can't be exported as a diffusers folder: {reason}; export with layout: SingleFile")]
    Unexportable {
        /// The network or tensor.
        what: String,
        /// Why not.
        reason: String,
    },
    /// There is nothing to put inside.
    #[error("text_encoders: the model has no text encoders to put into the checkpoints; leave the field out")]
    NoTextEncoders,
    /// A file that is needed could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// This build can't run networks.
    #[error("this build has no networks in it: build with the default features to run {0}")]
    NoCompute(&'static str),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl StageError {
    /// The object that must be made again before the stage can go on, if that is what is wrong.
    pub fn lost_object(&self) -> Option<sd3pipe_cache::Digest> {
        match self {
            Self::Store(StoreError::Damaged { digest } | StoreError::Missing { digest }) => Some(*digest),
            _ => None,
        }
    }
}
