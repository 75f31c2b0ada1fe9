//! The memory that a training needs at its worst moment, by counting what is held.

use crate::{
    adapter::{Clips, network_of, parameters::Method, prefix},
    captions::report::CLIP_TOKENS,
    checkpoint::{Component, MmditGeometry, block_of, mmdit_names},
    device::DeviceKind,
    error::StageError,
    precision::Precision,
    train::{
        TrainJob,
        optimizer::Optimizer,
        parameters::{Checkpointing, Train},
    },
};
use std::collections::BTreeMap;

/// Bytes of a value in 32 bits.
const F32: u64 = 4;

/// What decides on the memory of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    /// The network.
    pub geometry: MmditGeometry,
    /// The CLIPs that run in every step because they have an adapter: layers, width, and width inside the feed-forward network.
    pub clips: Vec<[u64; 3]>,
    /// Bytes of weights, of their running mean and of the optimizer's states that are held on the device from step to step.
    pub held: u64,
    /// Those of the running mean and of the optimizer's states among them, of which each of several devices holds its part.
    pub shared: u64,
    /// The whole network, whose copies in the type that it computes in are there at once without `checkpointing`.
    pub whole: Part,
    /// The largest block, or everything around the blocks, whichever is more.
    pub largest_part: Part,
    /// Values of the largest tensor: an optimizer's step holds a few of its size.
    pub largest: u64,
    /// The type that the network computes in.
    pub precision: Precision,
    /// Whether gradients of several batches are added up before a step.
    pub accumulates: bool,
    /// Whether blocks are run again in the backward pass, so that of all but one only their input is kept.
    pub recomputes_blocks: bool,
    /// Whether gradients are freed as soon as they are used.
    pub fused_step: bool,
    /// Whether it runs on a GPU, where attention keeps no scores: its backward pass is a kernel of its own there, and is put together from
    /// the scores on CPUs.
    pub on_gpu: bool,
    /// Whether gradients are cast to 32 bits before a step; kernels take them as they are.
    pub casts_gradients: bool,
    /// Every shape of a batch: samples, tokens of an image, tokens of a text.
    pub batches: Vec<[u64; 3]>,
}

/// Bytes on a GPU beside all that is counted, as measured on an H100: CUDA's context and the kernels, half of it, and what pools of memory
/// hold and don't use.
const BESIDE: u64 = 1300 << 20;

/// Sections whose weights travel together once they are moved: for each call the devices wait for each other.
pub(super) const SECTIONS_TOGETHER: usize = 4;

/// The width of a head of either CLIP.
const CLIP_HEAD: u64 = 64;

/// Layers, width, and width inside the feed-forward network.
fn clip_sizes(tensors: &[(String, Vec<usize>)]) -> [u64; 3] {
    let inner = tensors.iter().filter(|(name, _)| name.ends_with(".mlp.fc1.weight"));
    let side = |index: usize| inner.clone().find_map(|(_, shape)| shape.get(index)).copied().unwrap_or_default() as u64;
    [inner.clone().count() as u64, side(1), side(0)]
}

/// A part of the network, or all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// Values that are trained.
    pub trained: u64,
    /// Bytes of their weights, as they are kept.
    pub weights: u64,
    /// Bytes of what is there only while the part runs: copies in the network's type, and what comes from the host's memory.
    pub guests: u64,
}

impl Footprint {
    /// That of a job.
    ///
    /// # Errors
    /// When an adapter can't sit where it is to.
    pub fn of(job: &TrainJob) -> Result<Self, StageError> {
        let text = CLIP_TOKENS as u64 + u64::from(job.t5_tokens);
        let patch = 8 * job.facts.geometry.patch as u64;
        let mut buckets: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for item in &job.items {
            *buckets.entry(item.bucket).or_default() += u64::from(item.repeats);
        }
        let batches = buckets.into_iter().map(|((width, height), turns)| {
            let image = u64::from(width) / patch * (u64::from(height) / patch);
            [turns.min(job.parameters.batch.into()), image, text]
        });
        Self::new(&job.facts.geometry, &job.facts.clips, &job.parameters, job.facts.device, batches.collect())
    }

    /// That of a training with batches of these shapes.
    ///
    /// # Errors
    /// When an adapter can't sit where it is to.
    pub fn new(
        geometry: &MmditGeometry,
        clips: &Clips,
        parameters: &Train,
        device: DeviceKind,
        batches: Vec<[u64; 3]>,
    ) -> Result<Self, StageError> {
        let on_gpu = device == DeviceKind::Cuda;
        let by_kernel = matches!(parameters.optimizer, Optimizer::AdamW(_) | Optimizer::AdamW8bit(_));
        let (mut held, mut shared, mut largest, mut parts) =
            (0, 0, 0, BTreeMap::<(Component, Option<usize>), Part>::new());
        let own = parameters.tensors(geometry, clips)?.into_iter().map(|tensor| (tensor, false));
        let (mut beside, mut running) = (Vec::new(), Vec::new());
        if let Method::LoRA(lora) = &parameters.method {
            beside = mmdit_names(geometry);
            for (clip, tensors) in lora.clips().filter_map(|clip| Some((clip, clips.get(&clip)?))) {
                beside.extend(tensors.iter().map(|(name, shape)| (format!("{}{name}", prefix(clip)), shape.clone())));
                running.push(clip_sizes(tensors));
            }
        }
        for ((name, shape), frozen) in own.chain(beside.into_iter().map(|tensor| (tensor, true))) {
            let size = shape.iter().product::<usize>() as u64;
            let trained = !frozen && parameters.trains(&name);
            let precision = if frozen { parameters.precision } else { parameters.kept_in(&name) };
            let states = if trained { parameters.optimizer.keeps(&shape) } else { Vec::new() };
            let states: u64 = states.iter().map(|(_, dtype, count)| (dtype.bitsize() / 8 * count) as u64).sum();
            let states = states + if trained && parameters.average.is_some() { F32 * size } else { 0 };
            let resident = size * precision.bytes() as u64 + states;
            let part = parts.entry((network_of(&name).0, block_of(&name))).or_default();
            if on_gpu && parameters.swaps(&name, geometry.depth) {
                part.guests += resident;
            } else {
                held += resident;
                shared += states;
            }
            // Casting to the type that a tensor has copies nothing.
            if precision != parameters.precision {
                part.guests += size * parameters.precision.bytes() as u64;
            }
            if trained {
                part.trained += size;
                part.weights += size * precision.bytes() as u64;
                largest = largest.max(size);
            }
        }
        let sum = |sum: Part, part: &Part| Part {
            trained: sum.trained + part.trained,
            weights: sum.weights + part.weights,
            guests: sum.guests + part.guests,
        };
        let most = |most: Part, part: &Part| Part {
            trained: most.trained.max(part.trained),
            weights: most.weights.max(part.weights),
            guests: most.guests.max(part.guests),
        };
        Ok(Self {
            geometry: geometry.clone(),
            clips: running,
            held,
            shared,
            whole: parts.values().fold(Part::default(), sum),
            largest_part: parts.values().fold(Part::default(), most),
            largest,
            precision: parameters.precision,
            accumulates: parameters.accumulate > 1,
            recomputes_blocks: parameters.checkpointing == Checkpointing::Blocks,
            fused_step: parameters.fused_step,
            on_gpu,
            casts_gradients: !(on_gpu && parameters.accumulate == 1 && by_kernel),
            batches,
        })
    }

    /// The most bytes that are held at once, whichever moment that is:
    ///
    /// - the end of the forward pass, with all activations;
    /// - the end of the backward pass, with all gradients, in the network's type and, where they are, as they are cast to 32 bits; with
    ///   recomputed blocks there is one block's activations beside them;
    /// - the optimizer's step, with the gradients.
    ///
    /// A validation goes forward only, block by block, and so needs less.
    pub fn peak(&self) -> u64 {
        self.peak_on(1)
    }

    /// The same on each of several devices: states are shared among them, and gradients once they are added up over all. While block by
    /// block those of two sections are on their way, each has them twice, as they left and as they come; so it is with the weights of
    /// some sections when they have been moved.
    pub fn peak_on(&self, devices: usize) -> u64 {
        let share = |bytes: u64| bytes.div_ceil(devices as u64);
        let running = if self.recomputes_blocks { self.largest_part } else { self.whole };
        let (computed, beside) = (self.precision.bytes() as u64, if self.on_gpu { BESIDE } else { 0 });
        let each = if self.casts_gradients { F32 } else { computed };
        let gradients = each * if self.fused_step { self.largest_part.trained } else { self.whole.trained };
        let travelling = if devices > 1 {
            2 * (each * self.largest_part.trained + share(each * self.largest_part.trained))
        } else {
            0
        };
        let own = if self.fused_step { gradients } else { share(gradients) };
        let summed = if self.accumulates { gradients } else { 0 };
        let is_cast = self.casts_gradients && self.precision != Precision::F32;
        let uncast = if is_cast { running.trained * computed } else { 0 };
        let (blocks, inputs) = self.activations_of_parts();
        let forward = summed + blocks + inputs;
        let backward = if self.recomputes_blocks {
            // Of several batches the sums are whole until the last one's come.
            let sums = if self.accumulates { gradients } else { own };
            sums + blocks + if self.fused_step { 0 } else { each * running.trained } + uncast + travelling
        } else {
            summed + gradients + uncast + travelling
        };
        let together = if self.fused_step { 1 } else { SECTIONS_TOGETHER as u64 };
        let moving = together * (self.largest_part.weights + 2 * share(self.largest_part.weights));
        let travelling = if devices > 1 { travelling.max(moving) } else { 0 };
        let step = own + travelling + if self.casts_gradients { 6 * F32 * self.largest } else { 0 };
        beside + self.held - self.shared + share(self.shared) + running.guests + forward.max(backward).max(step)
    }

    /// Whether operations keep what went into them alone, as our kernels do.
    fn by_kernels(&self) -> bool {
        self.on_gpu && self.precision == Precision::Bf16
    }

    /// The bytes of all that the forward pass keeps for the backward pass, of the batch that needs most.
    pub fn activations(&self) -> u64 {
        let (blocks, inputs) = self.activations_of_parts();
        blocks + inputs
    }

    /// What blocks keep of their inside, all of them or the one that is recomputed, and everything else.
    fn activations_of_parts(&self) -> (u64, u64) {
        let batches = self.batches.iter().map(|batch| self.activations_of(*batch));
        batches.max_by_key(|(blocks, inputs)| blocks + inputs).unwrap_or_default()
    }

    /// What a CLIP keeps for its backward pass: in each layer two norms, attention, whose scores are few enough to be kept, and the
    /// feed-forward network, whose activation is put together from as many operations as the MMDiT's.
    fn activations_of_clip(&self, samples: u64, [layers, width, inner]: [u64; 3]) -> u64 {
        let (tokens, precision) = (CLIP_TOKENS as u64, self.precision.bytes() as u64);
        let values = samples * tokens * width;
        let scores = 3 * samples * (width / CLIP_HEAD) * tokens * tokens * F32;
        // Both norms, queries, keys, values, attention's result twice, the sums of both halves.
        let layer = 2 * self.norm(values) + 7 * values * precision + scores;
        layers * (layer + 5 * samples * tokens * inner * precision)
    }

    fn activations_of(&self, [samples, image, text]: [u64; 3]) -> (u64, u64) {
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
        let clips = self.clips.iter().map(|clip| self.activations_of_clip(samples, *clip));
        let parts = (0..geometry.depth).map(block).chain(clips);
        let (blocks, between): (u64, u64) = match self.recomputes_blocks {
            false => (parts.sum(), 0),
            true => (parts.max().unwrap_or_default(), geometry.depth as u64 * (streams[0] + streams[1]) * precision),
        };
        // The embedders' inputs, and the last norm with its modulation and what it feeds.
        let inputs = samples
            * precision
            * (text * geometry.context_width as u64
                + image * (geometry.patch * geometry.patch * geometry.channels) as u64);
        (blocks, between + inputs + self.norm(streams[0]))
    }

    /// A layer norm and its modulation, of so many values: the centred and the normal values, in 32 bits, or what went into the kernel; and
    /// what comes out in the network's type, which the next layer keeps for its weight's gradient.
    fn norm(&self, values: u64) -> u64 {
        values * (self.of_norm() + self.precision.bytes() as u64)
    }

    fn of_norm(&self) -> u64 {
        if self.by_kernels() { self.precision.bytes() as u64 } else { 2 * F32 }
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
        values * self.of_norm() + self.projections(values)
    }

    /// What attention keeps beside queries, keys and values: its result, and the logarithms of its sums or, put together from
    /// single operations, of the scores what the exponential reads, what it gives, and the shares.
    fn attention(&self, samples: u64, tokens: u64, values: u64) -> u64 {
        let precision = self.precision.bytes() as u64;
        let rows = samples * self.geometry.heads as u64 * tokens;
        let scores = if self.on_gpu { values * precision + rows * F32 } else { 3 * rows * tokens * precision };
        // Heads are joined again in a copy, which the output's projection keeps.
        values * precision + scores
    }

    /// The gated projection, the second norm, and the feed-forward network: inside it is four times as wide, and its GELU keeps its
    /// input, put together from operations also the polynomial and the sigmoid's argument and value, and gives the last layer's input.
    fn after_attention(&self, values: u64) -> u64 {
        let precision = self.precision.bytes() as u64;
        let inner = if self.by_kernels() { 2 } else { 5 };
        values * precision + self.norm(values) + inner * 4 * values * precision + values * precision
    }
}

#[cfg(test)]
mod tests;
