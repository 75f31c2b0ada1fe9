//! Sampling: the schedule of sigmas, guided steps, and the images as files.

mod job;
pub mod parameters;
pub mod sigmas;

#[cfg(feature = "compute")]
mod draw;
#[cfg(feature = "compute")]
mod pixels;
#[cfg(feature = "compute")]
mod png;
#[cfg(feature = "compute")]
mod run;
#[cfg(feature = "compute")]
mod sheet;
#[cfg(feature = "compute")]
mod start;
#[cfg(feature = "compute")]
mod studio;

#[cfg(feature = "compute")]
pub use draw::{Guidance, Steps, draw};
pub use job::{SampleJob, Shot, ShotName, model};
#[cfg(feature = "compute")]
pub use pixels::to_rgb;
#[cfg(feature = "compute")]
pub use run::sample;

/// How many pixels wide a block is that is one pixel on the sheet: images are shown no wider than 384 there, since the files themselves
/// lie beside it.
pub(crate) fn shrink(width: usize) -> usize {
    width.div_ceil(384).max(1)
}

/// The role of the latents that a sample was decoded from.
pub const SAMPLE_LATENTS: &str = "sample-latents";

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 2;
