//! Attention, in the one place where it can be replaced by a faster one.

use burn::tensor::Tensor;
use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;

/// `softmax(q·kᵀ/√E)·v`, `[B, S, D]`, of queries, keys and values one after the other, `[B, S, 3·D]`: every query sees every key.
pub fn attention(qkv_bsd: Tensor<3>, heads: usize) -> Tensor<3> {
    fused(qkv_bsd, heads, false)
}

/// The same where a query sees its own key and those before it alone.
pub fn causal_attention(qkv_bsd: Tensor<3>, heads: usize) -> Tensor<3> {
    fused(qkv_bsd, heads, true)
}

fn fused(qkv_bsd: Tensor<3>, heads: usize, is_causal: bool) -> Tensor<3> {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&qkv_bsd.device()) {
        return sd3pipe_kernels::attention(qkv_bsd, heads, is_causal);
    }
    let [q, k, v] = split_heads(qkv_bsd, heads);
    // The scale is left at its default, which is ours: burn's fused kernels are not used otherwise.
    let options = AttentionModuleOptions { is_causal, ..Default::default() };
    join_heads(burn_attention(q, k, v, None, None, options))
}

/// The attention of one head, however wide, `[B, S, E]`: the VAE's. On a GPU its scores take a quarter of so many bytes at most, if it is
/// said how many.
pub fn wide_attention(q_bse: Tensor<3>, k_bse: Tensor<3>, v_bse: Tensor<3>, room: Option<u64>) -> Tensor<3> {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&q_bse.device()) {
        return in_parts(q_bse, k_bse, v_bse, room);
    }
    let _ = room;
    let [q, k, v] = [q_bse, k_bse, v_bse].map(|part| part.unsqueeze_dim::<4>(1));
    burn_attention(q, k, v, None, None, AttentionModuleOptions::default()).squeeze_dim::<3>(1)
}

/// With the scores of some queries at a time in memory, in the type of the queries.
#[cfg(feature = "cuda")]
fn in_parts(q_bse: Tensor<3>, k_bse: Tensor<3>, v_bse: Tensor<3>, room: Option<u64>) -> Tensor<3> {
    use burn::tensor::{DType, activation::softmax};
    use sd3pipe_kernels::{Across, product};

    const QUERIES: usize = 2048;
    /// Those of an image of 1024² pixels.
    const SCORES: u64 = 2048 << 14;
    /// A score is there in the type of the queries, and on its way through softmax in f32.
    const BYTES: u64 = 16;
    let ([batch, length, width], dtype) = (q_bse.dims(), q_bse.dtype());
    let scores = room.map_or(SCORES, |room| SCORES.min(room / 4 / BYTES));
    // Whole tiles of a product.
    let at_once = (scores as usize / length / 128 * 128).clamp(128, QUERIES);
    // What all keys have in common adds the same to all scores of a query, which softmax takes no notice of: without it they are
    // smaller, and lose less to rounding.
    let keys = k_bse.cast(DType::F32);
    let keys = (keys.clone() - keys.mean_dim(1)).cast(dtype);
    let queries = q_bse.cast(DType::F32).div_scalar(libm::sqrt(width as f64)).cast(dtype);
    let of_item = |tensor: &Tensor<3>, item: usize, first: usize, count: usize| {
        tensor.clone().narrow(0, item, 1).narrow(1, first, count).reshape([count, width])
    };
    let parts = (0..batch).flat_map(|item| (0..length).step_by(at_once).map(move |first| (item, first)));
    let parts = parts.map(|(item, first)| {
        let count = at_once.min(length - first);
        let scores = product(of_item(&queries, item, first, count), of_item(&keys, item, 0, length), Across::default());
        let shares = softmax(scores.cast(DType::F32), 1).cast(dtype);
        product(shares, of_item(&v_bse, item, 0, length), Across { right: true, left: false })
    });
    Tensor::cat(parts.collect(), 0).reshape([batch, length, width])
}

/// `softmax(q·kᵀ + bias)·v`, laid out as in [`attention`], without a scale; the bias is `[1, K, S, S]`.
pub fn biased_attention(qkv_bsd: Tensor<3>, bias_1kss: Tensor<4>) -> Tensor<3> {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&qkv_bsd.device()) {
        return sd3pipe_kernels::biased_attention(qkv_bsd, bias_1kss.cast(burn::tensor::DType::F32));
    }
    let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
    let ([_, heads, length, _], [batch, ..]) = (bias_1kss.dims(), qkv_bsd.dims());
    let bias_bkss = bias_1kss.expand([batch, heads, length, length]);
    let [q, k, v] = split_heads(qkv_bsd, heads);
    join_heads(burn_attention(q, k, v, None, Some(bias_bkss), options))
}

/// Queries, keys and values, `[B, K, S, E]`, of `[B, S, 3·D]`: the features of all heads lie one head after the other.
fn split_heads(qkv_bsd: Tensor<3>, heads: usize) -> [Tensor<4>; 3] {
    let [batch, length, width] = qkv_bsd.dims();
    let parts = qkv_bsd.reshape([batch, length, 3 * heads, width / (3 * heads)]);
    [0, 1, 2].map(|part| parts.clone().narrow(2, part * heads, heads).swap_dims(1, 2))
}

/// `[B, K, S, E]` back to `[B, S, D]`.
fn join_heads(x_bkse: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, head_width] = x_bkse.dims();
    x_bkse.swap_dims(1, 2).reshape([batch, length, heads * head_width])
}
