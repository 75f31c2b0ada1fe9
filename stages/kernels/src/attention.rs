//! Attention without a tape, by the kernel that a backward pass can follow.

mod kernel;

use burn::backend::{
    Backend, Dispatch, backend_extension,
    ops::{FloatTensorOps, ModuleOps},
    tensor::FloatTensor,
};
use burn::tensor::{DType, Shape, Tensor, ops::AttentionModuleOptions};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};

/// `softmax(scale·q·kᵀ)·v` of `[B, K, S, E]`, with a scale of 1/√E; with `causal` a query sees its own key and those before it alone.
///
/// burn's kernels for inference hold the scores of all queries and keys at once where the number of queries isn't a multiple of
/// their tiles; this one never does. It has no gradients.
pub fn attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, causal: bool) -> Tensor<4> {
    let [q, k, v] = [q_bkse, k_bkse, v_bkse].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::attend(q, k, v, causal))
}

/// `softmax(q·kᵀ + bias)·v` of `[B, K, S, E]` with a bias `[1 or B, K, S, S]` in f32 and no scale. It has no gradients.
pub fn biased_attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, bias_bkss: Tensor<4>) -> Tensor<4> {
    let [q, k, v, bias] = [q_bkse, k_bkse, v_bkse, bias_bkss].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::attend_biased(q, k, v, bias))
}

/// Backends that have the operations.
#[backend_extension(Cube, Fusion)]
pub trait AttentionBackend: Backend {
    /// See [`attention`](fn@attention).
    #[fusion(dtype = q, shape = shape_of(q, v))]
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, causal: bool) -> FloatTensor<Self>;

    /// See [`biased_attention`].
    #[fusion(dtype = q, shape = shape_of(q, v))]
    fn attend_biased(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

fn shape_of(q: &Shape, v: &Shape) -> Shape {
    Shape::from([q[0], q[1], q[2], v[3]])
}

impl AttentionBackend for CubeBackend {
    fn attend(q: CubeTensor, k: CubeTensor, v: CubeTensor, causal: bool) -> CubeTensor {
        if kernel::takes(&q, &k, &v) {
            let scale = (q.meta.shape()[3] as f32).sqrt().recip();
            return Self::float_swap_dims(kernel::launch(q, k, v, None, scale, causal).0, 1, 2);
        }
        let options = AttentionModuleOptions { is_causal: causal, ..Default::default() };
        Self::attention_with_logsumexp(q, k, v, options).0
    }

    fn attend_biased(q: CubeTensor, k: CubeTensor, v: CubeTensor, bias: CubeTensor) -> CubeTensor {
        if kernel::takes(&q, &k, &v) && bias.dtype == DType::F32 {
            let bias = into_contiguous(bias);
            return Self::float_swap_dims(kernel::launch(q, k, v, Some(bias), 1.0, false).0, 1, 2);
        }
        let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
        let bias = Self::float_cast(bias, q.dtype.into());
        Self::attention(q, k, v, None, Some(bias), options)
    }
}
