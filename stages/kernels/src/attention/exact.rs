//! Attention in f32, which burn's kernels round to TF32: by products and a softmax, over some queries at a time.

use burn::backend::ops::{
    AttentionBackward, FloatTensorOps,
    attention::{attention_backward_default, attention_with_logsumexp_default},
};
use burn::tensor::{Slice, ops::AttentionModuleOptions};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use std::ops::Range;

/// So many queries have their scores in memory at once.
const QUERIES: usize = 512;

/// The output, `[B, K, S, E]`, and the logarithm of each query's sum of exponentials, `[B, K, S]`.
pub(super) fn forward([q, k, v]: [CubeTensor; 3], options: AttentionModuleOptions) -> (CubeTensor, CubeTensor) {
    let (outs, sums) = parts(&q, options)
        .map(|part| attention_with_logsumexp_default::<CubeBackend>(cut(&q, &part), k.clone(), v.clone(), options))
        .unzip();
    (CubeBackend::float_cat(outs, 2), CubeBackend::float_cat(sums, 2))
}

/// The gradients of queries, keys and values.
pub(super) fn backward(
    [q, k, v]: [CubeTensor; 3],
    [out, sums, of_out]: [CubeTensor; 3],
    options: AttentionModuleOptions,
) -> AttentionBackward<CubeBackend> {
    let (mut of_queries, mut others): (Vec<_>, Option<[CubeTensor; 2]>) = (Vec::new(), None);
    for part in parts(&q, options) {
        let [q, out, sums, of_out] = [&q, &out, &sums, &of_out].map(|tensor| cut(tensor, &part));
        let gradients = attention_backward_default::<CubeBackend>(q, k.clone(), v.clone(), out, sums, of_out, options);
        of_queries.push(gradients.query_grad);
        let (of_keys, of_values) = (gradients.key_grad, gradients.value_grad);
        others = Some(match others {
            None => [of_keys, of_values],
            Some([keys, values]) => [CubeBackend::float_add(keys, of_keys), CubeBackend::float_add(values, of_values)],
        });
    }
    let [of_keys, of_values] = others.unwrap_or([k, v]);
    AttentionBackward::new(CubeBackend::float_cat(of_queries, 2), of_keys, of_values)
}

/// The queries in parts. A causal attention is not cut, because what a query sees would be counted from the part's end.
fn parts(q: &CubeTensor, options: AttentionModuleOptions) -> impl Iterator<Item = Range<usize>> {
    let length = q.meta.shape()[2];
    let each = if options.is_causal { length } else { QUERIES };
    (0..length).step_by(each).map(move |first| first..length.min(first + each))
}

fn cut(tensor: &CubeTensor, part: &Range<usize>) -> CubeTensor {
    let mut slices = vec![Slice::full(); tensor.meta.shape().num_dims()];
    slices[2] = part.clone().into();
    CubeBackend::float_slice(tensor.clone(), &slices)
}
