//! The blocks that both halves of the VAE are made of.

use burn::tensor::Tensor;

use super::super::attention::wide_attention;
use super::super::convolution::Convolution;
use super::super::linear::Linear;
use super::super::norm::GroupNorm;
use super::super::strip::{Norms, Strip};
use super::super::weights::{Scope, WeightsError};

/// The ε of every group norm in the network.
pub(super) const EPSILON: f64 = 1e-6;

/// Two convolutions, each after a norm and a SiLU, around which the input is added.
#[derive(Debug, Clone)]
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    convolution1: Convolution,
    norm2: GroupNorm,
    convolution2: Convolution,
    shortcut: Option<Convolution>,
}

impl ResidualBlock {
    /// The block, and the number of channels that come out of it.
    pub(super) fn new(scope: &Scope<'_>, inputs: usize) -> Result<(Self, usize), WeightsError> {
        let [outputs, ..] = scope.dims::<4>("conv1.weight")?;
        let shortcut = || Convolution::new(&scope.child("nin_shortcut"), [inputs, outputs, 1], 1, (0, 0));
        let block = Self {
            norm1: GroupNorm::new(&scope.child("norm1"), inputs, EPSILON)?,
            convolution1: Convolution::same(&scope.child("conv1"), inputs, outputs)?,
            norm2: GroupNorm::new(&scope.child("norm2"), outputs, EPSILON)?,
            convolution2: Convolution::same(&scope.child("conv2"), outputs, outputs)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        };
        Ok((block, outputs))
    }

    pub(super) fn forward(&self, x_bchw: Tensor<4>) -> Tensor<4> {
        let inner = self.convolution1.forward(self.norm1.forward_silu(x_bchw.clone()));
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x_bchw),
            None => x_bchw,
        };
        self.convolution2.forward_onto(self.norm2.forward_silu(inner), shortcut)
    }

    /// The same of rows of images; nothing if a norm has not seen all strips yet.
    pub(super) fn strip<'n>(&'n self, x: Strip, norms: &mut Norms<'n>) -> Option<Strip> {
        let inner = norms.silu(&self.norm1, x.clone())?.convolve(&self.convolution1);
        let beside = x.cut(inner.rows());
        drop(x);
        let inner = norms.silu(&self.norm2, inner)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => beside.convolve(shortcut),
            None => beside,
        };
        Some(inner.convolve_onto(&self.convolution2, shortcut))
    }

    /// Those that the input goes through, one after the other.
    pub(super) fn convolutions(&self) -> [&Convolution; 2] {
        [&self.convolution1, &self.convolution2]
    }
}

/// The blocks of one level, all at one resolution, and the channels that come out of them.
pub(super) fn level(scope: &Scope<'_>, mut channels: usize) -> Result<(Vec<ResidualBlock>, usize), WeightsError> {
    let mut blocks = Vec::new();
    for index in 0..scope.count(|index| format!("block.{index}.conv1.weight")) {
        let (block, outputs) = ResidualBlock::new(&scope.child("block").child(index), channels)?;
        blocks.push(block);
        channels = outputs;
    }
    Ok((blocks, channels))
}

/// The blocks at the lowest resolution: residual, attention, residual.
#[derive(Debug, Clone)]
pub(super) struct Middle {
    first: ResidualBlock,
    attention: PixelAttention,
    second: ResidualBlock,
}

impl Middle {
    pub(super) fn new(scope: &Scope<'_>, channels: usize) -> Result<Self, WeightsError> {
        let (first, _) = ResidualBlock::new(&scope.child("block_1"), channels)?;
        let attention = PixelAttention::new(&scope.child("attn_1"), channels)?;
        let (second, _) = ResidualBlock::new(&scope.child("block_2"), channels)?;
        Ok(Self { first, attention, second })
    }

    /// Within so many bytes, if it is said how many.
    pub(super) fn forward(&self, x_bchw: Tensor<4>, room: Option<u64>) -> Tensor<4> {
        self.second.forward(self.attention.forward(self.first.forward(x_bchw), room))
    }
}

/// Attention of every pixel to every pixel, with one head as wide as there are channels.
#[derive(Debug, Clone)]
struct PixelAttention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    projection: Linear,
}

impl PixelAttention {
    fn new(scope: &Scope<'_>, channels: usize) -> Result<Self, WeightsError> {
        let linear = |name| Linear::from_convolution(&scope.child(name), [channels, channels, 1]);
        Ok(Self {
            norm: GroupNorm::new(&scope.child("norm"), channels, EPSILON)?,
            q: linear("q")?,
            k: linear("k")?,
            v: linear("v")?,
            projection: linear("proj_out")?,
        })
    }

    fn forward(&self, x_bchw: Tensor<4>, room: Option<u64>) -> Tensor<4> {
        let shape = x_bchw.dims();
        let pixels_bnc = self.norm.forward(x_bchw.clone()).flatten::<3>(2, 3).swap_dims(1, 2);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(pixels_bnc.clone()));
        x_bchw + self.projection.forward(wide_attention(q, k, v, room)).swap_dims(1, 2).reshape(shape)
    }
}
