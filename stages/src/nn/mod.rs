//! The networks of Stable Diffusion 3, as plain structs of tensors built from named weights.
//!
//! Shapes are written as suffixes: B batch, C channels, H latent or image rows, W columns, N image tokens, S text tokens,
//! D features of a token, K attention heads, E features of a head.

pub mod activation;
pub mod attention;
pub mod clip;
pub mod convolution;
pub mod linear;
pub mod load;
pub(crate) mod low_rank;
pub mod mmdit;
pub(crate) mod moments;
pub mod norm;
pub(crate) mod split;
pub(crate) mod strip;
pub mod t5;
pub mod tokens;
pub mod vae;
pub mod weights;

mod save;

pub use clip::{Clip, ClipKind};
pub use load::{LoadError, load, load_each, load_some};
pub use mmdit::{Mmdit, PositionCrop};
pub use save::save;
pub use t5::{T5, T5Ends};
pub use tokens::TokenError;
pub use vae::{SCALE, SHIFT, VaeDecoder, VaeEncoder, process_in, process_out};
pub use weights::{Scope, Weight, Weights, WeightsError};

use crate::precision::Precision;
use burn::tensor::{DType, Tensor};

/// burn's name of a precision.
pub fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    }
}

/// A tensor's values on the host, row-major.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
