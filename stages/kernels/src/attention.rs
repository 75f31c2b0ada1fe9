//! Attention without a tape, by the kernel that a backward pass can follow.

mod kernel;

use burn::backend::{
    Backend, Dispatch, backend_extension,
    ops::{FloatTensorOps, ModuleOps},
    tensor::FloatTensor,
};
use burn::tensor::{Shape, Tensor, ops::AttentionModuleOptions};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// `softmax(q·kᵀ/√E)·v` of `[B, K, S, E]`; with `causal` a query sees its own key and those before it alone.
///
/// burn's kernels for inference hold the scores of all queries and keys at once where the number of queries isn't a multiple of
/// their tiles; this one never does.
pub fn attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, causal: bool) -> Tensor<4> {
    let [q, k, v] = [q_bkse, k_bkse, v_bkse].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::attend(q, k, v, causal))
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait AttentionBackend: Backend {
    /// See [`attention`](fn@attention).
    #[fusion(dtype = q, shape = shape_of(q, v))]
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, causal: bool) -> FloatTensor<Self>;
}

fn shape_of(q: &Shape, v: &Shape) -> Shape {
    Shape::from([q[0], q[1], q[2], v[3]])
}

impl AttentionBackend for CubeBackend {
    fn attend(q: CubeTensor, k: CubeTensor, v: CubeTensor, causal: bool) -> CubeTensor {
        if kernel::takes(&q, &k, &v) {
            return Self::float_swap_dims(kernel::launch(q, k, v, causal).0, 1, 2);
        }
        let options = AttentionModuleOptions { is_causal: causal, ..Default::default() };
        Self::attention_with_logsumexp(q, k, v, options).0
    }
}
