//! Encoding images: buckets, decoding and resizing, the VAE, and the latents that training draws from.

pub mod bucket;
mod job;
pub mod parameters;
pub mod prepare;

#[cfg(feature = "compute")]
mod encode;
#[cfg(feature = "compute")]
mod latents;

#[cfg(feature = "compute")]
pub use encode::encode;
pub use job::ImagesJob;
#[cfg(feature = "compute")]
pub use latents::Latents;

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;
