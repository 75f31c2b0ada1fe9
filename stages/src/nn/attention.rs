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
        let out = match q.dims()[3] <= WIDEST {
            true => sd3pipe_kernels::attention(q, k, v, options.is_causal),
            false => in_parts(q, k, v),
        };
        return if has_tape { out.autodiff() } else { out };
    }
    burn_attention(q_bkse, k_bkse, v_bkse, None, None, options)
}

/// The widest heads that fused kernels are for.
#[cfg(feature = "cuda")]
const WIDEST: usize = 128;

/// The attention of wide heads, the VAE's, with the scores of some queries at a time in memory, in the type of the queries.
#[cfg(feature = "cuda")]
fn in_parts(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>) -> Tensor<4> {
    use burn::tensor::{DType, activation::softmax};
    use sd3pipe_kernels::{Across, product};

    const QUERIES: usize = 2048;
    let ([batch, heads, length, width], dtype) = (q_bkse.dims(), q_bkse.dtype());
    // What all keys have in common adds the same to all scores of a query, which softmax takes no notice of: without it they are
    // smaller, and lose less to rounding.
    let keys = k_bkse.cast(DType::F32);
    let keys = (keys.clone() - keys.mean_dim(2)).cast(dtype);
    let queries = q_bkse.cast(DType::F32).div_scalar(libm::sqrt(width as f64)).cast(dtype);
    let of_head = |tensor: &Tensor<4>, index: usize, first: usize, count: usize| {
        let all = tensor.clone().reshape([batch * heads, length, width]);
        all.narrow(0, index, 1).narrow(1, first, count).reshape([count, width])
    };
    let parts = (0..batch * heads).flat_map(|index| (0..length).step_by(QUERIES).map(move |first| (index, first)));
    let parts = parts.map(|(index, first)| {
        let count = QUERIES.min(length - first);
        let scores =
            product(of_head(&queries, index, first, count), of_head(&keys, index, 0, length), Across::default());
        let shares = softmax(scores.cast(DType::F32), 1).cast(dtype);
        product(shares, of_head(&v_bkse, index, 0, length), Across { right: true, left: false })
    });
    Tensor::cat(parts.collect(), 0).reshape([batch, heads, length, width])
}

/// `softmax(q·kᵀ + bias)·v`, without a scale; the bias is `[1, K, S, S]`.
pub fn biased_attention(q_bkse: Tensor<4>, k_bkse: Tensor<4>, v_bkse: Tensor<4>, bias_1kss: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&q_bkse.device()) {
        return sd3pipe_kernels::biased_attention(q_bkse, k_bkse, v_bkse, bias_1kss.cast(burn::tensor::DType::F32));
    }
    let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
    let ([_, heads, length, _], [batch, ..]) = (bias_1kss.dims(), q_bkse.dims());
    let bias_bkss = bias_1kss.expand([batch, heads, length, length]);
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
