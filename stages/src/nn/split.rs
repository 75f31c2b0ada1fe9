//! Parts of a tensor.

use burn::tensor::Tensor;

/// Parts of so many places along a dimension, one after the other, which together are the whole.
pub fn split<const D: usize, const N: usize>(x: Tensor<D>, dimension: usize, lengths: [usize; N]) -> [Tensor<D>; N] {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&x.device()) {
        return sd3pipe_kernels::split(x, dimension, lengths);
    }
    let mut end = 0;
    lengths.map(|length| {
        end += length;
        x.clone().narrow(dimension, end - length, length)
    })
}
