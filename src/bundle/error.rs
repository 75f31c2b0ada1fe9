//! What can go wrong with bundles.

use crate::plan::PlanError;
use sd3pipe_cache::StoreError;
use std::{io, path::PathBuf};
use thiserror::Error;

/// Why a bundle can't be written or read.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file can't be written.
    #[error("cannot write {}: {source}; make room there, or let this user write there", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The bundle can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The bundle.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no bundle: `sd3pipe pack` writes those", path.display())]
    NotABundle {
        /// The file.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}, which a newer sd3pipe wrote: update sd3pipe", path.display())]
    Newer {
        /// The bundle.
        path: PathBuf,
        /// The format's number.
        found: u32,
    },
    /// It is not what was written.
    #[error("{} is damaged: {what}; copy it once more. What was unpacked before that is sound, and nothing uses it yet", path.display())]
    Damaged {
        /// The bundle.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A stage has nothing to pack yet.
    #[error(
        "{stage} is not in this store: run the pipeline `--until {stage}` first, or `pull` what the remote store has"
    )]
    NotDone {
        /// The stage.
        stage: String,
    },
    /// The pipeline has no place for the data.
    #[error("the bundle has data of `{stage}`, its data set {dataset} (from 0), which this pipeline does not have")]
    OtherPipeline {
        /// The stage.
        stage: String,
        /// The data set.
        dataset: usize,
    },
    /// The store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stage can't be examined.
    #[error("{stage}: {error}")]
    Plan {
        /// The stage.
        stage: String,
        /// Why not.
        error: Box<PlanError>,
    },
}
