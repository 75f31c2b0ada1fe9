//! Training: which images come in which step, what is drawn for each, the step itself, and the state between steps.

mod job;
mod order;
pub mod parameters;
pub mod schedule;

#[cfg(feature = "compute")]
mod batch;
#[cfg(feature = "compute")]
mod optimizer;
#[cfg(feature = "compute")]
mod run;
#[cfg(feature = "compute")]
mod state;
mod timestep;

pub use job::{TrainItem, TrainJob};
pub use order::Turn;
#[cfg(feature = "compute")]
pub use run::train;

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;
