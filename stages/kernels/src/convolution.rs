//! A convolution over images as a matrix product of its patches.

mod fold;
mod patches;

use crate::product::{Window, linear_onto, patches_onto};
use crate::vectors::{EACH, empty_like};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};

/// How a convolution goes over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Pixels from one place to the next.
    pub stride: usize,
    /// Zeros above and to the left.
    pub before: usize,
    /// Zeros below and to the right; not fewer.
    pub after: usize,
    /// Each pixel counts as a square of so many on a side.
    pub scale: usize,
}

/// `[B, inputs, H, W]` to `[B, outputs, H', W']`, with a weight `[outputs, inputs, kernel, kernel]`; it may be added `onto` another
/// image, before it is rounded. It has no gradients.
///
/// In bf16 it goes through our own product, and the result lies with its channels next to each other; all else goes through burn's
/// kernels, by one that is chosen beforehand: burn measures its kernels against each other and keeps the fastest, and some of them can't
/// be launched for large tiles, which shows only later and makes them the fastest.
pub fn convolution(
    x_bchw: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    onto: Option<Tensor<4>>,
    walk: Walk,
) -> Tensor<4> {
    let Walk { stride, before, after, scale } = walk;
    if x_bchw.dtype() != DType::BF16 {
        let options = InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([scale as f32; 2]);
        let x = if scale > 1 { interpolate(x_bchw, options) } else { x_bchw };
        let more = after - before;
        let x = if more > 0 { x.pad((0, more, 0, more), 0.0) } else { x };
        let [x, weight] = [x, weight].map(Tensor::into_dispatch);
        let out = Tensor::from_dispatch(Dispatch::convolve_by_burn(x, weight, bias.into_dispatch(), stride, before));
        return onto.into_iter().fold(out, |out, onto| onto + out);
    }
    let outputs = weight.dims()[0];
    let [x, weight] = [in_eights(x_bchw, 1), in_eights(in_eights(weight, 0), 1)].map(Tensor::into_dispatch);
    let bias = in_eights(bias, 0).into_dispatch();
    let out = Tensor::from_dispatch(match onto {
        Some(onto) => Dispatch::convolve_onto(x, weight, bias, in_eights(onto, 1).into_dispatch(), walk),
        None => Dispatch::convolve(x, weight, bias, walk),
    });
    if out.dims()[1] == outputs { out } else { out.narrow(1, 0, outputs) }
}

/// With zeros after what is there, so that vectors divide the dimension.
fn in_eights<const D: usize>(tensor: Tensor<D>, dimension: usize) -> Tensor<D> {
    let mut shape = tensor.dims();
    shape[dimension] = shape[dimension].next_multiple_of(EACH) - shape[dimension];
    if shape[dimension] == 0 {
        return tensor;
    }
    let zeros = Tensor::zeros(shape, (&tensor.device(), tensor.dtype()));
    Tensor::cat(vec![tensor, zeros], dimension)
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait ConvolutionBackend: Backend {
    /// See [`convolution`](fn@convolution); of bf16, with channels in eights.
    #[fusion(dtype = x, shape = shape_of(x, weight, walk))]
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        walk: Walk,
    ) -> FloatTensor<Self>;

    /// The same added to another image.
    #[fusion(dtype = x, shape = onto)]
    fn convolve_onto(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        onto: FloatTensor<Self>,
        walk: Walk,
    ) -> FloatTensor<Self>;

    /// The same by burn's kernels, with the same zeros on all sides.
    #[fusion(dtype = x, shape = shape_of(x, weight, &Walk { stride: *stride, before: *padding, after: *padding, scale: 1 }))]
    fn convolve_by_burn(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;
}

fn shape_of(x: &Shape, weight: &Shape, walk: &Walk) -> Shape {
    let whole = |side: usize| side * walk.scale + walk.before + walk.after;
    let side = |dimension: usize| (whole(x[dimension]) - weight[dimension]) / walk.stride + 1;
    Shape::from([x[0], weight[0], side(2), side(3)])
}

impl ConvolutionBackend for CubeBackend {
    fn convolve(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, walk: Walk) -> CubeTensor {
        by_product(x, weight, bias, None, walk)
    }

    fn convolve_onto(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, onto: CubeTensor, walk: Walk) -> CubeTensor {
        by_product(x, weight, bias, Some(onto), walk)
    }

    fn convolve_by_burn(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        stride: usize,
        padding: usize,
    ) -> CubeTensor {
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

/// By a product of patches with the weight.
fn by_product(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, onto: Option<CubeTensor>, walk: Walk) -> CubeTensor {
    let shape = shape_of(&x.shape(), &weight.shape(), &walk);
    let [outputs, inputs, kernel, _] = [0, 1, 2, 3].map(|dimension| weight.meta.shape()[dimension]);
    let pixels = shape[0] * shape[2] * shape[3];
    let last = |tensor| into_contiguous(CubeBackend::float_permute(tensor, &[0, 2, 3, 1]));
    let flat = |tensor, rows, columns| CubeBackend::float_reshape(tensor, Shape::from([rows, columns]));
    let (x_bhwc, weight) = (last(x), flat(last(weight), outputs, kernel * kernel * inputs));
    let (bias, onto) = (into_contiguous(bias), onto.map(|onto| flat(last(onto), pixels, outputs)));
    let out = if kernel == 1 && walk.stride == 1 && walk.scale == 1 {
        // A pixel is its own patch.
        linear_onto(flat(x_bhwc, pixels, inputs), weight, bias, onto)
    } else {
        let window = Window {
            kernel,
            stride: walk.stride,
            before: [walk.before; 2],
            output: [shape[2], shape[3]],
            corner: None,
        };
        let out = empty_like(&x_bhwc, Shape::from([pixels, outputs]), DType::BF16);
        let doubles = (kernel, walk) == (3, Walk { stride: 1, before: 1, after: 1, scale: 2 }) && onto.is_none();
        let done = match walk.scale {
            1 => patches_onto(&x_bhwc, &weight, &bias, onto.as_ref(), &out, window),
            _ => doubles && doubled(&x_bhwc, &weight, &bias, &out),
        };
        if done { out } else { by_patches(&x_bhwc, weight, bias, onto, window, walk.scale) }
    };
    let out = CubeBackend::float_reshape(out, Shape::from([shape[0], shape[2], shape[3], outputs]));
    CubeBackend::float_permute(out, &[0, 3, 1, 2])
}

/// A convolution by 3×3 of an image twice as large, each of whose pixels is repeated, as four by 2×2 of the image itself: one for each
/// pixel of a square. Says whether our kernel can compute them.
fn doubled(x_bhwc: &CubeTensor, weight: &CubeTensor, bias: &CubeTensor, out: &CubeTensor) -> bool {
    let [height, width] = [1, 2].map(|dimension| x_bhwc.meta.shape()[dimension]);
    let outputs = weight.meta.shape()[0];
    let folded = fold::launch(weight);
    [[0, 0], [0, 1], [1, 0], [1, 1]].into_iter().enumerate().all(|(index, [below, beside])| {
        let window = Window {
            kernel: 2,
            stride: 1,
            before: [1 - below, 1 - beside],
            output: [height, width],
            corner: Some(below * 2 * width + beside),
        };
        let rows = index * outputs..(index + 1) * outputs;
        let weight = CubeBackend::float_slice(folded.clone(), &[rows.into()]);
        patches_onto(x_bhwc, &weight, bias, None, out, window)
    })
}

/// With the patches laid out in memory, some at a time.
fn by_patches(
    x_bhwc: &CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    onto: Option<CubeTensor>,
    window: Window,
    scale: usize,
) -> CubeTensor {
    let pixels = x_bhwc.meta.shape()[0] * window.output[0] * window.output[1];
    let at_once = (MOST_BYTES / (2 * weight.meta.shape()[1])).max(1);
    let parts = (0..pixels).step_by(at_once).map(|first| {
        let rows = first..pixels.min(first + at_once);
        let patches = patches::launch(x_bhwc, window, scale, rows.clone());
        let onto = onto.clone().map(|onto| CubeBackend::float_slice(onto, &[rows.into()]));
        linear_onto(patches, weight.clone(), bias.clone(), onto)
    });
    CubeBackend::float_cat(parts.collect(), 0)
}

/// What burn would have done.
fn by_autotune(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, stride: usize, padding: usize) -> CubeTensor {
    use burn::backend::ops::ModuleOps;

    CubeBackend::conv2d(x, weight, Some(bias), ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}
