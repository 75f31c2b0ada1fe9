//! Running a pipeline: stage after stage, what is missing and nothing else, every result published under its key.

mod comparison;
mod deliver;
mod error;
mod events;
mod executor;
mod journal;
mod metrics;
mod parts;
mod shard;
mod space;
#[cfg(test)]
mod tests;

pub use comparison::{Compared, Comparison};
pub(crate) use deliver::put;
pub use error::RunError;
pub use executor::{Engine, Networks, Options, Runner};
pub use journal::{Journal, StageEntry, fetched, previous_keys, seconds_an_action, stages_of};
pub use shard::Shard;
pub use space::{NoRoom, free_bytes};
