//! A convolution over images as a matrix product of its patches.

mod patches;

use crate::product::ProductBackend;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{DType, Shape, Tensor, ops::ConvOptions};
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use patches::Walk;

/// `[B, inputs, H, W]` to `[B, outputs, H', W']`, with a weight `[outputs, inputs, kernel, kernel]` and the same zeros on all sides.
/// It has no gradients.
///
/// In bf16, with channels in eights, it goes through our own product; all else through burn's kernels, by one that is chosen beforehand: burn
/// measures its kernels against each other and keeps the fastest, and some of them can't be launched for large tiles, which shows only
/// later and makes them the fastest.
pub fn convolution(x_bchw: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize, padding: usize) -> Tensor<4> {
    let [x, weight] = [x_bchw, weight].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::convolve(x, weight, bias.into_dispatch(), stride, padding))
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait ConvolutionBackend: Backend {
    /// See [`convolution`](fn@convolution).
    #[fusion(dtype = x, shape = shape_of(x, weight, *stride, *padding))]
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;
}

fn shape_of(x: &Shape, weight: &Shape, stride: usize, padding: usize) -> Shape {
    let side = |dimension: usize| (x[dimension] + 2 * padding - weight[dimension]) / stride + 1;
    Shape::from([x[0], weight[0], side(2), side(3)])
}

impl ConvolutionBackend for CubeBackend {
    fn convolve(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, stride: usize, padding: usize) -> CubeTensor {
        let in_eights = weight.meta.shape()[..2].iter().all(|channels| channels.is_multiple_of(8));
        if x.dtype == DType::BF16 && in_eights {
            return by_product(x, weight, bias, stride, padding);
        }
        let by = |strategy| {
            let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
            conv_forward(x.clone(), weight.clone(), Some(bias.clone()), options, strategy)
        };
        // The products of a convolution round f32 to TF32, whatever a process is told of products.
        let by_products = if x.dtype == DType::F32 { ConvStrategy::Direct } else { ConvStrategy::ImplicitGemm };
        by(by_products)
            .or_else(|_| by(ConvStrategy::Direct))
            .unwrap_or_else(|_| by_autotune(x.clone(), weight.clone(), bias.clone(), stride, padding))
    }
}

/// The most bytes of patches that are laid out at once.
const MOST_BYTES: usize = 512 << 20;

/// By a product of patches with the weight. The result lies with its channels next to each other.
fn by_product(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, stride: usize, padding: usize) -> CubeTensor {
    let shape = shape_of(&x.shape(), &weight.shape(), stride, padding);
    let [outputs, inputs, kernel, _] = [0, 1, 2, 3].map(|dimension| weight.meta.shape()[dimension]);
    let last = |tensor, axes: &[usize]| into_contiguous(CubeBackend::float_permute(tensor, axes));
    let x_bhwc = last(x, &[0, 2, 3, 1]);
    let weight = last(weight, &[0, 2, 3, 1]);
    let weight = CubeBackend::float_reshape(weight, Shape::from([outputs, kernel * kernel * inputs]));
    let walk = Walk { kernel, stride, padding, output: [shape[2], shape[3]] };
    let pixels = shape[0] * shape[2] * shape[3];
    let at_once = (MOST_BYTES / (2 * kernel * kernel * inputs)).max(1);
    let out = if kernel == 1 && stride == 1 {
        // A pixel is its own patch.
        CubeBackend::biased_product(CubeBackend::float_reshape(x_bhwc, Shape::from([pixels, inputs])), weight, bias)
    } else {
        let parts = (0..pixels).step_by(at_once).map(|first| {
            let patches = patches::launch(&x_bhwc, walk, first, at_once.min(pixels - first));
            CubeBackend::biased_product(patches, weight.clone(), bias.clone())
        });
        CubeBackend::float_cat(parts.collect(), 0)
    };
    let out = CubeBackend::float_reshape(out, Shape::from([shape[0], shape[2], shape[3], outputs]));
    CubeBackend::float_permute(out, &[0, 3, 1, 2])
}

/// What burn would have done.
fn by_autotune(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, stride: usize, padding: usize) -> CubeTensor {
    use burn::backend::ops::ModuleOps;

    CubeBackend::conv2d(x, weight, Some(bias), ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}
