//! Where a backward pass begins that goes on from the gradient of another.

use burn::backend::{
    Autodiff, Backend, Dispatch, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    backend_extension,
    ops::FloatTensorOps,
    tensor::FloatTensor,
};
use burn::tensor::{Shape, Tensor};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// A number, `[1]`, whose gradient by `output` is `gradient`. Its value is 0 and means nothing, and neither does what is done to it after.
pub fn along<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::along(output.into_dispatch(), gradient.into_dispatch()))
}

/// Backends that have the operation.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait SeedBackend: Backend {
    /// See [`along`](fn@along).
    #[fusion(dtype = output, shape = Shape::from([1]))]
    fn along(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl SeedBackend for CubeBackend {
    fn along(output: CubeTensor, _gradient: CubeTensor) -> CubeTensor {
        let dtype = output.dtype().into();
        Self::float_zeros(Shape::from([1]), &output.device, dtype)
    }
}

#[derive(Debug)]
struct Along;

impl<B: Backend> Backward<B, 1> for Along {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        gradients.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            gradients.register::<B>(parent.id, ops.state);
        }
    }
}

impl<B: SeedBackend, C: CheckpointStrategy> SeedBackend for Autodiff<B, C> {
    fn along(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = Along.prepare::<C>([output.node()]).compute_bound().stateful();
        let (output, gradient) = (output.into_primitive(), gradient.into_primitive());
        let out = B::along(output, gradient.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(gradient, out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}
