//! Verdicts on checkpoints: what their samples, the data and the losses say of washed-out, blurred, copied, under- and over-fitted.

mod job;
mod judge;
pub mod likeness;
mod measure;
pub mod picture;
mod recommend;
#[cfg(test)]
mod tests;
pub mod verdict;

pub use job::{Results, Sources, VerdictsJob};
pub use recommend::recommend;
pub use verdict::{Checkpoint, Concern, Finding, Number, Pair, Verdict, Verdicts};

/// Raised by hand whenever equal samples, data and losses give other verdicts.
pub const REVISION: u32 = 2;
