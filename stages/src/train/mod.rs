//! Training: which images come in which step, what is drawn for each, the step itself, and the state between steps.

pub mod average;
mod contradictions;
pub mod density;
mod held_out;
pub mod init;
mod items;
mod job;
pub mod loss;
mod memory;
pub mod metrics;
pub mod optimizer;
mod order;
pub mod parameters;
mod pattern;
mod rates;
pub mod schedule;
mod selection;
pub mod span;
pub mod validation;
pub mod weighting;

#[cfg(feature = "compute")]
pub mod adapter;
#[cfg(feature = "compute")]
mod batch;
#[cfg(feature = "compute")]
mod blocks;
#[cfg(feature = "compute")]
mod objective;
#[cfg(feature = "compute")]
mod parallel;
#[cfg(feature = "compute")]
mod prompts;
#[cfg(feature = "compute")]
mod replica;
#[cfg(feature = "compute")]
mod rounding;
#[cfg(feature = "compute")]
mod run;
#[cfg(feature = "compute")]
mod sample;
#[cfg(feature = "compute")]
mod squares;
#[cfg(feature = "compute")]
mod state;
mod timestep;
#[cfg(feature = "compute")]
mod update;
#[cfg(feature = "compute")]
mod validate;

#[cfg(feature = "compute")]
pub use batch::{Batch, Drawn};
pub use items::TrainItem;
pub use job::TrainJob;
#[cfg(test)]
pub(crate) use job::tests;
pub use memory::Footprint;
pub use metrics::Measured;
#[cfg(feature = "compute")]
pub use objective::{Gradients, network, tracked};
pub use order::Turn;
#[cfg(feature = "compute")]
pub use parallel::Rank;
#[cfg(feature = "compute")]
pub use prompts::Prompt;
pub use rates::Rate;
#[cfg(feature = "compute")]
pub use run::train;
#[cfg(feature = "compute")]
pub use state::{Position, State};

/// The role of an epoch's adapter, in the place of an epoch's `weights`.
pub const ADAPTER: &str = "adapter";

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;
