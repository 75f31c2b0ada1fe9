//! The product of two matrices, either of which may lie in memory across the summed dimension.

mod kernel;
mod tiling;

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
use burn::tensor::{Shape, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};

/// `left · right`: `[M, N]` of a left matrix `[M, K]` and a right matrix `[N, K]`, as a weight lies in a checkpoint. With `across`
/// the matrix lies the other way, `[K, M]` or `[K, N]`, and is read as it lies.
///
/// bf16 matrices on a GPU of Hopper's generation go through our own kernel, which sums in f32; all else through burn's product.
pub fn product(left: Tensor<2>, right: Tensor<2>, across: Across) -> Tensor<2> {
    let Across { left: left_across, right: right_across } = across;
    Tensor::from_dispatch(Dispatch::product(left.into_dispatch(), right.into_dispatch(), left_across, right_across))
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
}

fn shape_of(left: &Shape, right: &Shape, left_across: &bool, right_across: &bool) -> Shape {
    Shape::from([left[usize::from(*left_across)], right[usize::from(*right_across)]])
}

impl ProductBackend for CubeBackend {
    fn product(left: CubeTensor, right: CubeTensor, left_across: bool, right_across: bool) -> CubeTensor {
        let across = Across { left: left_across, right: right_across };
        let (left, right) = (into_contiguous(left), into_contiguous(right));
        match tiling::Tiling::of(&left, &right, across) {
            Some(tiling) => kernel::launch(left, right, across, tiling),
            None => {
                let left = if left_across { Self::float_transpose(left) } else { left };
                let right = if right_across { right } else { Self::float_transpose(right) };
                Self::float_matmul(left, right)
            }
        }
    }
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

impl<B: ProductBackend, C: CheckpointStrategy> ProductBackend for Autodiff<B, C> {
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
}
