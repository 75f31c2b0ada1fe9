//! The VAE's half from images to latents.

use burn::tensor::{DType, Tensor};

use super::super::convolution::Convolution;
use super::super::norm::GroupNorm;
use super::super::weights::{Scope, WeightsError, place};
use super::block::{EPSILON, Middle, ResidualBlock, level};
use super::piece::Piece;
use super::room::{needed, run};

/// The encoder. It computes in the type of its weights, and its norms in f32.
#[derive(Debug, Clone)]
pub struct VaeEncoder {
    first: Convolution,
    levels: Vec<(Vec<ResidualBlock>, Option<Convolution>)>,
    middle: Middle,
    norm: GroupNorm,
    last: Convolution,
    latent_channels: usize,
}

impl VaeEncoder {
    /// Builds the encoder from weights named without `encoder.` (`conv_in.weight`, ...); levels and blocks are read off
    /// the names.
    ///
    /// # Errors
    /// When weights are missing or don't fit each other.
    pub fn new(scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let [mut channels, colours, ..] = scope.dims::<4>("conv_in.weight")?;
        let first = Convolution::same(&scope.child("conv_in"), colours, channels)?;
        let count = scope.count(|index| format!("down.{index}.block.0.conv1.weight"));
        let mut levels = Vec::new();
        for index in 0..count {
            let scope = scope.child("down").child(index);
            let (blocks, outputs) = level(&scope, channels)?;
            channels = outputs;
            // Zeros go to the right and below only, as the VAE was trained.
            let halve = || Convolution::new(&scope.child("downsample.conv"), [channels, channels, 3], 2, (0, 1));
            levels.push((blocks, (index + 1 < count).then(halve).transpose()?));
        }
        let [moments, ..] = scope.dims::<4>("conv_out.weight")?;
        if moments % 2 != 0 {
            return Err(WeightsError::Sizes { reason: format!("conv_out gives {moments} channels, an odd number") });
        }
        Ok(Self {
            first,
            levels,
            middle: Middle::new(&scope.child("mid"), channels)?,
            norm: GroupNorm::new(&scope.child("norm_out"), channels, EPSILON)?,
            last: Convolution::same(&scope.child("conv_out"), channels, moments)?,
            latent_channels: moments / 2,
        })
    }

    /// The mean and the logarithm of the variance of an image's raw latents, in f32, each `[B, 16, H/8, W/8]` for the
    /// released VAE. The logarithm is kept within [-30, 20].
    ///
    /// `images_bchw` is `[B, 3, H, W]` within [-1, 1]; H and W are multiples of 8. On a GPU that has no room for them at once they go in
    /// strips.
    ///
    /// # Panics
    /// When the shape is not that.
    pub fn encode(&self, images_bchw: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let room = crate::device::free(&images_bchw.device());
        self.encode_within(images_bchw, room)
    }

    /// The same within so many bytes, if it is said how many.
    ///
    /// # Panics
    /// When the shape is not that.
    pub fn encode_within(&self, images_bchw: Tensor<4>, room: Option<u64>) -> (Tensor<4>, Tensor<4>) {
        let (_, dtype) = place(self.first.weight());
        let x = run(&self.pieces(), images_bchw.cast(dtype), room);
        let x = self.norm.forward_silu(self.middle.forward(x, room));
        let moments = self.last.forward(x).cast(DType::F32);
        let mean = moments.clone().narrow(1, 0, self.latent_channels);
        let log_variance = moments.narrow(1, self.latent_channels, self.latent_channels);
        (mean, log_variance.clamp(-30.0, 20.0))
    }

    /// The bytes that a whole image of so many rows and columns takes.
    pub(crate) fn needed(&self, [height, width]: [usize; 2]) -> u64 {
        let ([colours, _], (_, dtype)) = (self.first.channels(), place(self.first.weight()));
        needed(&self.pieces(), [colours, height, width], dtype)
    }

    /// What comes before the middle.
    pub(super) fn pieces(&self) -> Vec<Piece<'_>> {
        let levels = self
            .levels
            .iter()
            .flat_map(|(blocks, halve)| blocks.iter().map(Piece::Block).chain(halve.iter().map(Piece::Convolution)));
        std::iter::once(Piece::Convolution(&self.first)).chain(levels).collect()
    }
}
