//! What the conditioning does to a stream's tokens: a shift and a scale after each norm, and a gate before each residual.

use burn::tensor::{DType, Tensor};

use super::super::norm::normalise;
use super::EPSILON;

/// The shifts, scales and gates of a stream: `[B, 1, P·D]`, in f32 unless kernels take them as they are.
pub(super) struct Modulation {
    parts: Tensor<3>,
    width: usize,
    by_kernel: bool,
}

impl Modulation {
    /// From a linear layer's output, `[B, P·D]`, for tokens that are D wide.
    pub(super) fn new(parts: Tensor<2>, width: usize) -> Self {
        #[cfg(feature = "cuda")]
        let by_kernel = sd3pipe_kernels::takes_rows(parts.dtype(), width) && crate::device::is_gpu(&parts.device());
        #[cfg(not(feature = "cuda"))]
        let by_kernel = false;
        let parts = if by_kernel { parts } else { parts.cast(DType::F32) };
        Self { parts: parts.unsqueeze_dim(1), width, by_kernel }
    }

    /// The layer norm, without weights, of tokens in the type of the network, before [`apply`](Self::apply).
    pub(super) fn normal(&self, x_bnd: Tensor<3>) -> Normal {
        let dtype = x_bnd.dtype();
        Normal { values: if self.by_kernel { x_bnd } else { normalise(x_bnd, EPSILON) }, dtype }
    }

    /// `n·(1 + scale) + shift` of normal tokens n, with the shift at `index` and the scale after it.
    pub(super) fn apply(&self, normal: Normal, index: usize) -> Tensor<3> {
        #[cfg(feature = "cuda")]
        if self.by_kernel {
            return sd3pipe_kernels::modulated_norm(normal.values, self.parts.clone(), index, EPSILON as f32);
        }
        (normal.values * (self.part(index + 1) + 1.0) + self.part(index)).cast(normal.dtype)
    }

    /// `x + gate·y`, with the gate at `index`.
    pub(super) fn add_gated(&self, x_bnd: Tensor<3>, y_bnd: Tensor<3>, index: usize) -> Tensor<3> {
        #[cfg(feature = "cuda")]
        if self.by_kernel {
            return sd3pipe_kernels::gated_residual(x_bnd, y_bnd, self.parts.clone(), index);
        }
        let dtype = x_bnd.dtype();
        x_bnd + y_bnd * self.part(index).cast(dtype)
    }

    fn part(&self, index: usize) -> Tensor<3> {
        self.parts.clone().narrow(2, index * self.width, self.width)
    }
}

/// Tokens after a layer norm; those whose norm is modulated by a kernel still lack it.
#[derive(Clone)]
pub(super) struct Normal {
    values: Tensor<3>,
    dtype: DType,
}
