//! A joint block: two streams, image and text, each with its own weights, that attend to each other.

use burn::tensor::Tensor;

use super::super::activation::gelu_tanh;
use super::super::attention::attention;
use super::super::linear::Linear;
use super::super::norm::RmsNorm;
use super::super::split::split;
use super::super::weights::{Scope, WeightsError};
use super::EPSILON;
use super::modulation::Modulation;
use crate::checkpoint::MmditGeometry;

/// The tokens between two blocks.
#[derive(Debug, Clone)]
pub struct Streams {
    /// The image's tokens, `[B, N, D]`.
    pub image: Tensor<3>,
    /// The text's tokens, `[B, S, D]`.
    pub context: Tensor<3>,
}

/// One block. In the last one nothing comes after the text's keys and values, since nobody reads its text again.
#[derive(Debug, Clone)]
pub struct JointBlock {
    image: Stream,
    context: Stream,
}

impl JointBlock {
    pub(super) fn new(scope: &Scope<'_>, geometry: &MmditGeometry, index: usize) -> Result<Self, WeightsError> {
        let dual = geometry.dual_attention.contains(&index);
        let last = index + 1 == geometry.depth;
        Ok(Self {
            image: Stream::new(&scope.child("x_block"), geometry, dual, false)?,
            context: Stream::new(&scope.child("context_block"), geometry, false, last)?,
        })
    }

    /// Tokens after the block; the last block gives the text's back as they came.
    ///
    /// `conditioning_bd` is that of [`Mmdit::condition`](super::Mmdit::condition).
    pub fn forward(&self, streams: Streams, conditioning_bd: Tensor<2>) -> Streams {
        let Streams { image, context } = streams;
        let image_modulation = self.image.modulation(conditioning_bd.clone());
        let context_modulation = self.context.modulation(conditioning_bd);
        let image_normal = image_modulation.normal(image.clone());
        let context_normal = context_modulation.normal(context.clone());

        let image_input = image_modulation.apply(image_normal.clone(), 0);
        let context_input = context_modulation.apply(context_normal, 0);
        let [_, context_length, _] = context.dims();
        let qkv = [self.context.attention.project(context_input), self.image.attention.project(image_input)];
        let joint_bnd = attention(Tensor::cat(qkv.to_vec(), 1), self.image.attention.heads);
        let [_, length, _] = joint_bnd.dims();
        let [context_attended, image_attended] = split(joint_bnd, 1, [context_length, length - context_length]);

        let second = self.image.second_attention.as_ref().map(|attention| {
            // The third group of the modulation is the second attention's; its gate comes after shift and scale.
            attention.finish(attention.to_itself(image_modulation.apply(image_normal, 6)))
        });
        let image = self.image.finish(image, image_attended, second, &image_modulation);
        let context = self.context.finish(context, context_attended, None, &context_modulation);
        Streams { image, context }
    }
}

/// One of a block's two halves.
#[derive(Debug, Clone)]
struct Stream {
    modulation: Linear,
    attention: Attention,
    second_attention: Option<Attention>,
    feed_forward: Option<FeedForward>,
    width: usize,
}

impl Stream {
    fn new(scope: &Scope<'_>, geometry: &MmditGeometry, dual: bool, last: bool) -> Result<Self, WeightsError> {
        let width = geometry.width;
        let parts = match (dual, last) {
            (true, _) => 9,
            (false, false) => 6,
            (false, true) => 2,
        };
        let second = dual.then(|| Attention::new(&scope.child("attn2"), geometry, false)).transpose()?;
        let feed_forward = (!last).then(|| FeedForward::new(&scope.child("mlp"), width)).transpose()?;
        Ok(Self {
            modulation: Linear::new(&scope.child("adaLN_modulation.1"), width, parts * width)?,
            attention: Attention::new(&scope.child("attn"), geometry, last)?,
            second_attention: second,
            feed_forward,
            width,
        })
    }

    fn modulation(&self, conditioning_bd: Tensor<2>) -> Modulation {
        Modulation::new(self.modulation.forward(conditioning_bd), self.width)
    }

    /// Everything after the joint attention; a last block's text has nothing there.
    fn finish(
        &self,
        x_bnd: Tensor<3>,
        attended_bnd: Tensor<3>,
        second_bnd: Option<Tensor<3>>,
        modulation: &Modulation,
    ) -> Tensor<3> {
        let Some(feed_forward) = &self.feed_forward else { return x_bnd };
        let mut x = modulation.add_gated(x_bnd, self.attention.finish(attended_bnd), 2);
        if let Some(second) = second_bnd {
            x = modulation.add_gated(x, second, 8);
        }
        let input = modulation.apply(modulation.normal(x.clone()), 3);
        modulation.add_gated(x, feed_forward.forward(input), 5)
    }
}

/// The projections around an attention.
#[derive(Debug, Clone)]
struct Attention {
    qkv: Linear,
    norms: Option<(RmsNorm, RmsNorm)>,
    projection: Option<Linear>,
    heads: usize,
}

impl Attention {
    fn new(scope: &Scope<'_>, geometry: &MmditGeometry, last: bool) -> Result<Self, WeightsError> {
        let width = geometry.width;
        let norm = |name| RmsNorm::new(&scope.child(name), geometry.head_width(), EPSILON);
        Ok(Self {
            qkv: Linear::new(&scope.child("qkv"), width, 3 * width)?,
            norms: geometry.qk_norm.then(|| Ok::<_, WeightsError>((norm("ln_q")?, norm("ln_k")?))).transpose()?,
            projection: (!last).then(|| Linear::new(&scope.child("proj"), width, width)).transpose()?,
            heads: geometry.heads,
        })
    }

    /// Queries, keys and values one after the other, `[B, N, 3·D]`.
    fn project(&self, x_bnd: Tensor<3>) -> Tensor<3> {
        let qkv = self.qkv.forward(x_bnd);
        let Some((query_norm, key_norm)) = &self.norms else { return qkv };
        let [batch, length, width] = qkv.dims();
        let parts = qkv.reshape([batch, length, 3 * self.heads, width / (3 * self.heads)]);
        let [q, k, v] = split(parts, 2, [self.heads; 3]);
        Tensor::cat(vec![query_norm.forward(q), key_norm.forward(k), v], 2).reshape([batch, length, width])
    }

    fn to_itself(&self, x_bnd: Tensor<3>) -> Tensor<3> {
        attention(self.project(x_bnd), self.heads)
    }

    fn finish(&self, attended_bnd: Tensor<3>) -> Tensor<3> {
        match &self.projection {
            Some(projection) => projection.forward(attended_bnd),
            None => attended_bnd,
        }
    }
}

/// The token-wise network: four times wider inside.
#[derive(Debug, Clone)]
struct FeedForward {
    first: Linear,
    second: Linear,
}

impl FeedForward {
    fn new(scope: &Scope<'_>, width: usize) -> Result<Self, WeightsError> {
        let first = Linear::new(&scope.child("fc1"), width, 4 * width)?;
        Ok(Self { first, second: Linear::new(&scope.child("fc2"), 4 * width, width)? })
    }

    fn forward(&self, x_bnd: Tensor<3>) -> Tensor<3> {
        self.second.forward(gelu_tanh(self.first.forward(x_bnd)))
    }
}
