//! A convolution over images by a kernel that is chosen beforehand.

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Shape, Tensor, ops::ConvOptions};
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// `[B, inputs, H, W]` to `[B, outputs, H', W']`, with a weight `[outputs, inputs, kernel, kernel]` and the same zeros on all sides.
/// It has no gradients.
///
/// burn measures its kernels against each other and keeps the fastest. Some of them can't be launched for large tiles, which shows
/// only later and makes them the fastest.
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

/// What burn would have done.
fn by_autotune(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, stride: usize, padding: usize) -> CubeTensor {
    use burn::backend::ops::ModuleOps;

    CubeBackend::conv2d(x, weight, Some(bias), ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}
