//! The convolution layer.

use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use super::weights::{Scope, WeightsError};

/// A convolution over images.
#[derive(Debug, Clone)]
pub struct Convolution {
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    /// Zeros before and after, on both axes.
    padding: (usize, usize),
}

impl Convolution {
    /// `weight` and `bias` of the scope, with a square kernel.
    ///
    /// # Errors
    /// When one of them is missing or of another shape.
    pub fn new(
        scope: &Scope<'_>,
        [inputs, outputs, kernel]: [usize; 3],
        stride: usize,
        padding: (usize, usize),
    ) -> Result<Self, WeightsError> {
        let weight = scope.shaped("weight", [outputs, inputs, kernel, kernel])?;
        Ok(Self { weight, bias: scope.shaped("bias", [outputs])?, stride, padding })
    }

    /// A convolution by 3×3 that keeps the image's size.
    ///
    /// # Errors
    /// Those of [`Convolution::new`].
    pub fn same(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self, WeightsError> {
        Self::new(scope, [inputs, outputs, 3], 1, (1, 1))
    }

    /// `[B, inputs, H, W]` to `[B, outputs, H', W']`.
    pub fn forward(&self, x_bchw: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cuda")]
        if crate::device::is_gpu(&x_bchw.device()) {
            let (before, after) = self.padding;
            let more = after.saturating_sub(before);
            let x_bchw = if more > 0 { x_bchw.pad((0, more, 0, more), 0.0) } else { x_bchw };
            return sd3pipe_kernels::convolution(x_bchw, self.weight.clone(), self.bias.clone(), self.stride, before);
        }
        let options = ConvOptions::new_with_padding([self.stride; 2], [self.padding; 2], [1, 1], 1);
        conv2d(x_bchw, self.weight.clone(), Some(self.bias.clone()), options)
    }

    /// The weight, for its device and type.
    pub(super) fn weight(&self) -> &Tensor<4> {
        &self.weight
    }
}
