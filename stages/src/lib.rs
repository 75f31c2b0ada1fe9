//! What each stage of a pipeline does.

pub mod checkpoint;
#[cfg(feature = "compute")]
pub mod nn;
