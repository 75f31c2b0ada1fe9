//! Normalisations. All of them compute in f32, whatever the type of their input: burn's own widen f16 but not bf16.

use burn::tensor::activation::silu;
use burn::tensor::{DType, Tensor};

use super::moments::Moments;
use super::weights::{Scope, WeightsError};

/// Subtracts the mean of the last dimension and divides by its deviation. The result stays in f32.
pub fn normalise<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let x = x.cast(DType::F32);
    let centred = x.clone() - x.mean_dim(D - 1);
    let variance = centred.clone().square().mean_dim(D - 1);
    centred / (variance + epsilon).sqrt()
}

/// Layer normalisation with a learned scale and shift.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
}

impl LayerNorm {
    /// `weight` and `bias` of the scope.
    ///
    /// # Errors
    /// When one of them is missing or of another shape.
    pub fn new(scope: &Scope<'_>, width: usize, epsilon: f64) -> Result<Self, WeightsError> {
        Ok(Self { weight: scope.shaped("weight", [width])?, bias: scope.shaped("bias", [width])?, epsilon })
    }

    /// Normalises the last dimension.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let weight = self.weight.clone().cast(DType::F32).unsqueeze::<D>();
        let bias = self.bias.clone().cast(DType::F32).unsqueeze::<D>();
        (normalise(x, self.epsilon) * weight + bias).cast(dtype)
    }
}

/// Division by the root mean square of the last dimension, with a learned scale: `x·w/√(mean(x²) + ε)`.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor<1>,
    epsilon: f64,
}

impl RmsNorm {
    /// `weight` of the scope.
    ///
    /// # Errors
    /// When it is missing or of another shape.
    pub fn new(scope: &Scope<'_>, width: usize, epsilon: f64) -> Result<Self, WeightsError> {
        Ok(Self { weight: scope.shaped("weight", [width])?, epsilon })
    }

    /// Normalises the last dimension.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        #[cfg(feature = "cuda")]
        if sd3pipe_kernels::takes_heads(dtype, x.dims()[D - 1]) && crate::device::is_gpu(&x.device()) {
            return sd3pipe_kernels::head_norm(x, self.weight.clone(), self.epsilon as f32);
        }
        let x = x.cast(DType::F32);
        let mean_square = x.clone().square().mean_dim(D - 1);
        let weight = self.weight.clone().cast(DType::F32).unsqueeze::<D>();
        (x / (mean_square + self.epsilon).sqrt() * weight).cast(dtype)
    }
}

/// Normalisation over groups of neighbouring channels and all pixels, with a scale and shift a channel.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// `weight` and `bias` of the scope. There are 32 groups, as in the released VAE, or a group a channel where there
    /// are fewer channels.
    ///
    /// # Errors
    /// When one of them is missing or of another shape, or the groups can't be of equal size.
    pub fn new(scope: &Scope<'_>, channels: usize, epsilon: f64) -> Result<Self, WeightsError> {
        let (weight, bias) = (scope.shaped("weight", [channels])?, scope.shaped("bias", [channels])?);
        let groups = channels.min(32);
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(WeightsError::Sizes {
                reason: format!("{channels} channels don't make {groups} equal groups"),
            });
        }
        Ok(Self { weight, bias, groups, epsilon })
    }

    /// Normalises `[B, C, H, W]`.
    pub fn forward(&self, x_bchw: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cuda")]
        if self.by_kernel(&x_bchw) {
            return self.kernel(x_bchw, false);
        }
        let [batch, channels, rows, columns] = x_bchw.dims();
        let dtype = x_bchw.dtype();
        let grouped = x_bchw.reshape([batch, self.groups, channels / self.groups * rows * columns]);
        let normal = normalise(grouped, self.epsilon).reshape([batch, channels, rows, columns]);
        let weight = self.weight.clone().cast(DType::F32).reshape([1, channels, 1, 1]);
        let bias = self.bias.clone().cast(DType::F32).reshape([1, channels, 1, 1]);
        (normal * weight + bias).cast(dtype)
    }

    /// The SiLU of what is normalised.
    pub fn forward_silu(&self, x_bchw: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cuda")]
        if self.by_kernel(&x_bchw) {
            return self.kernel(x_bchw, true);
        }
        silu(self.forward(x_bchw))
    }

    /// What each channel is multiplied by, and what is added to it then, `[B, C]` in f32, in images of which these are the moments.
    pub fn settle(&self, moments: Moments) -> [Tensor<2>; 2] {
        let [batch, channels] = moments.mean_bc.dims();
        let each = channels / self.groups;
        let grouped = |values: Tensor<2>| values.reshape([batch, self.groups, each]);
        let learned = |values: &Tensor<1>| values.clone().cast(DType::F32).reshape([1, self.groups, each]);
        let means = grouped(moments.mean_bc);
        let mean = means.clone().mean_dim(2);
        let within = grouped(moments.spread_bc).mean_dim(2).div_scalar(moments.pixels as f64);
        let variance = within + (means - mean.clone()).square().mean_dim(2);
        let scale = learned(&self.weight) / (variance + self.epsilon).sqrt();
        let shift = learned(&self.bias) - mean * scale.clone();
        [scale, shift].map(|values| values.reshape([batch, channels]))
    }

    /// [`GroupNorm::forward_silu`] of some rows of images of which this is settled.
    pub fn settled_silu(&self, x_bchw: Tensor<4>, [scale_bc, shift_bc]: [Tensor<2>; 2]) -> Tensor<4> {
        #[cfg(feature = "cuda")]
        if self.by_kernel(&x_bchw) {
            return sd3pipe_kernels::scaled_silu(x_bchw, scale_bc, shift_bc);
        }
        let ([batch, channels, ..], dtype) = (x_bchw.dims(), x_bchw.dtype());
        let [scale, shift] = [scale_bc, shift_bc].map(|values| values.reshape([batch, channels, 1, 1]));
        silu(x_bchw.cast(DType::F32) * scale + shift).cast(dtype)
    }

    #[cfg(feature = "cuda")]
    fn by_kernel(&self, x_bchw: &Tensor<4>) -> bool {
        let [_, channels, ..] = x_bchw.dims();
        let takes = |dtype| sd3pipe_kernels::takes_groups(dtype, channels);
        takes(x_bchw.dtype()) && takes(self.weight.dtype()) && crate::device::is_gpu(&x_bchw.device())
    }

    #[cfg(feature = "cuda")]
    fn kernel(&self, x_bchw: Tensor<4>, silu: bool) -> Tensor<4> {
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        sd3pipe_kernels::group_norm(x_bchw, weight, bias, self.groups, self.epsilon as f32, silu)
    }
}
