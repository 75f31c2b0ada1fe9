//! Attention, in the one place where it can be replaced by a faster one.
//!
//! Queries, keys, values and results are `[B, K, S, E]`.

use burn::tensor::Tensor;
use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;

use crate::device::is_gpu;

/// `softmax(q·kᵀ/√E)·v`: every query sees every key.
pub fn attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>) -> Tensor<4> {
    // The scale is left at its default, which is ours: burn's fused kernels are not used otherwise.
    fused(q_bkse, k_bkse, v_bkse, AttentionModuleOptions::default())
}

/// The same where a query sees its own key and those before it alone.
pub fn causal_attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>) -> Tensor<4> {
    let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
    fused(q_bkse, k_bkse, v_bkse, options)
}

/// On a GPU, always by the kernel that a backward pass can follow: burn's other ones hold scores of all queries and keys at once where
/// the number of queries isn't a multiple of their tiles.
fn fused(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, options: AttentionModuleOptions) -> Tensor<4> {
    let parts = [q_bkse, k_bkse, v_bkse];
    if parts.iter().any(Tensor::is_tracked) || !is_gpu(&parts[0].device()) {
        let [q, k, v] = parts;
        return burn_attention(q, k, v, None, None, options);
    }
    let has_tape = parts[0].is_autodiff();
    let [q, k, v] = parts.map(|part| part.inner().autodiff().require_grad());
    let out = burn_attention(q, k, v, None, None, options).inner();
    if has_tape { out.autodiff() } else { out }
}

/// `softmax(q·kᵀ + bias)·v`, without a scale; the bias is `[B, K, S, S]`.
pub fn biased_attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, bias_bkss: Tensor<4>) -> Tensor<4> {
    let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
    burn_attention(q_bkse, k_bkse, v_bkse, None, Some(bias_bkss), options)
}

/// `[B, S, D]` to `[B, S, K, E]`: the features of all heads lie one head after the other.
pub fn split_heads(x_bsd: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x_bsd.dims();
    x_bsd.reshape([batch, length, heads, width / heads])
}

/// `[B, K, S, E]` back to `[B, S, D]`.
pub fn join_heads(x_bkse: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, head_width] = x_bkse.dims();
    x_bkse.swap_dims(1, 2).reshape([batch, length, heads * head_width])
}
