//! What the halves of the VAE are made of where images are large: one piece after the other.

use std::ops::Range;

use burn::tensor::Tensor;

use super::super::convolution::Convolution;
use super::super::norm::GroupNorm;
use super::super::strip::{Norms, Strip};
use super::block::ResidualBlock;

/// A part of a network that can be run in strips.
#[derive(Debug)]
pub(super) enum Piece<'n> {
    Convolution(&'n Convolution),
    Block(&'n ResidualBlock),
    /// A norm, SiLU, and a convolution.
    End(&'n GroupNorm, &'n Convolution),
}

/// Channels, rows and columns.
pub(super) type Size = [usize; 3];

/// What a convolution's inputs are filled up to on a GPU.
pub(super) const EIGHT: usize = 8;

impl<'n> Piece<'n> {
    pub(super) fn forward(&self, x_bchw: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution(convolution) => convolution.forward(x_bchw),
            Self::Block(block) => block.forward(x_bchw),
            Self::End(norm, convolution) => convolution.forward(norm.forward_silu(x_bchw)),
        }
    }

    /// Nothing if a norm has not seen all strips yet.
    pub(super) fn strip(&self, x: Strip, norms: &mut Norms<'n>) -> Option<Strip> {
        Some(match self {
            Self::Convolution(convolution) => x.convolve(convolution),
            Self::Block(block) => block.strip(x, norms)?,
            Self::End(norm, convolution) => norms.silu(norm, x)?.convolve(convolution),
        })
    }

    fn convolutions(&self) -> Vec<&'n Convolution> {
        match self {
            Self::Convolution(convolution) | Self::End(_, convolution) => vec![convolution],
            Self::Block(block) => block.convolutions().to_vec(),
        }
    }

    /// Which of the rows of images that go in, of this height, rows that come out are made of.
    pub(super) fn needs(&self, rows: Range<usize>, height: usize) -> Range<usize> {
        // Only the first of them may change the height.
        self.convolutions().iter().rev().fold(rows, |rows, convolution| convolution.needs(rows, height))
    }

    /// What comes out of an image.
    pub(super) fn size(&self, size: Size) -> Size {
        self.convolutions().iter().fold(size, |[_, rows, columns], convolution| {
            [convolution.channels()[1], convolution.side(rows), convolution.side(columns)]
        })
    }

    /// How many values are in memory at once at its worst moment, if so much goes in and so much comes out.
    pub(super) fn alive(&self, [inputs, rows, columns]: Size, [outputs, out_rows, out_columns]: Size) -> u64 {
        let (pixels, out_pixels) = (rows * columns, out_rows * out_columns);
        (match self {
            Self::Convolution(_) => inputs.next_multiple_of(EIGHT) * pixels + outputs * out_pixels,
            // The block's input, its norm, and what is made of that; later the sum, its addend, and the second norm.
            Self::Block(_) => (2 * inputs + outputs).max(3 * outputs) * pixels,
            Self::End(..) => 2 * inputs * pixels + outputs.next_multiple_of(EIGHT) * out_pixels,
        }) as u64
    }

    /// How many multiplications and additions an image takes, about.
    pub(super) fn work(&self, size: Size) -> f64 {
        let [_, rows, columns] = self.size(size);
        let products: usize = self.convolutions().iter().map(|each| each.channels().iter().product::<usize>()).sum();
        (products * rows * columns) as f64
    }

    pub(super) fn norms(&self) -> usize {
        match self {
            Self::Convolution(_) => 0,
            Self::Block(_) => 2,
            Self::End(..) => 1,
        }
    }
}
