//! A group norm over images, and the SiLU after it, in two passes over what goes in.

mod kernel;

use crate::vectors::EACH;
use burn::backend::{Backend, Dispatch, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{DType, Shape, Tensor};
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

/// Of each channel of `[B, C, H, W]` its means over strips of pixels, and the sums of the squares of what its values are apart from these,
/// `[2, B, strips, C]` in f32, with the number of each strip's pixels. The images are such as [`takes_groups`] allows; there are no gradients.
pub fn channel_moments(x_bchw: Tensor<4>) -> (Vec<usize>, Tensor<4>) {
    let [_, channels, height, width] = x_bchw.dims();
    let (strip, pixels) = (kernel::strip(channels), height * width);
    let counts = (0..pixels).step_by(strip).map(|first| strip.min(pixels - first)).collect();
    (counts, Tensor::from_dispatch(Dispatch::channel_moments(x_bchw.into_dispatch())))
}

/// The SiLU of `x·scale + shift` of `[B, C, H, W]` such as [`takes_groups`] allows, with a scale and a shift `[B, C]` in f32; rounded once.
/// It has no gradients, and the result lies as that of [`group_norm`](fn@group_norm).
pub fn scaled_silu(x_bchw: Tensor<4>, scale_bc: Tensor<2>, shift_bc: Tensor<2>) -> Tensor<4> {
    let (x, scale, shift) = (x_bchw.into_dispatch(), scale_bc.into_dispatch(), shift_bc.into_dispatch());
    Tensor::from_dispatch(Dispatch::scaled_silu(x, scale, shift))
}

fn shape_of_moments(x: &Shape) -> Shape {
    Shape::from([2, x[0], (x[2] * x[3]).div_ceil(kernel::strip(x[1])), x[1]])
}

/// Backends that have the operations.
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

    /// See [`channel_moments`](fn@channel_moments).
    #[fusion(dtype = DType::F32, shape = shape_of_moments(x))]
    fn channel_moments(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`scaled_silu`](fn@scaled_silu).
    #[fusion(dtype = x, shape = x)]
    fn scaled_silu(x: FloatTensor<Self>, scale: FloatTensor<Self>, shift: FloatTensor<Self>) -> FloatTensor<Self>;
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

    fn channel_moments(x: CubeTensor) -> CubeTensor {
        kernel::moments(&into_contiguous(Self::float_permute(x, &[0, 2, 3, 1])))
    }

    fn scaled_silu(x: CubeTensor, scale: CubeTensor, shift: CubeTensor) -> CubeTensor {
        let x_bhwc = into_contiguous(Self::float_permute(x, &[0, 2, 3, 1]));
        let out = kernel::scaled(x_bhwc, [scale, shift].map(into_contiguous), true);
        Self::float_permute(out, &[0, 3, 1, 2])
    }
}
