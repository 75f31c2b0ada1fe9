//! CLIP's text encoder (arXiv:2103.00020; transformers' `CLIPTextModelWithProjection`).

use burn::tensor::{DType, Tensor};

use super::activation::{gelu, quick_gelu};
use super::attention::causal_attention;
use super::linear::Linear;
use super::norm::LayerNorm;
use super::tokens::{TokenError, embed, indices};
use super::weights::{Scope, WeightsError};

/// The ε of every layer norm in the network.
const EPSILON: f64 = 1e-5;

/// The width of an attention head: the same in both encoders.
const HEAD_WIDTH: usize = 64;

/// Enough rows for the CPU's ordinary matrix product at any width.
const COPIES: usize = 8;

/// Which of the two encoders it is: they differ in their activation, which no tensor tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipKind {
    /// OpenAI's, 768 wide, with [`quick_gelu`].
    L,
    /// OpenCLIP's bigG, 1280 wide, with the exact [`gelu`].
    G,
}

/// What the encoder says of a batch of texts, in f32.
#[derive(Debug, Clone)]
pub struct ClipOutput {
    /// The tokens after the layer before the last, without the final norm: `[B, S, D]`.
    pub penultimate: Tensor<3>,
    /// The projected end-of-text token: `[B, P]`.
    pub pooled: Tensor<2>,
}

/// The text encoder. It computes in the type of its weights, and its norms in f32.
#[derive(Debug, Clone)]
pub struct Clip {
    tokens: Tensor<2>,
    positions: Tensor<2>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    projection: Option<Linear>,
}

impl Clip {
    /// Builds the encoder from weights named `text_model....`; without `text_projection.weight` the projection is the
    /// identity.
    ///
    /// # Errors
    /// When weights are missing or don't fit each other.
    pub fn new(scope: &Scope<'_>, kind: ClipKind) -> Result<Self, WeightsError> {
        let model = scope.child("text_model");
        let tokens = model.tensor::<2>("embeddings.token_embedding.weight")?;
        let [_, width] = tokens.dims();
        if width == 0 || width % HEAD_WIDTH != 0 {
            return Err(WeightsError::Sizes { reason: format!("a width of {width} is no multiple of {HEAD_WIDTH}") });
        }
        let [positions, _] = model.dims("embeddings.position_embedding.weight")?;
        let encoder = model.child("encoder.layers");
        let layers = (0..encoder.count(|index| format!("{index}.mlp.fc1.weight")))
            .map(|index| Layer::new(&encoder.child(index), width, kind))
            .collect::<Result<_, _>>()?;
        let projection = if scope.has("text_projection.weight") {
            let [outputs, _] = scope.dims("text_projection.weight")?;
            Some(Linear::without_bias(&scope.child("text_projection"), width, outputs)?)
        } else {
            None
        };
        Ok(Self {
            tokens,
            positions: model.shaped("embeddings.position_embedding.weight", [positions, width])?,
            layers,
            norm: LayerNorm::new(&model.child("final_layer_norm"), width, EPSILON)?,
            projection,
        })
    }

    /// Encodes texts of one length, each from the start token to the padding.
    ///
    /// The end of a text is where its largest id first stands: the end-of-text token has the largest id of all, and
    /// CLIP-L pads with it.
    ///
    /// # Errors
    /// When the texts differ in length, are longer than the encoder's positions, or hold ids beyond its vocabulary.
    pub fn forward(&self, token_ids: &[Vec<u32>]) -> Result<ClipOutput, TokenError> {
        let [positions, _] = self.positions.dims();
        let tokens_bsd = embed(&self.tokens, token_ids, Some(positions))?;
        let [batch, length, width] = tokens_bsd.dims();
        let mut x = tokens_bsd + self.positions.clone().narrow(0, 0, length).unsqueeze();
        let mut penultimate = x.clone();
        for layer in &self.layers {
            penultimate = x.clone();
            x = layer.forward(x);
        }
        // Each end is taken several times: products of few rows take other kernels on the CPU, whose sums run in another
        // order, and then the size of the batch would show in the result.
        let ends = token_ids.iter().enumerate();
        let ends = ends.flat_map(|(text, ids)| [text * length + first_largest(ids); COPIES]);
        let ends = indices(ends, &x.device());
        let ends = self.norm.forward(x.reshape([batch * length, width]).select(0, ends));
        let ends = match &self.projection {
            Some(projection) => projection.forward(ends),
            None => ends,
        };
        let [_, features] = ends.dims();
        let pooled = ends.reshape([batch, COPIES, features]).narrow(1, 0, 1).squeeze_dim::<2>(1);
        Ok(ClipOutput { penultimate: penultimate.cast(DType::F32), pooled: pooled.cast(DType::F32) })
    }
}

fn first_largest(ids: &[u32]) -> usize {
    let largest = ids.iter().max();
    ids.iter().position(|id| Some(id) == largest).unwrap_or(0)
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    projection: Linear,
    norm2: LayerNorm,
    first: Linear,
    second: Linear,
    kind: ClipKind,
    heads: usize,
}

impl Layer {
    fn new(scope: &Scope<'_>, width: usize, kind: ClipKind) -> Result<Self, WeightsError> {
        let attention = scope.child("self_attn");
        let linear = |name| Linear::new(&attention.child(name), width, width);
        let [hidden, _] = scope.dims("mlp.fc1.weight")?;
        Ok(Self {
            norm1: LayerNorm::new(&scope.child("layer_norm1"), width, EPSILON)?,
            q: linear("q_proj")?,
            k: linear("k_proj")?,
            v: linear("v_proj")?,
            projection: linear("out_proj")?,
            norm2: LayerNorm::new(&scope.child("layer_norm2"), width, EPSILON)?,
            first: Linear::new(&scope.child("mlp.fc1"), width, hidden)?,
            second: Linear::new(&scope.child("mlp.fc2"), hidden, width)?,
            kind,
            heads: width / HEAD_WIDTH,
        })
    }

    fn forward(&self, x_bsd: Tensor<3>) -> Tensor<3> {
        let input = self.norm1.forward(x_bsd.clone());
        let qkv = [&self.q, &self.k, &self.v].map(|linear| linear.forward(input.clone()));
        let attended = causal_attention(Tensor::cat(qkv.to_vec(), 2), self.heads);
        let x = x_bsd + self.projection.forward(attended);
        let inner = self.first.forward(self.norm2.forward(x.clone()));
        let inner = match self.kind {
            ClipKind::L => quick_gelu(inner),
            ClipKind::G => gelu(inner),
        };
        x + self.second.forward(inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_where_its_largest_id_first_stands() {
        assert_eq!(first_largest(&[7, 1, 9, 9, 9]), 2);
        assert_eq!(first_largest(&[7, 1, 9, 0, 0]), 2);
    }
}
