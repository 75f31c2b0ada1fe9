//! Attention, in the one place where it can be replaced by a faster one.

use burn::tensor::Tensor;
use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;

/// Which keys a query sees, and by how much.
#[derive(Debug, Clone)]
pub enum Visibility {
    /// Every query sees every key, scores scaled by `1/√E`.
    All,
    /// A query sees its own key and those before it, scores scaled by `1/√E`.
    Causal,
    /// Every query sees every key; scores are not scaled, and this bias, `[B, K, S, S]`, is added to them.
    Biased(Tensor<4>),
}

/// Softmax attention. Queries, keys and values are `[B, K, S, E]`, and so is the result.
pub fn attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, visibility: Visibility) -> Tensor<4> {
    let default = AttentionModuleOptions::default();
    let (bias, options) = match visibility {
        // No scale is given where it is the default, since burn's fused kernels want it so.
        Visibility::All => (None, default),
        Visibility::Causal => (None, AttentionModuleOptions { is_causal: true, ..default }),
        Visibility::Biased(bias) => (Some(bias), AttentionModuleOptions { scale: Some(1.0), ..default }),
    };
    burn_attention(q_bkse, k_bkse, v_bkse, None, bias, options)
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
