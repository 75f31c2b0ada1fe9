//! GELU by its tanh approximation, in one pass each way.

mod kernel;

use crate::vectors::EACH;
use burn::backend::{
    Autodiff, Backend, Dispatch,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind, unary},
    },
    backend_extension,
    tensor::FloatTensor,
};
use burn::tensor::{DType, Tensor};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// Whether [`gelu`](fn@gelu) takes a tensor of this type, and of this many values or a multiple of them.
pub fn takes_values(dtype: DType, count: usize) -> bool {
    dtype == DType::BF16 && count.is_multiple_of(EACH)
}

/// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` in f32, rounded once; for tensors that [`takes_values`] allows.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::tanh_gelu(x.into_dispatch()))
}

/// Backends that have the operation.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait GeluBackend: Backend {
    /// See [`gelu`](fn@gelu).
    #[fusion(dtype = x, shape = x)]
    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Backends that have its backward pass.
#[backend_extension(Cube, Fusion)]
pub trait GeluGradients: Backend {
    /// The gradient of `x` from that of its [`gelu`](fn@gelu).
    #[fusion(dtype = x, shape = x)]
    fn tanh_gelu_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl GeluBackend for CubeBackend {
    fn tanh_gelu(x: CubeTensor) -> CubeTensor {
        kernel::forward(x)
    }
}

impl GeluGradients for CubeBackend {
    fn tanh_gelu_gradient(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        kernel::backward(x, gradient)
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: GeluGradients> Backward<B, 1> for Gelu {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| B::tanh_gelu_gradient(ops.state, gradient));
    }
}

impl<B: GeluBackend + GeluGradients, C: CheckpointStrategy> GeluBackend for Autodiff<B, C> {
    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = Gelu.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        let out = B::tanh_gelu(x.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(x, out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}
