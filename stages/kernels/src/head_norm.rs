//! The RMS norm of attention heads, whose rows are short and need not lie one after the other.

mod kernel;

use crate::vectors::{EACH, PLANE, register};
use burn::backend::{
    Autodiff, Backend, Dispatch,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    backend_extension,
    tensor::FloatTensor,
};
use burn::tensor::{DType, Tensor};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// Whether [`head_norm`] takes tensors of this type and with rows of this width.
pub fn takes_heads(dtype: DType, width: usize) -> bool {
    let vectors = width / EACH;
    dtype == DType::BF16 && width.is_multiple_of(EACH) && vectors.is_power_of_two() && vectors <= PLANE as usize
}

/// `x·w/√(mean(x²) + ε)` over the last dimension, with the weight `[E]`; both are such as [`takes_heads`] allows, and inside it is f32,
/// rounded once. A view whose last dimension alone is contiguous is read as it lies.
pub fn head_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f32) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::head_norm(x.into_dispatch(), weight.into_dispatch(), epsilon))
}

/// Backends that have the operation.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait HeadNormBackend: Backend {
    /// See [`head_norm`](fn@head_norm).
    #[fusion(dtype = x, shape = x)]
    fn head_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

/// Backends that have its backward pass.
#[backend_extension(Cube, Fusion)]
pub trait HeadNormGradients: Backend {
    /// The gradients of `x` and of the weight from that of the [`head_norm`](fn@head_norm).
    #[fusion(meta = |x, weight, _, _| (x.clone(), weight.clone()))]
    fn head_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl HeadNormBackend for CubeBackend {
    fn head_norm(x: CubeTensor, weight: CubeTensor, epsilon: f32) -> CubeTensor {
        kernel::forward(x, weight, epsilon)
    }
}

impl HeadNormGradients for CubeBackend {
    fn head_norm_gradients(
        x: CubeTensor,
        weight: CubeTensor,
        gradient: CubeTensor,
        epsilon: f32,
    ) -> (CubeTensor, CubeTensor) {
        kernel::backward(x, weight, gradient, epsilon)
    }
}

#[derive(Debug)]
struct HeadNorm;

impl<B: HeadNormGradients> Backward<B, 2> for HeadNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, weight, epsilon) = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let (of_x, of_weight) = B::head_norm_gradients(x, weight, gradient, epsilon);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B, 2>(gradients, parents, [of_x, of_weight]);
    }
}

impl<B: HeadNormBackend + HeadNormGradients, C: CheckpointStrategy> HeadNormBackend for Autodiff<B, C> {
    fn head_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let prepared = HeadNorm.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let [x, weight] = [x, weight].map(|tensor| tensor.into_primitive());
        let out = B::head_norm(x.clone(), weight.clone(), epsilon);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, weight, epsilon), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_of_a_row_are_a_part_of_a_plane() {
        let taken = (0..400).filter(|width| takes_heads(DType::BF16, *width)).collect::<Vec<_>>();
        assert_eq!(taken, [8, 16, 32, 64, 128, 256]);
        assert!(!takes_heads(DType::F32, 64));
    }
}
