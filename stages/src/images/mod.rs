//! The `EncodeImages` stage: from image files to latents of the VAE.

pub mod alike;
pub mod bucket;
pub mod decode;
pub mod fault;
mod job;
mod mask;
pub mod parameters;
pub mod prepare;
mod whole;

#[cfg(feature = "compute")]
mod encode;
#[cfg(feature = "compute")]
mod latents;

#[cfg(feature = "compute")]
pub use encode::{encode, planes};
pub use job::{Files, ImagesJob, Made, Picture};
#[cfg(feature = "compute")]
pub use latents::Latents;
pub use mask::{Mask, TENSOR as MASK_TENSOR};

/// Raised by hand whenever equal images and parameters give other latents; a golden test holds it to that.
pub const REVISION: u32 = 1;

/// The same of masks.
pub const MASK_REVISION: u32 = 1;

/// The role of an image's latents.
pub const LATENTS: &str = "latents";
/// The role of the latents of an image that is mirrored left to right.
pub const FLIPPED: &str = "flipped";
/// The role of the mask that belongs to an image's latents.
pub const MASK: &str = "mask";
/// The role of the mask that belongs to the flipped latents.
pub const FLIPPED_MASK: &str = "flipped_mask";
