//! The encoder of T5 v1.1 (arXiv:1910.10683; transformers' `T5EncoderModel`).

use burn::tensor::{DType, Tensor};

use super::activation::gelu_tanh;
use super::attention::biased_attention;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::tokens::{TokenError, embed, indices};
use super::weights::{Scope, WeightsError};

/// The ε of every norm in the network.
const EPSILON: f64 = 1e-6;

/// The number of buckets that distances between tokens fall into, half of them for each direction.
const BUCKETS: usize = 32;

/// The encoder. It computes in the type of its weights, and its norms in f32.
///
/// In f16 the values inside released encoders overflow: use bf16 or f32.
#[derive(Debug, Clone)]
pub struct T5 {
    ends: T5Ends,
    blocks: Vec<T5Block>,
}

/// What is around the blocks, which may then come one after the other.
#[derive(Debug, Clone)]
pub struct T5Ends {
    tokens: Tensor<2>,
    /// A bias a bucket and head, `[32, K]`; the first block's, which all blocks share.
    distances: Tensor<2>,
    norm: RmsNorm,
}

impl T5 {
    /// Builds the encoder from weights named `shared.weight` and `encoder....`; sizes are read off their shapes.
    ///
    /// # Errors
    /// When weights are missing or don't fit each other.
    pub fn new(scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let ends = T5Ends::new(scope)?;
        let count = scope.child("encoder").count(|index| format!("block.{index}.layer.0.SelfAttention.q.weight"));
        let blocks = (0..count).map(|index| ends.block(scope, index)).collect::<Result<_, _>>()?;
        Ok(Self { ends, blocks })
    }

    /// Encodes texts of one length to `[B, S, D]`, in f32. Padding is not masked, as in Stable Diffusion 3.
    ///
    /// # Errors
    /// When the texts differ in length or hold ids beyond the encoder's vocabulary.
    pub fn forward(&self, token_ids: &[Vec<u32>]) -> Result<Tensor<3>, TokenError> {
        let mut x = self.ends.embed(token_ids)?;
        let [_, length, _] = x.dims();
        let bias = self.ends.bias(length);
        for block in &self.blocks {
            x = block.forward(x, bias.clone());
        }
        Ok(self.ends.finish(x))
    }
}

impl T5Ends {
    /// Those of weights named as for [`T5::new`], of which no block but the first one's `relative_attention_bias` is read.
    ///
    /// # Errors
    /// When weights are missing or don't fit each other.
    pub fn new(scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let tokens = scope.tensor::<2>("shared.weight")?;
        let [_, width] = tokens.dims();
        let encoder = scope.child("encoder");
        let distances = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let [_, heads] = encoder.dims(distances)?;
        let distances = encoder.shaped(distances, [BUCKETS, heads])?;
        Ok(Self { tokens, distances, norm: RmsNorm::new(&encoder.child("final_layer_norm"), width, EPSILON)? })
    }

    /// One of the blocks, counted from 0.
    ///
    /// # Errors
    /// When weights are missing or don't fit each other.
    pub fn block(&self, scope: &Scope<'_>, index: usize) -> Result<T5Block, WeightsError> {
        let ([_, width], [_, heads]) = (self.tokens.dims(), self.distances.dims());
        T5Block::new(&scope.child("encoder").child("block").child(index).child("layer"), width, heads)
    }

    /// What goes into the first block: `[B, S, D]`.
    ///
    /// # Errors
    /// When the texts differ in length or hold ids beyond the encoder's vocabulary.
    pub fn embed(&self, token_ids: &[Vec<u32>]) -> Result<Tensor<3>, TokenError> {
        embed(&self.tokens, token_ids, None)
    }

    /// The encoding of what comes out of the last block, in f32.
    pub fn finish(&self, x_bsd: Tensor<3>) -> Tensor<3> {
        self.norm.forward(x_bsd).cast(DType::F32)
    }

    /// The bias of every query (rows) to every key (columns): `[1, K, S, S]`.
    pub fn bias(&self, length: usize) -> Tensor<4> {
        let [_, heads] = self.distances.dims();
        let buckets = (0..length).flat_map(|query| (0..length).map(move |key| bucket(query, key)));
        let chosen = self.distances.clone().select(0, indices(buckets, &self.distances.device()));
        chosen.reshape([1, length, length, heads]).permute([0, 3, 1, 2])
    }
}

/// The bucket of a key as seen from a query: keys behind it come second, near ones have a bucket each, and farther ones
/// share buckets that widen by √2 up to a distance of 128 (transformers' `_relative_position_bucket`).
fn bucket(query: usize, key: usize) -> usize {
    const HALF: usize = BUCKETS / 2;
    const NEAR: usize = HALF / 2;
    let distance = query.abs_diff(key);
    let side = if key > query { HALF } else { 0 };
    if distance < NEAR {
        return side + distance;
    }
    // The formula is 8 + ⌊8·log₁₆(distance/8)⌋; squared, it needs no logarithm.
    let wider = (1..HALF - NEAR).take_while(|step| distance * distance >= (NEAR * NEAR) << step).count();
    side + NEAR + wider
}

/// Attention of all tokens, and a gated feed-forward network.
#[derive(Debug, Clone)]
pub struct T5Block {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    projection: Linear,
    feed_forward_norm: RmsNorm,
    gate: Linear,
    first: Linear,
    second: Linear,
}

impl T5Block {
    fn new(scope: &Scope<'_>, width: usize, heads: usize) -> Result<Self, WeightsError> {
        let attention = scope.child("0.SelfAttention");
        let feed_forward = scope.child("1.DenseReluDense");
        let [inner, _] = attention.dims("q.weight")?;
        let [hidden, _] = feed_forward.dims("wi_0.weight")?;
        if heads == 0 || inner % heads != 0 {
            return Err(WeightsError::Sizes { reason: format!("{inner} features don't make {heads} equal heads") });
        }
        let linear =
            |scope: &Scope<'_>, name, inputs, outputs| Linear::without_bias(&scope.child(name), inputs, outputs);
        Ok(Self {
            attention_norm: RmsNorm::new(&scope.child("0.layer_norm"), width, EPSILON)?,
            q: linear(&attention, "q", width, inner)?,
            k: linear(&attention, "k", width, inner)?,
            v: linear(&attention, "v", width, inner)?,
            projection: linear(&attention, "o", inner, width)?,
            feed_forward_norm: RmsNorm::new(&scope.child("1.layer_norm"), width, EPSILON)?,
            gate: linear(&feed_forward, "wi_0", width, hidden)?,
            first: linear(&feed_forward, "wi_1", width, hidden)?,
            second: linear(&feed_forward, "wo", hidden, width)?,
        })
    }

    /// `[B, S, D]` to the same, with the bias that [`T5Ends::bias`] gives.
    pub fn forward(&self, x_bsd: Tensor<3>, bias_1kss: Tensor<4>) -> Tensor<3> {
        let input = self.attention_norm.forward(x_bsd.clone());
        let qkv = [&self.q, &self.k, &self.v].map(|linear| linear.forward(input.clone()));
        let x = x_bsd + self.projection.forward(biased_attention(Tensor::cat(qkv.to_vec(), 2), bias_1kss));
        let input = self.feed_forward_norm.forward(x.clone());
        let inner = gelu_tanh(self.gate.forward(input.clone())) * self.first.forward(input);
        x + self.second.forward(inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_the_formula() {
        let ahead =
            [(0, 0), (7, 7), (8, 8), (11, 8), (12, 9), (15, 9), (16, 10), (31, 11), (32, 12), (64, 14), (91, 15)];
        for (distance, expected) in ahead.into_iter().chain([(127, 15), (128, 15), (400, 15)]) {
            assert_eq!(bucket(distance, 0), expected, "{distance} before");
            let behind = if distance == 0 { 0 } else { 16 + expected };
            assert_eq!(bucket(0, distance), behind, "{distance} after");
        }
    }
}
