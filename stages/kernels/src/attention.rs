//! The attention of tokens to each other, with its backward pass; the scores of all queries and keys are never in memory at once.

mod backward;
mod exact;
mod forward;
mod ring;
mod tensor;

use burn::backend::{
    Autodiff, Backend, Dispatch,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind, unary},
    },
    backend_extension,
    fusion::custom::TensorSpec,
    ops::{FloatTensorOps, ModuleOps},
    tensor::FloatTensor,
};
use burn::tensor::{DType, Shape, Tensor, ops::AttentionModuleOptions};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};

/// `softmax(q·kᵀ/√E)·v`, `[B, S, D]`, of queries, keys and values one after the other, `[B, S, 3·D]`, each of all heads one after the
/// other; with `causal` a query sees its own key and those before it alone.
///
/// bf16 with heads of 64 features goes through our own kernels on a GPU of Hopper's generation, f32 through products; all else through
/// burn's.
pub fn attention(qkv_bsd: Tensor<3>, heads: usize, causal: bool) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::attend(qkv_bsd.into_dispatch(), heads, causal))
}

/// `softmax(q·kᵀ + bias)·v`, laid out as in [`attention`](fn@attention), with a bias `[1 or B, K, S, S]` in f32 and no scale. It has no
/// gradients.
pub fn biased_attention(qkv_bsd: Tensor<3>, bias_bkss: Tensor<4>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::attend_biased(qkv_bsd.into_dispatch(), bias_bkss.into_dispatch()))
}

/// Backends that have the operation.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait AttentionBackend: Backend {
    /// See [`attention`](fn@attention).
    #[fusion(dtype = qkv, shape = shape_of(qkv))]
    fn attend(qkv: FloatTensor<Self>, heads: usize, causal: bool) -> FloatTensor<Self>;
}

/// Backends that have what it is made of.
#[backend_extension(Cube, Fusion)]
pub trait AttentionPasses: Backend {
    /// The output, and the logarithm of each query's sum of exponentials, `[B, K, S]`.
    #[fusion(meta = forward_specs)]
    fn attend_forward(qkv: FloatTensor<Self>, heads: usize, causal: bool) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of `qkv` from the output's, with what the forward pass gave.
    #[fusion(dtype = qkv, shape = qkv.clone())]
    fn attend_backward(
        qkv: FloatTensor<Self>,
        out: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        of_out: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self>;

    /// See [`biased_attention`].
    #[fusion(dtype = qkv, shape = shape_of(qkv))]
    fn attend_biased(qkv: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn shape_of(qkv: &Shape) -> Shape {
    Shape::from([qkv[0], qkv[1], qkv[2] / 3])
}

fn forward_specs(qkv: &TensorSpec, heads: &usize, _causal: &bool) -> (TensorSpec, TensorSpec) {
    let sums = Shape::from([qkv.shape[0], *heads, qkv.shape[1]]);
    (TensorSpec { shape: shape_of(&qkv.shape), ..qkv.clone() }, TensorSpec { shape: sums, dtype: DType::F32 })
}

impl AttentionBackend for CubeBackend {
    fn attend(qkv: CubeTensor, heads: usize, causal: bool) -> CubeTensor {
        Self::attend_forward(qkv, heads, causal).0
    }
}

impl AttentionPasses for CubeBackend {
    fn attend_forward(qkv: CubeTensor, heads: usize, causal: bool) -> (CubeTensor, CubeTensor) {
        let qkv = into_contiguous(qkv);
        if forward::takes(&qkv, heads) {
            return forward::launch(qkv, heads, None, scale(), causal);
        }
        let (out, sums) = match (qkv.dtype, split(&qkv, heads)) {
            (DType::F32, parts) => exact::forward(parts, options(causal)),
            (_, [q, k, v]) => Self::attention_with_logsumexp(q, k, v, options(causal)),
        };
        (join(out), sums)
    }

    fn attend_backward(
        qkv: CubeTensor,
        out: CubeTensor,
        sums: CubeTensor,
        of_out: CubeTensor,
        causal: bool,
    ) -> CubeTensor {
        let heads = sums.meta.shape()[1];
        let [qkv, out, sums, of_out] = [qkv, out, sums, of_out].map(into_contiguous);
        if forward::takes(&qkv, heads) {
            return backward::launch(qkv, out, sums, of_out, heads, causal);
        }
        let [out, of_out] = [out, of_out].map(|tensor| heads_outside(tensor, heads));
        let gradients = match (qkv.dtype, split(&qkv, heads)) {
            (DType::F32, parts) => exact::backward(parts, [out, sums, of_out], options(causal)),
            (_, [q, k, v]) => Self::attention_backward(q, k, v, out, sums, of_out, options(causal)),
        };
        Self::float_cat([gradients.query_grad, gradients.key_grad, gradients.value_grad].map(join).to_vec(), 2)
    }

    fn attend_biased(qkv: CubeTensor, bias: CubeTensor) -> CubeTensor {
        let heads = bias.meta.shape()[1];
        let qkv = into_contiguous(qkv);
        if forward::takes(&qkv, heads) && bias.dtype == DType::F32 {
            return forward::launch(qkv, heads, Some(into_contiguous(bias)), 1.0, false).0;
        }
        let [q, k, v] = split(&qkv, heads);
        let [batch, length] = [0, 1].map(|dimension| qkv.meta.shape()[dimension]);
        let bias = Self::float_expand(bias, Shape::from([batch, heads, length, length]));
        let bias = Self::float_cast(bias, qkv.dtype.into());
        let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
        join(Self::attention(q, k, v, None, Some(bias), options))
    }
}

fn options(causal: bool) -> AttentionModuleOptions {
    AttentionModuleOptions { is_causal: causal, ..Default::default() }
}

fn scale() -> f32 {
    (tensor::WIDTH as f32).sqrt().recip()
}

/// `[B, S, D]` to `[B, K, S, E]`.
fn heads_outside(tensor: CubeTensor, heads: usize) -> CubeTensor {
    let [batch, length, width] = [0, 1, 2].map(|dimension| tensor.meta.shape()[dimension]);
    let tensor = CubeBackend::float_reshape(tensor, Shape::from([batch, length, heads, width / heads]));
    CubeBackend::float_swap_dims(tensor, 1, 2)
}

/// Queries, keys and values, `[B, K, S, E]`.
fn split(qkv: &CubeTensor, heads: usize) -> [CubeTensor; 3] {
    let width = qkv.meta.shape()[2] / 3;
    [0, 1, 2].map(|part| {
        let columns = (part * width..(part + 1) * width).into();
        let part = CubeBackend::float_slice(qkv.clone(), &[(..).into(), (..).into(), columns]);
        heads_outside(into_contiguous(part), heads)
    })
}

/// `[B, K, S, E]` to `[B, S, D]`.
fn join(tensor: CubeTensor) -> CubeTensor {
    let [batch, heads, length, width] = [0, 1, 2, 3].map(|dimension| tensor.meta.shape()[dimension]);
    let tensor = into_contiguous(CubeBackend::float_swap_dims(tensor, 1, 2));
    CubeBackend::float_reshape(tensor, Shape::from([batch, length, heads * width]))
}

#[derive(Debug)]
struct Attention;

impl<B: AttentionPasses> Backward<B, 1> for Attention {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, bool);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (qkv, out, sums, causal) = ops.state;
        unary::<B, _>(ops.parents, ops.node, gradients, |of_out| B::attend_backward(qkv, out, sums, of_out, causal));
    }
}

impl<B: AttentionBackend + AttentionPasses, C: CheckpointStrategy> AttentionBackend for Autodiff<B, C> {
    fn attend(qkv: FloatTensor<Self>, heads: usize, causal: bool) -> FloatTensor<Self> {
        match Attention.prepare::<C>([qkv.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let qkv = qkv.into_primitive();
                let (out, sums) = B::attend_forward(qkv.clone(), heads, causal);
                prepared.finish((qkv, out.clone(), sums, causal), out)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::attend(qkv.into_primitive(), heads, causal)),
        }
    }
}
