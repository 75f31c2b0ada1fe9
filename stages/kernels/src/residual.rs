//! A gated residual in one pass each way.

mod kernel;

use crate::vectors::register;
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
use burn::tensor::Tensor;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// `x + gate·y` of `[B, N, D]`, where the gate of a sample is the part of this index, D wide, of its row in `modulation`, `[B, 1, P·D]`.
///
/// All are such as [`takes_rows`](crate::takes_rows) allows; inside it is f32, rounded once.
pub fn gated_residual(x_bnd: Tensor<3>, y_bnd: Tensor<3>, modulation: Tensor<3>, part: usize) -> Tensor<3> {
    let [x, y, modulation] = [x_bnd, y_bnd, modulation].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::gated_residual(x, y, modulation, part))
}

/// Backends that have the operation.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait ResidualBackend: Backend {
    /// See [`gated_residual`](fn@gated_residual).
    #[fusion(dtype = x, shape = x)]
    fn gated_residual(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        part: usize,
    ) -> FloatTensor<Self>;
}

/// Backends that have its backward pass.
#[backend_extension(Cube, Fusion)]
pub trait ResidualGradients: Backend {
    /// The gradients of `y` and of the modulation from that of the [`gated_residual`](fn@gated_residual), which is `x`'s own.
    #[fusion(meta = |y, modulation, _, _| (y.clone(), modulation.clone()))]
    fn gated_residual_gradients(
        y: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        part: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl ResidualBackend for CubeBackend {
    fn gated_residual(x: CubeTensor, y: CubeTensor, modulation: CubeTensor, part: usize) -> CubeTensor {
        kernel::forward(x, y, modulation, part)
    }
}

impl ResidualGradients for CubeBackend {
    fn gated_residual_gradients(
        y: CubeTensor,
        modulation: CubeTensor,
        gradient: CubeTensor,
        part: usize,
    ) -> (CubeTensor, CubeTensor) {
        kernel::backward(y, modulation, gradient, part)
    }
}

#[derive(Debug)]
struct GatedResidual;

impl<B: ResidualGradients> Backward<B, 3> for GatedResidual {
    type State = (Option<FloatTensor<B>>, FloatTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (y, modulation, part) = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        // Only the modulation's gradient depends on y: where nobody asks for it, y was not kept, and anything does in its place.
        let y = y.unwrap_or_else(|| gradient.clone());
        let (of_y, of_modulation) = B::gated_residual_gradients(y, modulation, gradient.clone(), part);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B, 3>(gradients, parents, [gradient, of_y, of_modulation]);
    }
}

impl<B: ResidualBackend + ResidualGradients, C: CheckpointStrategy> ResidualBackend for Autodiff<B, C> {
    fn gated_residual(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        part: usize,
    ) -> FloatTensor<Self> {
        let kept = modulation.is_tracked().then(|| y.primitive().clone());
        let nodes = [x.node(), y.node(), modulation.node()];
        let prepared = GatedResidual.prepare::<C>(nodes).compute_bound().stateful();
        let [x, y, modulation] = [x, y, modulation].map(|tensor| tensor.into_primitive());
        let out = B::gated_residual(x, y, modulation.clone(), part);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((kept, modulation, part), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}
