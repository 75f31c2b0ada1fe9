//! What can be wrong with a model file.

use std::path::PathBuf;

use super::{Component, GeometryError};

/// Why a model file, or one network in it, can't be used. Every message names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file could not be opened or mapped.
    #[error("can't read {}: {source}; check that the path is right and that you may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The path names a pipe, a device, or a folder where a file is needed.
    #[error("{} is not a file; name a .safetensors file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is not in the safetensors format at all.
    #[error("{} is not a safetensors file: {found}; {remedy}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What the beginning of the file looks like.
        found: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The file ends before its tensors do, or goes on after them.
    #[error("{} is {actual} bytes long, but its header describes {described}; it was cut short or changed: copy or download it again", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// The file's length in bytes.
        actual: u64,
        /// The length in bytes that its header asks for.
        described: u128,
    },
    /// The header contradicts itself.
    #[error("{} has a damaged header: {reason}; copy or download it again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A folder holds weights in several variants, and none without a variant's name.
    #[error("{} holds several weights: {}; name the folder of one of them, with the others moved elsewhere", path.display(), names.join(", "))]
    SeveralWeights {
        /// The folder.
        path: PathBuf,
        /// The files.
        names: Vec<String>,
    },
    /// The list of a network's shards can't be used.
    #[error("{} is no usable list of shards: {reason}; copy or download it again", path.display())]
    Index {
        /// The list.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A tensor that the caller asked for is not in the file.
    #[error("{} has no tensor {name}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
    },
    /// The file holds other things, but not this network.
    #[error("{} holds no {component}: {hint}", path.display())]
    NoComponent {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        component: Component,
        /// What it holds instead, or what to name instead.
        hint: String,
    },
    /// The network is there, but no geometry follows from its shapes.
    #[error("the {component} in {} can't be read: {source}", path.display())]
    Geometry {
        /// The file.
        path: PathBuf,
        /// The network.
        component: Component,
        /// What doesn't fit.
        source: GeometryError,
    },
    /// Tensors of the network are missing, unknown or of the wrong shape; the first hundred of them are listed.
    #[error("the {component} in {} is not complete or not of a known layout; use the model's original files:\n{}", path.display(), problems.join("\n"))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The network.
        component: Component,
        /// One line a tensor: `missing NAME SHAPE`, `unknown NAME SHAPE` or `NAME has SHAPE, expected SHAPE`.
        problems: Vec<String>,
    },
}
