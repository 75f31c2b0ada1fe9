//! The multimodal diffusion transformer of Stable Diffusion 3 and 3.5 (arXiv:2403.03206; Stability's `mmditx.py`).

mod block;
mod embedding;
mod modulation;

use burn::tensor::activation::silu;
use burn::tensor::{DType, Tensor};

pub use block::{JointBlock, Streams};
pub use embedding::PositionCrop;

use super::linear::Linear;
use super::weights::{Scope, WeightsError, place};
use crate::checkpoint::MmditGeometry;
use embedding::{Embedder, PositionTable, timestep_features};
use modulation::Modulation;

/// The ε of every layer norm and RMS norm in the network.
pub(super) const EPSILON: f64 = 1e-6;

/// The network. Building it copies handles alone, so that a training step can build it anew from tracked weights.
///
/// It computes in the type of its weights; norms, their modulation, and the sinusoid of the timestep are in f32.
#[derive(Debug, Clone)]
pub struct Mmdit {
    /// The joint blocks in their order, for callers who run them one by one (see [`Mmdit::embed`]).
    pub blocks: Vec<JointBlock>,
    geometry: MmditGeometry,
    patches: Linear,
    positions: PositionTable,
    timestep: Embedder,
    pooled: Embedder,
    context: Linear,
    final_modulation: Linear,
    final_linear: Linear,
}

impl Mmdit {
    /// Builds the network from canonically named weights (`x_embedder.proj.weight`, ...), its geometry read off their
    /// shapes.
    ///
    /// # Errors
    /// When weights are missing or don't fit each other.
    pub fn new(scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let geometry = MmditGeometry::of(|name| scope.shape(name).map(<[usize]>::to_vec))?;
        let blocks = (0..geometry.depth).map(|index| Self::block(scope, &geometry, index)).collect::<Result<_, _>>()?;
        Ok(Self { blocks, ..Self::without_blocks(scope, &geometry)? })
    }

    /// One of the blocks, for callers who never have the weights of all of them in one place.
    ///
    /// # Errors
    /// When weights of this block are missing or don't fit the geometry.
    pub fn block(scope: &Scope<'_>, geometry: &MmditGeometry, index: usize) -> Result<JointBlock, WeightsError> {
        JointBlock::new(&scope.child("joint_blocks").child(index), geometry, index)
    }

    /// What comes before the blocks and after them.
    ///
    /// # Errors
    /// When weights outside of the blocks are missing or don't fit the geometry.
    pub fn without_blocks(scope: &Scope<'_>, geometry: &MmditGeometry) -> Result<Self, WeightsError> {
        let width = geometry.width;
        let (patch, channels) = (geometry.patch, geometry.channels);
        let last = scope.child("final_layer");
        Ok(Self {
            blocks: Vec::new(),
            patches: Linear::from_convolution(&scope.child("x_embedder.proj"), [channels, width, patch])?,
            positions: PositionTable::new(scope, geometry.position_grid, width)?,
            timestep: Embedder::new(&scope.child("t_embedder"), crate::checkpoint::TIMESTEP_FEATURES, width)?,
            pooled: Embedder::new(&scope.child("y_embedder"), geometry.pooled_width, width)?,
            context: Linear::new(&scope.child("context_embedder"), geometry.context_width, width)?,
            final_modulation: Linear::new(&last.child("adaLN_modulation.1"), width, 2 * width)?,
            final_linear: Linear::new(&last.child("linear"), width, patch * patch * channels)?,
            geometry: geometry.clone(),
        })
    }

    /// The network's size.
    pub fn geometry(&self) -> &MmditGeometry {
        &self.geometry
    }

    /// The velocity `noise - image` of noisy latents, in f32 and of their shape.
    ///
    /// - `latents_bchw`: `[B, channels, H, W]`, after [`process_in`](super::vae::process_in) and noising; H and W pass
    ///   [`MmditGeometry::check_latents`];
    /// - `timesteps_b`: `[B]`, f32, in 0..1000: a thousand times the noise level σ;
    /// - `context_bsd`: `[B, S, context_width]`, the token features of the text encoders;
    /// - `pooled_bd`: `[B, pooled_width]`;
    /// - `crop`: which part of the table of positions the image takes.
    ///
    /// # Panics
    /// When the shapes are not those.
    pub fn forward(
        &self,
        latents_bchw: Tensor<4>,
        timesteps_b: Tensor<1>,
        context_bsd: Tensor<3>,
        pooled_bd: Tensor<2>,
        crop: PositionCrop,
    ) -> Tensor<4> {
        self.forward_without(&[], latents_bchw, timesteps_b, context_bsd, pooled_bd, crop)
    }

    /// As [`forward`](Self::forward), but some blocks, counted from 0, hand their tokens on as they came.
    ///
    /// # Panics
    /// As there.
    pub fn forward_without(
        &self,
        skipped: &[u32],
        latents_bchw: Tensor<4>,
        timesteps_b: Tensor<1>,
        context_bsd: Tensor<3>,
        pooled_bd: Tensor<2>,
        crop: PositionCrop,
    ) -> Tensor<4> {
        let [_, _, height, width] = latents_bchw.dims();
        let conditioning = self.condition(timesteps_b, pooled_bd);
        let mut streams = self.embed(latents_bchw, context_bsd, crop);
        let blocks = (0..).zip(&self.blocks).filter(|(index, _)| !skipped.contains(index));
        for (_, block) in blocks {
            streams = block.forward(streams, conditioning.clone());
        }
        self.finish(streams.image, conditioning, [height, width])
    }

    /// The conditioning that every block is modulated by, `[B, D]`: timestep plus pooled text, after the SiLU that each
    /// modulation begins with.
    pub fn condition(&self, timesteps_b: Tensor<1>, pooled_bd: Tensor<2>) -> Tensor<2> {
        let (_, dtype) = place(self.final_linear.weight());
        let timestep = self.timestep.forward(timestep_features(timesteps_b).cast(dtype));
        silu(timestep + self.pooled.forward(pooled_bd.cast(dtype)))
    }

    /// Tokens of the image, with their positions, and of the text, as the first block takes them.
    pub fn embed(&self, latents_bchw: Tensor<4>, context_bsd: Tensor<3>, crop: PositionCrop) -> Streams {
        let (_, dtype) = place(self.patches.weight());
        let MmditGeometry { patch, channels, .. } = self.geometry;
        let [batch, _, height, width] = latents_bchw.dims();
        let (rows, columns) = (height / patch, width / patch);
        // A convolution in the reference; as a linear layer it has the faster backward pass.
        let patches_bnp = latents_bchw
            .cast(dtype)
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * patch * patch]);
        let image = self.patches.forward(patches_bnp) + self.positions.crop(rows, columns, crop).cast(dtype);
        Streams { image, context: self.context.forward(context_bsd.cast(dtype)) }
    }

    /// The velocity from the last block's image tokens; `size` is the latents' height and width.
    pub fn finish(&self, image_bnd: Tensor<3>, conditioning_bd: Tensor<2>, size: [usize; 2]) -> Tensor<4> {
        let MmditGeometry { width, patch, channels, .. } = self.geometry;
        let modulation = Modulation::new(self.final_modulation.forward(conditioning_bd), width);
        let x = modulation.apply(modulation.normal(image_bnd), 0);
        let patches = self.final_linear.forward(x).cast(DType::F32);
        let [batch, ..] = patches.dims();
        let (rows, columns) = (size[0] / patch, size[1] / patch);
        patches.reshape([batch, rows, columns, patch, patch, channels]).permute([0, 5, 1, 3, 2, 4]).reshape([
            batch,
            channels,
            rows * patch,
            columns * patch,
        ])
    }
}
