//! The VAE's half from latents to images.

use burn::tensor::{DType, Tensor};

use super::super::convolution::Convolution;
use super::super::norm::GroupNorm;
use super::super::weights::{Scope, WeightsError, place};
use super::block::{EPSILON, Middle, ResidualBlock, level};
use super::piece::Piece;
use super::room::run;

/// The decoder. It computes in the type of its weights, and its norms in f32.
#[derive(Debug, Clone)]
pub struct VaeDecoder {
    first: Convolution,
    middle: Middle,
    /// In the order in which they run, from the lowest resolution up.
    levels: Vec<(Vec<ResidualBlock>, Option<Convolution>)>,
    norm: GroupNorm,
    last: Convolution,
}

impl VaeDecoder {
    /// Builds the decoder from weights named without `decoder.` (`conv_in.weight`, ...); levels and blocks are read off
    /// the names.
    ///
    /// # Errors
    /// When weights are missing or don't fit each other.
    pub fn new(scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let [mut channels, latents, ..] = scope.dims::<4>("conv_in.weight")?;
        let first = Convolution::same(&scope.child("conv_in"), latents, channels)?;
        let middle = Middle::new(&scope.child("mid"), channels)?;
        let mut levels = Vec::new();
        for index in (0..scope.count(|index| format!("up.{index}.block.0.conv1.weight"))).rev() {
            let scope = scope.child("up").child(index);
            let (blocks, outputs) = level(&scope, channels)?;
            channels = outputs;
            let double = || Convolution::double(&scope.child("upsample.conv"), channels);
            levels.push((blocks, (index > 0).then(double).transpose()?));
        }
        let [colours, ..] = scope.dims::<4>("conv_out.weight")?;
        Ok(Self {
            first,
            middle,
            levels,
            norm: GroupNorm::new(&scope.child("norm_out"), channels, EPSILON)?,
            last: Convolution::same(&scope.child("conv_out"), channels, colours)?,
        })
    }

    /// Images of raw latents, in f32: `[B, 16, H, W]` to `[B, 3, 8H, 8W]` for the released VAE, about within [-1, 1] and
    /// not clamped. On a GPU that has no room for them at once, in strips.
    ///
    /// # Panics
    /// When the shape is not that.
    pub fn decode(&self, raw_bchw: Tensor<4>) -> Tensor<4> {
        let room = crate::device::free(&raw_bchw.device());
        self.decode_within(raw_bchw, room)
    }

    /// The same within so many bytes, if it is said how many.
    ///
    /// # Panics
    /// When the shape is not that.
    pub fn decode_within(&self, raw_bchw: Tensor<4>, room: Option<u64>) -> Tensor<4> {
        let (_, dtype) = place(self.first.weight());
        let x = self.middle.forward(self.first.forward(raw_bchw.cast(dtype)), room);
        run(&self.pieces(), x, room).cast(DType::F32)
    }

    /// What comes after the middle.
    pub(super) fn pieces(&self) -> Vec<Piece<'_>> {
        let levels = self
            .levels
            .iter()
            .flat_map(|(blocks, double)| blocks.iter().map(Piece::Block).chain(double.iter().map(Piece::Convolution)));
        levels.chain([Piece::End(&self.norm, &self.last)]).collect()
    }
}
