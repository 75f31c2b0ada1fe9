//! The convolution layer.

use burn::tensor::Tensor;
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};

use super::weights::{Scope, WeightsError};

/// A convolution over images.
#[derive(Debug, Clone)]
pub struct Convolution {
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    /// Zeros before and after, on both axes.
    padding: (usize, usize),
    /// Each pixel of what goes in counts as a square of so many on a side.
    scale: usize,
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
        Ok(Self { weight, bias: scope.shaped("bias", [outputs])?, stride, padding, scale: 1 })
    }

    /// A convolution by 3×3 that keeps the image's size.
    ///
    /// # Errors
    /// Those of [`Convolution::new`].
    pub fn same(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self, WeightsError> {
        Self::new(scope, [inputs, outputs, 3], 1, (1, 1))
    }

    /// A convolution by 3×3 of an image twice as large as what goes in, each of whose pixels is repeated: one that keeps its channels.
    ///
    /// # Errors
    /// Those of [`Convolution::new`].
    pub fn double(scope: &Scope<'_>, channels: usize) -> Result<Self, WeightsError> {
        Ok(Self { scale: 2, ..Self::same(scope, channels, channels)? })
    }

    /// `[B, inputs, H, W]` to `[B, outputs, H', W']`.
    pub fn forward(&self, x_bchw: Tensor<4>) -> Tensor<4> {
        self.added(x_bchw, None)
    }

    /// The same added onto `[B, outputs, H', W']`.
    pub fn forward_onto(&self, x_bchw: Tensor<4>, onto_bchw: Tensor<4>) -> Tensor<4> {
        self.added(x_bchw, Some(onto_bchw))
    }

    fn added(&self, x_bchw: Tensor<4>, onto_bchw: Option<Tensor<4>>) -> Tensor<4> {
        let Self { weight, bias, stride, padding, scale } = self.clone();
        #[cfg(feature = "cuda")]
        if crate::device::is_gpu(&x_bchw.device()) {
            let walk = sd3pipe_kernels::Walk { stride, before: padding.0, after: padding.1, scale };
            return sd3pipe_kernels::convolution(x_bchw, weight, bias, onto_bchw, walk);
        }
        let larger = InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([scale as f32; 2]);
        let x_bchw = if scale > 1 { interpolate(x_bchw, larger) } else { x_bchw };
        let options = ConvOptions::new_with_padding([stride; 2], [padding; 2], [1, 1], 1);
        let out = conv2d(x_bchw, weight, Some(bias), options);
        onto_bchw.into_iter().fold(out, |out, onto| onto + out)
    }

    /// The weight, for its device and type.
    pub(super) fn weight(&self) -> &Tensor<4> {
        &self.weight
    }
}
