//! What can be wrong with an adapter and its file.

use crate::checkpoint::CheckpointError;
use std::path::PathBuf;

/// Why an adapter can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file can't be read as safetensors.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The pipeline's blocks and targets name no layer that the model has.
    #[error("method: {0}")]
    Nowhere(String),
    /// The file holds tensors that are no part of an adapter of this MMDiT.
    #[error("{} is no adapter of this model's MMDiT:\n{}", path.display(), problems.join("\n"))]
    Unfit {
        /// The file.
        path: PathBuf,
        /// A line for each thing that is wrong.
        problems: Vec<String>,
    },
    /// The file's adapter is not of the form that the pipeline asks for.
    #[error("a training from {} can't go on as the pipeline has it:\n{}", path.display(), problems.join("\n"))]
    Other {
        /// The file.
        path: PathBuf,
        /// A line for each difference, with the remedy.
        problems: Vec<String>,
    },
}
