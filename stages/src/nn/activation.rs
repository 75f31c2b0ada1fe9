//! The activation functions that the networks were trained with.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
pub use burn::tensor::activation::{gelu, silu};

/// GELU by its tanh approximation, "gelu_new" in T5: `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
///
/// Written as `x·sigmoid(2u)`, which is the same, and x³ as a product: burn's own form takes a general power.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cuda")]
    if sd3pipe_kernels::takes_values(x.dtype(), x.dims()[D - 1]) && crate::device::is_gpu(&x.device()) {
        return sd3pipe_kernels::gelu(x);
    }
    const TWICE_SQRT_2_OVER_PI: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    let squared = x.clone() * x.clone();
    let inner = x.clone() * (squared * (0.044715 * TWICE_SQRT_2_OVER_PI) + TWICE_SQRT_2_OVER_PI);
    x * sigmoid(inner)
}

/// The approximation `x·sigmoid(1.702·x)` that OpenAI's CLIP was trained with.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * sigmoid(x * 1.702)
}
