//! What each stage of a pipeline does: captions, encoders, latents, training, export and sampling; and the networks behind them.
//!
//! A stage's parameters ([`stage`]) and what it reads make a [`job::Job`]: a list of keyed [`action::Action`]s. The runner looks up
//! which of them are missing and has the job carry those out. Without the feature `compute` everything but the networks is
//! there, which is enough to plan and to explain.

pub mod action;
pub mod adapter;
pub mod captions;
pub mod checkpoint;
pub mod device;
pub mod error;
pub mod export;
pub mod facts;
pub mod forecast;
pub mod images;
pub mod inspect;
pub mod job;
pub mod memory;
pub mod model;
#[cfg(feature = "compute")]
pub mod nn;
pub mod precision;
pub mod problem;
pub mod random;
pub mod report;
pub mod sample;
pub mod share;
#[cfg(feature = "compute")]
pub mod spread;
pub mod stage;
pub mod tensors;
pub mod text;
pub mod train;
pub mod work;
