//! The memory that a training needs at its worst moment, by counting what is held.

use crate::{
    captions::report::CLIP_TOKENS,
    checkpoint::{MmditGeometry, POSITION_TABLE, mmdit_names},
    device::DeviceKind,
    precision::Precision,
    train::{TrainJob, parameters::Optimizer},
};
use std::collections::BTreeMap;

/// Bytes of a value in 32 bits.
const F32: u64 = 4;

/// What decides on the memory of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    /// The network.
    pub geometry: MmditGeometry,
    /// Values that are trained.
    pub trained: u64,
    /// Values that are only read: the table of positions, and whatever is frozen.
    pub frozen: u64,
    /// Values of the largest tensor: an optimizer's step holds a few of its size.
    pub largest: u64,
    /// Bytes in which a trained value is kept from step to step.
    pub master_bytes: u64,
    /// Bytes that the optimizer keeps of a trained value.
    pub state_bytes: u64,
    /// The type that the network computes in.
    pub precision: Precision,
    /// Whether gradients of several batches are added up before a step.
    pub accumulates: bool,
    /// Whether blocks are run again in the backward pass, so that of all but one only their input is kept.
    pub recomputes_blocks: bool,
    /// Whether attention keeps no scores: its backward pass is a kernel of its own on GPUs, and is put together from the scores on CPUs.
    pub fused_attention: bool,
    /// Every shape of a batch: samples, tokens of an image, tokens of a text.
    pub batches: Vec<[u64; 3]>,
}

impl Footprint {
    /// That of a job.
    pub fn of(job: &TrainJob) -> Self {
        let geometry = job.facts.geometry.clone();
        let names = mmdit_names(&geometry);
        let sizes = || names.iter().map(|(name, shape)| (name, shape.iter().product::<usize>() as u64));
        let sum = |trained: bool| {
            sizes().filter(|(name, _)| (*name != POSITION_TABLE) == trained).map(|(_, size)| size).sum()
        };
        let text = CLIP_TOKENS as u64 + u64::from(job.t5_tokens);
        let patch = 8 * geometry.patch as u64;
        let mut buckets: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for item in &job.items {
            *buckets.entry(item.bucket).or_default() += u64::from(item.repeats);
        }
        let batches = buckets.into_iter().map(|((width, height), turns)| {
            let image = u64::from(width) / patch * (u64::from(height) / patch);
            [turns.min(job.parameters.batch.into()), image, text]
        });
        Self {
            trained: sum(true),
            frozen: sum(false),
            largest: sizes().map(|(_, size)| size).max().unwrap_or_default(),
            master_bytes: F32,
            state_bytes: match job.parameters.optimizer {
                Optimizer::AdamW { .. } => 2 * F32,
            },
            precision: job.parameters.precision,
            accumulates: job.parameters.accumulate > 1,
            recomputes_blocks: false,
            fused_attention: job.facts.device == DeviceKind::Cuda,
            batches: batches.collect(),
            geometry,
        }
    }

    /// The most bytes that are held at once, whichever moment that is:
    ///
    /// - the end of the forward pass, with all activations;
    /// - the end of the backward pass, with all gradients, in the network's type and as they are cast to 32 bits;
    /// - the optimizer's step, with the gradients in 32 bits.
    pub fn peak(&self) -> u64 {
        let precision = self.precision.bytes() as u64;
        // Casting to the type that a tensor has copies nothing.
        let other_type = |bytes: u64, values: u64| if bytes == precision { 0 } else { values * precision };
        let kept = (self.trained + self.frozen) * self.master_bytes
            + other_type(self.master_bytes, self.trained + self.frozen)
            + self.trained * self.state_bytes;
        let gradients = self.trained * F32;
        let summed = if self.accumulates { gradients } else { 0 };
        let forward = summed + self.activations();
        let backward = summed + gradients + other_type(F32, self.trained);
        let step = gradients + 6 * F32 * self.largest;
        kept + forward.max(backward).max(step)
    }

    /// The bytes of all that the forward pass keeps for the backward pass, of the batch that needs most.
    pub fn activations(&self) -> u64 {
        self.batches.iter().map(|batch| self.activations_of(*batch)).max().unwrap_or_default()
    }

    fn activations_of(&self, [samples, image, text]: [u64; 3]) -> u64 {
        let geometry = &self.geometry;
        let (width, precision) = (geometry.width as u64, self.precision.bytes() as u64);
        let streams = [samples * image * width, samples * text * width];
        let block = |index: usize| {
            let last = index + 1 == geometry.depth;
            let dual = geometry.dual_attention.contains(&index);
            let [image_values, text_values] = streams;
            let values = image_values + text_values;
            let mut bytes = self.before_attention(values) + self.attention(samples, image + text, values);
            bytes += self.after_attention(image_values) + if last { 0 } else { self.after_attention(text_values) };
            if dual {
                // Its input is another modulation of the same norm; what it gives is kept by its gate.
                bytes += self.projections(image_values)
                    + self.attention(samples, image, image_values)
                    + image_values * precision;
            }
            bytes
        };
        let blocks = (0..geometry.depth).map(block);
        let blocks: u64 = match self.recomputes_blocks {
            false => blocks.sum(),
            true => blocks.max().unwrap_or_default() + geometry.depth as u64 * (streams[0] + streams[1]) * precision,
        };
        // The embedders' inputs, and the last norm with its modulation and what it feeds.
        let inputs = samples
            * precision
            * (text * geometry.context_width as u64
                + image * (geometry.patch * geometry.patch * geometry.channels) as u64);
        blocks + inputs + self.norm(streams[0])
    }

    /// A layer norm and its modulation, of so many values: the centred and the normal values, in 32 bits, and what comes out in the
    /// network's type, which the next layer keeps for its weight's gradient.
    fn norm(&self, values: u64) -> u64 {
        values * (2 * F32 + self.precision.bytes() as u64)
    }

    /// Queries, keys and values; with their norms also what these divide, and what they give before it is scaled, in 32 bits.
    fn projections(&self, values: u64) -> u64 {
        let precision = self.precision.bytes() as u64;
        let norms = match (self.geometry.qk_norm, self.precision) {
            (false, _) => 0,
            (true, Precision::F32) => 2 * F32,
            (true, _) => 2 * 2 * F32,
        };
        // The norm's output once more: it is the projection's input.
        values * (precision + 3 * precision + norms)
    }

    fn before_attention(&self, values: u64) -> u64 {
        values * 2 * F32 + self.projections(values)
    }

    /// What attention keeps beside queries, keys and values: its result, and the logarithms of its sums or, put together from
    /// single operations, of the scores what the exponential reads, what it gives, and the shares.
    fn attention(&self, samples: u64, tokens: u64, values: u64) -> u64 {
        let precision = self.precision.bytes() as u64;
        let rows = samples * self.geometry.heads as u64 * tokens;
        let scores = if self.fused_attention { values * precision + rows * F32 } else { 3 * rows * tokens * precision };
        // Heads are joined again in a copy, which the output's projection keeps.
        values * precision + scores
    }

    /// The gated projection, the second norm, and the feed-forward network: inside it is four times as wide, and its GELU keeps its
    /// input, the polynomial, the sigmoid's argument and value, and gives the last layer's input.
    fn after_attention(&self, values: u64) -> u64 {
        let precision = self.precision.bytes() as u64;
        values * precision + self.norm(values) + 5 * 4 * values * precision + values * precision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SD3-medium at 1024 pixels, as far as memory goes.
    fn medium() -> Footprint {
        let geometry = MmditGeometry {
            depth: 24,
            width: 1536,
            heads: 24,
            qk_norm: false,
            dual_attention: Vec::new(),
            position_grid: 192,
            context_width: 4096,
            pooled_width: 2048,
            patch: 2,
            channels: 16,
        };
        Footprint {
            geometry,
            trained: 2_028_328_000,
            frozen: 56_623_104,
            largest: 56_623_104,
            master_bytes: 4,
            state_bytes: 8,
            precision: Precision::Bf16,
            accumulates: false,
            recomputes_blocks: false,
            fused_attention: true,
            batches: vec![[1, 4096, 333]],
        }
    }

    #[test]
    fn a_block_keeps_what_its_operations_list() {
        let one = Footprint { geometry: MmditGeometry { depth: 1, ..medium().geometry }, ..medium() };
        let two = Footprint { geometry: MmditGeometry { depth: 2, ..medium().geometry }, ..medium() };
        // Of a value of each stream: two norms with two values each in 32 bits; in 16 bits their two outputs, q, k and v, what
        // attention gives twice, the gated projection, five times four inside the feed-forward network, and the gated output.
        let values = (4096 + 333) * 1536;
        let logarithms = 24 * (4096 + 333) * 4;
        assert_eq!(two.activations() - one.activations(), values * (4 * 4 + 2 * (2 + 3 + 2 + 1 + 20 + 1)) + logarithms);
    }

    #[test]
    fn scores_are_kept_where_attention_is_not_fused() {
        let fused = medium();
        let plain = Footprint { fused_attention: false, ..medium() };
        let tokens = 4096 + 333;
        let scores = 24 * (24 * tokens * tokens * 3 * 2);
        let instead = 24 * (tokens * 1536 * 2 + 24 * tokens * 4);
        assert_eq!(plain.activations() - fused.activations(), scores - instead);
    }

    #[test]
    fn recomputing_keeps_one_block_and_the_inputs_of_the_others() {
        let all = medium().activations();
        let some = Footprint { recomputes_blocks: true, ..medium() }.activations();
        assert!(some < all / 10, "{some} of {all}");
    }

    #[test]
    fn the_peak_is_at_the_gradients_when_activations_are_few() {
        let few = Footprint { batches: vec![[1, 16, 93]], ..medium() };
        let (trained, frozen) = (few.trained, few.frozen);
        // Weights, their copies, two moments, gradients in both types.
        assert_eq!(few.peak(), trained * (4 + 2 + 8 + 2 + 4) + frozen * (4 + 2));
        let single = Footprint { precision: Precision::F32, ..few.clone() };
        assert_eq!(single.peak(), trained * (4 + 8 + 4) + frozen * 4 + 6 * 4 * few.largest);
        let summed = Footprint { accumulates: true, ..few.clone() };
        assert_eq!(summed.peak() - few.peak(), 4 * trained);
        let lighter = Footprint { state_bytes: 2, ..few.clone() };
        assert_eq!(few.peak() - lighter.peak(), 6 * trained);
    }
}
