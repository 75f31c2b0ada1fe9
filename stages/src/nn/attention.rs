//! Attention, in the one place where it can be replaced by a faster one.
//!
//! Queries, keys, values and results are `[B, K, S, E]`.

use burn::tensor::Tensor;
use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;

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

fn fused(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, options: AttentionModuleOptions) -> Tensor<4> {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&q_bkse.device()) && ![&q_bkse, &k_bkse, &v_bkse].into_iter().any(Tensor::is_tracked) {
        let has_tape = q_bkse.is_autodiff();
        let [q, k, v] = [q_bkse, k_bkse, v_bkse].map(Tensor::inner);
        let out = sd3pipe_kernels::attention(q, k, v, options.is_causal);
        return if has_tape { out.autodiff() } else { out };
    }
    burn_attention(q_bkse, k_bkse, v_bkse, None, None, options)
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
