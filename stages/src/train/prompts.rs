//! Captions on their way into a batch: encodings out of the store, and token ids for CLIPs that have an adapter.

use crate::{
    adapter,
    checkpoint::Component,
    error::StageError,
    nn::{Clip, Weights},
    text::{self, Conditioning, Dropped, Encoded, tokenizer::ClipTokenizer},
    train::TrainJob,
};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// What becomes of the captions of a training.
pub(super) struct Prompts {
    conditioning: Conditioning,
    /// The CLIPs that have an adapter, each with the first of its channels.
    clips: Vec<(Component, usize)>,
    /// There only with them.
    tokenizer: Option<ClipTokenizer>,
}

/// A sample's caption.
pub(super) struct Caption<'c> {
    /// The text.
    pub text: &'c str,
    /// Its encodings.
    pub encoded: Encoded,
    /// The encoders that it's kept from.
    pub dropped: Dropped,
}

impl Prompts {
    /// Those of a job.
    ///
    /// # Errors
    /// When CLIPs have an adapter and their tokenizer can't be opened, or changed.
    pub fn new(job: &TrainJob) -> Result<Self, StageError> {
        let conditioning = Conditioning::new(&job.facts.geometry, job.t5_tokens);
        let width = |clip| {
            let tensors: &[(String, Vec<usize>)] = job.facts.clips.get(&clip).map_or(&[], Vec::as_slice);
            let embedding = tensors.iter().find(|(name, _)| name.ends_with("token_embedding.weight"));
            embedding.and_then(|(_, shape)| shape.last()).copied()
        };
        let of_clip_g = conditioning.channel_of_clip_g(width(Component::ClipL), width(Component::ClipG));
        let channel = |clip| if clip == Component::ClipG { of_clip_g } else { 0 };
        let clips: Vec<_> = job.clips().into_iter().map(|clip| (clip, channel(clip))).collect();
        let tokenizer = (!clips.is_empty()).then(|| text::clip_tokenizer(&job.facts)).transpose()?;
        Ok(Self { conditioning, clips, tokenizer })
    }

    /// The context and the pooled vector of a batch as the cached encodings have them, and what the CLIPs with an adapter put in
    /// their place.
    ///
    /// # Errors
    /// When encodings don't fit the network, or a text has no tokens.
    pub fn read(
        &self,
        captions: &[Caption<'_>],
        device: &Device,
        dtype: DType,
    ) -> Result<(Tensor<3>, Tensor<2>, Vec<Prompt>), StageError> {
        let encoded: Vec<_> = captions.iter().map(|caption| (&caption.encoded, caption.dropped)).collect();
        let (context, pooled) = self.conditioning.assemble(&encoded, device, dtype)?;
        let mut prompts = Vec::new();
        for (clip, channel) in self.clips.iter().copied() {
            let (_, pad) = text::clip_kind(clip);
            let tokenizer = self.tokenizer.iter();
            let ids = tokenizer
                .flat_map(|tokenizer| captions.iter().map(|caption| Ok(tokenizer.encode(caption.text, pad)?.ids)));
            let ids = ids.collect::<Result<_, StageError>>()?;
            let dropped = |dropped: Dropped| if clip == Component::ClipL { dropped.clip_l } else { dropped.clip_g };
            let kept = captions.iter().map(|caption| if dropped(caption.dropped) { 0.0 } else { 1.0 }).collect();
            prompts.push(Prompt { clip, ids, kept, channel });
        }
        Ok((context, pooled, prompts))
    }
}

/// The captions of a batch as a CLIP with an adapter reads them.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The CLIP.
    pub clip: Component,
    /// The token ids of each sample, padding included.
    pub ids: Vec<Vec<u32>>,
    /// For each sample 1, or 0 where zeros are to stand in the encoder's place.
    pub kept: Vec<f32>,
    /// The first of the CLIP's channels, in the context and in the pooled vector.
    pub channel: usize,
}

impl Prompt {
    /// Encodes the captions with the CLIP among `weights`, and puts the states and the pooled vectors in their places of a context
    /// and a pooled vector, so that gradients flow back from there.
    ///
    /// # Errors
    /// When the weights make no CLIP, or it doesn't know the ids.
    pub fn put(
        &self,
        weights: &Weights,
        (context, pooled): (Tensor<3>, Tensor<2>),
    ) -> Result<(Tensor<3>, Tensor<2>), StageError> {
        let (kind, _) = text::clip_kind(self.clip);
        let name = adapter::prefix(self.clip).trim_end_matches('.');
        let output = Clip::new(&weights.root().child(name), kind)?.forward(&self.ids)?;
        let (place, samples) = ((&output.pooled.device(), DType::F32), self.kept.len());
        let kept = Tensor::<1>::from_data(TensorData::new(self.kept.clone(), [samples]), place);
        let states = (output.penultimate * kept.clone().reshape([samples, 1, 1])).cast(context.dtype());
        let vector = (output.pooled * kept.reshape([samples, 1])).cast(pooled.dtype());

        let ([_, rows, _], [_, all, _]) = (states.dims(), context.dims());
        let context = Tensor::cat(
            vec![
                replaced(context.clone().narrow(1, 0, rows), self.channel, states.clone()),
                like(context.narrow(1, rows, all - rows), &states),
            ],
            1,
        );
        Ok((context, replaced(pooled, self.channel, vector)))
    }
}

/// The same but for `part`, which takes the place of what stands there from `start` on in the last dimension.
fn replaced<const D: usize>(whole: Tensor<D>, start: usize, part: Tensor<D>) -> Tensor<D> {
    let (all, end) = (whole.dims()[D - 1], start + part.dims()[D - 1]);
    let around = |range: std::ops::Range<usize>| {
        (!range.is_empty()).then(|| like(whole.clone().narrow(D - 1, range.start, range.len()), &part))
    };
    let pieces = [around(0..start), Some(part.clone()), around(end..all)];
    Tensor::cat(pieces.into_iter().flatten().collect(), D - 1)
}

/// A constant beside a tensor whose gradients are tracked.
fn like<const D: usize, const E: usize>(tensor: Tensor<D>, beside: &Tensor<E>) -> Tensor<D> {
    if beside.is_autodiff() { tensor.autodiff() } else { tensor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::to_host;

    #[test]
    fn a_part_is_put_in_its_place() {
        let device = Device::flex();
        let whole = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
        let put =
            |start, part: [[f32; 1]; 2]| to_host(replaced(whole.clone(), start, Tensor::from_floats(part, &device)));
        assert_eq!(put(0, [[7.0], [8.0]]), [7.0, 2.0, 3.0, 8.0, 5.0, 6.0]);
        assert_eq!(put(1, [[7.0], [8.0]]), [1.0, 7.0, 3.0, 4.0, 8.0, 6.0]);
        assert_eq!(put(2, [[7.0], [8.0]]), [1.0, 2.0, 7.0, 4.0, 5.0, 8.0]);
    }
}
