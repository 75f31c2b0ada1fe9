//! The convolution layer.

use std::ops::Range;

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

    /// Channels that go in, and that come out.
    pub(super) fn channels(&self) -> [usize; 2] {
        let [outputs, inputs, ..] = self.weight.dims();
        [inputs, outputs]
    }

    fn kernel(&self) -> usize {
        let [.., kernel] = self.weight.dims();
        kernel
    }

    /// What a side comes to: so many rows, of so many that go in.
    pub(super) fn side(&self, side: usize) -> usize {
        (side * self.scale + self.padding.0 + self.padding.1 - self.kernel()) / self.stride + 1
    }

    /// The row that comes out where a row goes in, one of which the stride is a part.
    pub(super) fn at(&self, row: usize) -> usize {
        row * self.scale / self.stride
    }

    /// Which of the rows of images that go in, of this height, rows that come out are made of.
    pub(super) fn needs(&self, rows: Range<usize>, height: usize) -> Range<usize> {
        let last = (rows.end - 1) * self.stride + self.kernel();
        let start = (rows.start * self.stride).saturating_sub(self.padding.0) / self.scale;
        start..last.saturating_sub(self.padding.0).div_ceil(self.scale).min(height)
    }

    /// The rows that come out of which all is known by these rows of images that go in, of this height.
    pub(super) fn told_by(&self, rows: Range<usize>, height: usize) -> Range<usize> {
        let start = if rows.start == 0 { 0 } else { (rows.start * self.scale + self.padding.0).div_ceil(self.stride) };
        let after = (rows.end * self.scale + self.padding.0 + self.stride).saturating_sub(self.kernel());
        let end = if rows.end == height { self.side(height) } else { after / self.stride };
        start..end.max(start)
    }

    /// The weight, for its device and type.
    pub(super) fn weight(&self) -> &Tensor<4> {
        &self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::super::strip::Strip;
    use super::*;
    use burn::tensor::{DType, Device, Distribution};

    #[test]
    fn rows_of_a_convolution_are_told_by_those_that_it_needs() {
        let place = (&Device::flex(), DType::F32);
        let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, place);
        let (height, bias) = (12, Tensor::ones([2], place));
        let x = random([2, 3, height, 5]);
        for (kernel, stride, padding, scale) in
            [(3, 1, (1, 1), 1), (3, 2, (0, 1), 1), (3, 1, (1, 1), 2), (1, 1, (0, 0), 1)]
        {
            let weight = random([2, 3, kernel, kernel]);
            let convolution = Convolution { weight, bias: bias.clone(), stride, padding, scale };
            let whole = convolution.forward(x.clone());
            assert_eq!(whole.dims()[2], convolution.side(height));
            for first in 0..convolution.side(height) {
                for end in first + 1..=convolution.side(height) {
                    let needed = convolution.needs(first..end, height);
                    let rows = convolution.told_by(needed.clone(), height);
                    assert!(rows.start <= first && end <= rows.end, "{first}..{end} of {rows:?}");
                    let strip = Strip::whole(x.clone()).cut(needed).convolve(&convolution).cut(first..end);
                    let expected = whole.clone().narrow(2, first, end - first);
                    let off = (strip.into_values() - expected).abs().max().into_scalar::<f32>();
                    assert!(off < 1e-5, "{kernel} {stride} {scale}, {first}..{end}: {off}");
                }
            }
        }
    }
}
