//! Training: which images come in which step, what is drawn for each, the step itself, and the state between steps.

mod job;
mod order;
pub mod parameters;
pub mod schedule;

#[cfg(feature = "compute")]
pub mod adapter;
#[cfg(feature = "compute")]
mod batch;
#[cfg(feature = "compute")]
mod objective;
#[cfg(feature = "compute")]
mod optimizer;
#[cfg(feature = "compute")]
mod run;
#[cfg(feature = "compute")]
mod state;
mod timestep;
#[cfg(feature = "compute")]
mod update;

#[cfg(feature = "compute")]
pub use batch::{Batch, Drawn};
pub use job::{TrainItem, TrainJob};
#[cfg(feature = "compute")]
pub use objective::{Gradients, tracked};
#[cfg(feature = "compute")]
pub use optimizer::Moments;
pub use order::Turn;
#[cfg(feature = "compute")]
pub use run::train;
#[cfg(feature = "compute")]
pub use state::{Measured, Position, State};

/// The role of an epoch's adapter, in the place of an epoch's `weights`.
pub const ADAPTER: &str = "adapter";

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;
