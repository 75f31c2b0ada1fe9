//! A layer norm and its modulation in one pass forward, and two kernels backward.

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

/// `(x − mean)/√(variance + ε)·(1 + scale) + shift` over the last dimension of `[B, N, D]`. The shift of a sample is the part of this
/// index, D wide, of its row in `modulation`, `[B, 1, P·D]`, and the scale the part after it.
///
/// Both are such as [`takes_rows`](crate::takes_rows) allows; inside it is f32, rounded once. For a backward pass the two are kept as they
/// came, and nothing else.
pub fn modulated_norm(x_bnd: Tensor<3>, modulation: Tensor<3>, part: usize, epsilon: f32) -> Tensor<3> {
    let [x, modulation] = [x_bnd, modulation].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::modulated_norm(x, modulation, part, epsilon))
}

/// Backends that have the operation.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait NormBackend: Backend {
    /// See [`modulated_norm`](fn@modulated_norm).
    #[fusion(dtype = x, shape = x)]
    fn modulated_norm(
        x: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        part: usize,
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

/// Backends that have its backward pass.
#[backend_extension(Cube, Fusion)]
pub trait NormGradients: Backend {
    /// The gradients of `x` and of the modulation from that of the [`modulated_norm`](fn@modulated_norm).
    #[fusion(meta = |x, modulation, _, _, _| (x.clone(), modulation.clone()))]
    fn modulated_norm_gradients(
        x: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        part: usize,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl NormBackend for CubeBackend {
    fn modulated_norm(x: CubeTensor, modulation: CubeTensor, part: usize, epsilon: f32) -> CubeTensor {
        kernel::forward(x, modulation, part, epsilon)
    }
}

impl NormGradients for CubeBackend {
    fn modulated_norm_gradients(
        x: CubeTensor,
        modulation: CubeTensor,
        gradient: CubeTensor,
        part: usize,
        epsilon: f32,
    ) -> (CubeTensor, CubeTensor) {
        kernel::backward(x, modulation, gradient, part, epsilon)
    }
}

#[derive(Debug)]
struct ModulatedNorm;

impl<B: NormGradients> Backward<B, 2> for ModulatedNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, usize, f32);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, modulation, part, epsilon) = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let (of_x, of_modulation) = B::modulated_norm_gradients(x, modulation, gradient, part, epsilon);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B, 2>(gradients, parents, [of_x, of_modulation]);
    }
}

impl<B: NormBackend + NormGradients, C: CheckpointStrategy> NormBackend for Autodiff<B, C> {
    fn modulated_norm(
        x: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        part: usize,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let prepared = ModulatedNorm.prepare::<C>([x.node(), modulation.node()]).compute_bound().stateful();
        let [x, modulation] = [x, modulation].map(|tensor| tensor.into_primitive());
        let out = B::modulated_norm(x.clone(), modulation.clone(), part, epsilon);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, modulation, part, epsilon), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}
