//! The product of two matrices, either of which may lie in memory across the summed dimension, and the linear layer.

mod kernel;
mod left;
mod tiling;

use crate::columns::ColumnsBackend;
use burn::backend::{
    Autodiff, Backend, Dispatch,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind, binary},
    },
    backend_extension,
    ops::FloatTensorOps,
    tensor::FloatTensor,
};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};

/// `left · right`: `[M, N]` of a left matrix `[M, K]` and a right matrix `[N, K]`, as a weight lies in a checkpoint. With `across`
/// the matrix lies the other way, `[K, M]` or `[K, N]`, and is read as it lies.
///
/// bf16 matrices on a GPU of Hopper's generation go through our own kernel, which sums in f32; all else through burn's product.
pub fn product(left: Tensor<2>, right: Tensor<2>, across: Across) -> Tensor<2> {
    let Across { left: left_across, right: right_across } = across;
    Tensor::from_dispatch(Dispatch::product(left.into_dispatch(), right.into_dispatch(), left_across, right_across))
}

/// `x·Wᵀ + b`, `[M, N]`, of `[M, K]`, a weight `[N, K]` and a bias `[N]`: a [`product`](fn@product) that is rounded once, after the bias.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::biased_product(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()))
}

/// Which matrices of a product lie across the summed dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Across {
    /// The left matrix is `[K, M]`.
    pub left: bool,
    /// The right matrix is `[K, N]`.
    pub right: bool,
}

/// Backends that have the operation.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait ProductBackend: Backend {
    /// See [`product`](fn@product).
    #[fusion(dtype = left, shape = shape_of(left, right, left_across, right_across))]
    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left_across: bool,
        right_across: bool,
    ) -> FloatTensor<Self>;

    /// See [`linear`](fn@linear).
    #[fusion(dtype = x, shape = shape_of(x, weight, &false, &false))]
    fn biased_product(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn shape_of(left: &Shape, right: &Shape, left_across: &bool, right_across: &bool) -> Shape {
    Shape::from([left[usize::from(*left_across)], right[usize::from(*right_across)]])
}

impl ProductBackend for CubeBackend {
    fn product(left: CubeTensor, right: CubeTensor, left_across: bool, right_across: bool) -> CubeTensor {
        let across = Across { left: left_across, right: right_across };
        let (left, right) = (into_contiguous(left), into_contiguous(right));
        match tiling::Tiling::of(&left, &right, across) {
            Some(tiling) => kernel::launch(left, right, None, None, across, tiling),
            None => {
                let left = if left_across { Self::float_transpose(left) } else { left };
                let right = if right_across { right } else { Self::float_transpose(right) };
                Self::float_matmul(left, right)
            }
        }
    }

    fn biased_product(x: CubeTensor, weight: CubeTensor, bias: CubeTensor) -> CubeTensor {
        linear_onto(x, weight, bias, None)
    }
}

/// A [`linear`] layer whose result is added to a matrix `[M, N]` before it is rounded. It has no gradients.
pub(crate) fn linear_onto(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, onto: Option<CubeTensor>) -> CubeTensor {
    let across = Across::default();
    let [x, weight, bias] = [x, weight, bias].map(into_contiguous);
    match tiling::Tiling::of(&x, &weight, across) {
        Some(tiling) if bias.dtype == DType::BF16 => {
            kernel::launch(x, weight, Some(bias), onto.map(into_contiguous), across, tiling)
        }
        _ => {
            let bias = CubeBackend::float_reshape(bias, Shape::from([1, weight.meta.shape()[0]]));
            let out = CubeBackend::float_add(CubeBackend::product(x, weight, false, false), bias);
            onto.into_iter().fold(out, CubeBackend::float_add)
        }
    }
}

/// How the patches that are multiplied lie in an image.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    /// Rows and columns of a patch.
    pub(crate) kernel: usize,
    /// Pixels from one patch to the next.
    pub(crate) stride: usize,
    /// Pixels from the image's first corner back to the first patch's, down and across.
    pub(crate) before: [usize; 2],
    /// Patches down and across.
    pub(crate) output: [usize; 2],
    /// If what comes out are every other pixel of every other line of a larger image: which pixel of it is the first.
    pub(crate) corner: Option<usize>,
}

/// [`linear_onto`] of the patches of contiguous `[B, H, W, C]`, which never are in memory: written to a matrix that has a row for each
/// pixel of what comes out. Says whether our kernel can compute it.
pub(crate) fn patches_onto(
    image: &CubeTensor,
    weight: &CubeTensor,
    bias: &CubeTensor,
    onto: Option<&CubeTensor>,
    out: &CubeTensor,
    window: Window,
) -> bool {
    let rows = image.meta.shape()[0] * window.output[0] * window.output[1];
    let tiling = tiling::Tiling::of_patches(image, weight, rows, window.kernel * window.kernel);
    let of_bf16 = [Some(bias), onto].into_iter().flatten().all(|added| added.dtype == DType::BF16);
    if let Some(tiling) = tiling.filter(|_| of_bf16) {
        let added = [Some(bias.clone()), onto.cloned()];
        kernel::launch_patches(image.clone(), weight.clone(), added, out.clone(), window, tiling);
    }
    tiling.is_some() && of_bf16
}

#[derive(Debug)]
struct Product;

impl<B: ProductBackend> Backward<B, 2> for Product {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>, Across);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (left, right, across) = ops.state;
        // Each gradient is a product of what is there with the other matrix, laid out as its own matrix is.
        let of_left = |out: FloatTensor<B>| match (right, across.left) {
            (None, _) => out,
            (Some(right), false) => B::product(out, right, false, !across.right),
            (Some(right), true) => B::product(right, out, !across.right, false),
        };
        let of_right = |out: FloatTensor<B>| match (left, across.right) {
            (None, _) => out,
            (Some(left), false) => B::product(out, left, true, !across.left),
            (Some(left), true) => B::product(left, out, !across.left, true),
        };
        binary::<B, _, _>(ops.parents, ops.node, gradients, of_left, of_right);
    }
}

#[derive(Debug)]
struct Linear;

impl<B: ProductBackend + ColumnsBackend> Backward<B, 3> for Linear {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, weight) = ops.state;
        let of_out = gradients.consume::<B>(&ops.node);
        let [of_x, of_weight, of_bias] = ops.parents;
        if let (Some(node), Some(weight)) = (of_x, weight) {
            gradients.register::<B>(node.id, B::product(of_out.clone(), weight, false, true));
        }
        if let (Some(node), Some(x)) = (of_weight, x) {
            gradients.register::<B>(node.id, B::product(of_out.clone(), x, true, true));
        }
        if let Some(node) = of_bias {
            gradients.register::<B>(node.id, B::column_sum(of_out));
        }
    }
}

impl<B: ProductBackend + ColumnsBackend, C: CheckpointStrategy> ProductBackend for Autodiff<B, C> {
    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left_across: bool,
        right_across: bool,
    ) -> FloatTensor<Self> {
        let across = Across { left: left_across, right: right_across };
        let kept_left = right.is_tracked().then(|| left.primitive().clone());
        let kept_right = left.is_tracked().then(|| right.primitive().clone());
        let prepared = Product.prepare::<C>([left.node(), right.node()]).compute_bound().stateful();
        let out = B::product(left.into_primitive(), right.into_primitive(), left_across, right_across);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((kept_left, kept_right, across), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn biased_product(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let kept_x = weight.is_tracked().then(|| x.primitive().clone());
        let kept_weight = x.is_tracked().then(|| weight.primitive().clone());
        let prepared = Linear.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
        let out = B::biased_product(x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((kept_x, kept_weight), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}
