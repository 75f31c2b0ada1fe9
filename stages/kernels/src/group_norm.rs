//! A group norm over images, and the SiLU after it, in two passes over what goes in.

mod kernel;

use crate::vectors::EACH;
use burn::backend::{Backend, Dispatch, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};

/// Whether [`group_norm`] takes tensors of this type and with so many channels.
pub fn takes_groups(dtype: DType, channels: usize) -> bool {
    dtype == DType::BF16 && channels.is_multiple_of(EACH) && channels <= kernel::MOST_CHANNELS
}

/// `(x − mean)/√(variance + ε)·w + b` of `[B, C, H, W]`, where mean and variance are those of a group of neighbouring channels over all
/// pixels, and a weight and a bias `[C]`; with `silu` the result's `y·sigmoid(y)`. All are of bf16 and such as [`takes_groups`] allows;
/// inside it is f32, rounded once. It has no gradients.
///
/// Images whose channels lie next to each other, as a [`convolution`](fn@crate::convolution) leaves them, are read as they lie, and the
/// result lies so too.
pub fn group_norm(
    x_bchw: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    epsilon: f32,
    silu: bool,
) -> Tensor<4> {
    let (x, weight, bias) = (x_bchw.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::group_norm(x, weight, bias, groups, epsilon, silu))
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait GroupNormBackend: Backend {
    /// See [`group_norm`](fn@group_norm).
    #[fusion(dtype = x, shape = x)]
    fn group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> FloatTensor<Self>;
}

impl GroupNormBackend for CubeBackend {
    fn group_norm(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> CubeTensor {
        let x_bhwc = into_contiguous(Self::float_permute(x, &[0, 2, 3, 1]));
        let out = kernel::launch(x_bhwc, [weight, bias].map(into_contiguous), groups, epsilon, silu);
        Self::float_permute(out, &[0, 3, 1, 2])
    }
}
