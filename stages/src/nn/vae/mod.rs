//! The 16-channel VAE of Stable Diffusion 3 (Stability's `sd3_impls.py`): images to latents and back.

mod block;
mod decoder;
mod encoder;
mod piece;
mod room;

use burn::tensor::Tensor;

pub use decoder::VaeDecoder;
pub use encoder::VaeEncoder;

/// What raw latents are multiplied by to be of unit variance.
pub const SCALE: f64 = 1.5305;

/// The mean of raw latents.
pub const SHIFT: f64 = 0.0609;

/// Raw latents, as the encoder gives them, to those that the MMDiT works on: `(z - 0.0609)·1.5305`.
pub fn process_in(raw_bchw: Tensor<4>) -> Tensor<4> {
    (raw_bchw - SHIFT) * SCALE
}

/// Latents of the MMDiT to raw ones, as the decoder takes them: `z/1.5305 + 0.0609`.
pub fn process_out(latents_bchw: Tensor<4>) -> Tensor<4> {
    latents_bchw / SCALE + SHIFT
}
