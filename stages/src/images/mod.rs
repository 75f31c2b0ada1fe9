//! The `EncodeImages` stage: from image files to latents of the VAE.

pub mod bucket;
pub mod decode;
pub mod fault;
pub mod parameters;
pub mod prepare;
mod whole;

/// Raised by hand whenever equal images and parameters give other latents; a golden test holds it to that.
pub const REVISION: u32 = 1;
