//! Exporting: trained weights as the single-file checkpoints that other programs load.

pub mod job;
pub mod parameters;
mod write;

pub use job::ExportJob;
pub use write::export;

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;
