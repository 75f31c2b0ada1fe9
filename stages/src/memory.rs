//! The memory that a job needs on its device at its worst moment.
//!
//! Of training it is counted operation by operation ([`Footprint`]). Of what only runs forward, the weights and the widest place of
//! the network are counted, where a handful of its tensors are alive at once.

use crate::{
    captions::report::CLIP_TOKENS,
    checkpoint::{Component, ComponentSource, MmditGeometry},
    device::{DeviceKind, told_room},
    error::StageError,
    facts::{Facts, TEXT_ENCODERS},
    job::Job,
    precision::Precision,
    train::Footprint,
};

/// Tensors of the widest place that are alive at once in a forward pass: a layer's input and output, and what a norm makes in between.
const ALIVE: u64 = 6;

/// Bytes of a value in 32 bits: norms and attention compute in them whatever the network's type.
const F32: u64 = 4;

impl Job {
    /// The most bytes that it holds on its device, or on each of several, about. None for a job that works tensor by tensor.
    ///
    /// # Errors
    /// When a file of the model can't be looked at.
    pub fn peak_memory(&self, devices: usize) -> Result<Option<u64>, StageError> {
        Ok(Some(match self {
            Self::Text(job) => {
                let batch = if job.facts.device == DeviceKind::Cpu { 1 } else { u64::from(job.parameters.batch) };
                text_encoders(&job.facts, job.parameters.precision, job.parameters.t5_tokens, batch)?
            }
            Self::Images(job) => {
                let batch = if job.facts.device == DeviceKind::Cpu { 1 } else { u64::from(job.parameters.batch) };
                let areas = job.pictures.iter().map(|picture| area(picture.placement.bucket));
                let pixels = batch * areas.max().unwrap_or_default();
                let (encoder, precision) = (Component::VaeEncoder, job.parameters.precision);
                let weights = weights(&job.facts, encoder, precision)?;
                weights + vae(&job.facts, encoder, precision, batch, pixels, weights)?
            }
            Self::Train(job) => Footprint::of(job)?.peak_on(devices),
            Self::Export(_) => return Ok(None),
            Self::Sample(job) => {
                let (facts, parameters) = (&job.facts, &job.parameters);
                let texts = text_encoders(facts, parameters.precision, parameters.t5_tokens, 1)?;
                let networks = weights(facts, Component::Mmdit, parameters.precision)?
                    + weights(facts, Component::VaeDecoder, parameters.precision)?;
                let batch = if facts.device == DeviceKind::Cpu { 1 } else { u64::from(parameters.batch) };
                let passes = batch * if parameters.cfg == 1.0 { 1 } else { 2 };
                let text = CLIP_TOKENS as u64 + u64::from(parameters.t5_tokens);
                let velocity = block(&facts.geometry, passes, area(parameters.size), text, facts.device);
                let (decoder, pixels) = (Component::VaeDecoder, area(parameters.size));
                texts.max(networks + velocity.max(vae(facts, decoder, parameters.precision, 1, pixels, networks)?))
            }
        }))
    }
}

fn area((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

/// The bytes of a network's weights in a precision.
fn weights(facts: &Facts, component: Component, precision: Precision) -> Result<u64, StageError> {
    Ok(facts.open(component)?.map_or(0, |source| weights_of(&source, precision)))
}

fn weights_of(source: &ComponentSource, precision: Precision) -> u64 {
    let values: usize = source.tensors().map(|(_, view)| view.shape.iter().product::<usize>()).sum();
    (values * precision.bytes()) as u64
}

/// One encoder is in memory at a time.
fn text_encoders(facts: &Facts, precision: Precision, t5_tokens: u32, batch: u64) -> Result<u64, StageError> {
    let mut most = 0;
    for component in TEXT_ENCODERS {
        let Some(source) = facts.open(component)? else { continue };
        most = most.max(text_encoder(&source, component, precision, t5_tokens, batch));
    }
    Ok(most)
}

/// The largest tensor is there in the file's type too while it is loaded.
pub(crate) fn text_encoder(
    source: &ComponentSource,
    component: Component,
    precision: Precision,
    t5_tokens: u32,
    batch: u64,
) -> u64 {
    let largest = source.tensors().map(|(_, view)| view.shape.iter().product::<usize>()).max().unwrap_or_default();
    let (tokens, inner) = match component {
        Component::T5 => (u64::from(t5_tokens), "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        _ => (CLIP_TOKENS as u64, "text_model.encoder.layers.0.mlp.fc1.weight"),
    };
    let inner = source.shape(inner).and_then(|shape| shape.first()).copied().unwrap_or_default() as u64;
    let loading = (2 * largest * precision.bytes()) as u64;
    weights_of(source, precision) + loading.max(ALIVE * F32 * batch * tokens * inner)
}

/// One half of the VAE over so many pixels, where networks take so many bytes already: its widest place is at full resolution, or on a CPU
/// the attention in its middle, whose scores are over all pairs of an eighth of either side. On a GPU that is told to have no room for that,
/// images go in strips.
fn vae(
    facts: &Facts,
    component: Component,
    precision: Precision,
    batch: u64,
    pixels: u64,
    networks: u64,
) -> Result<u64, StageError> {
    let Some(source) = facts.open(component)? else { return Ok(0) };
    let name = match component {
        Component::VaeEncoder => "down.0.block.0.conv1.weight",
        _ => "up.0.block.0.conv1.weight",
    };
    let side = |side| source.shape(name).and_then(|shape| shape.get(side)).copied().unwrap_or_default() as u64;
    let (outputs, inputs) = (side(0), side(1));
    if facts.device == DeviceKind::Cpu {
        let tokens = pixels / batch.max(1) / 64;
        return Ok(F32 * (ALIVE * inputs * pixels).max(2 * batch * tokens * tokens));
    }
    let whole = (2 * inputs + outputs).max(3 * outputs) * pixels * vae_value(precision == Precision::Bf16);
    Ok(whole.min(told_room().map_or(u64::MAX, |room| room.saturating_sub(networks))))
}

/// What a value in the VAE comes to on a GPU, with what allocators waste. In other types than bf16 norms have twice as many on the way, in
/// 32 bits.
pub(crate) fn vae_value(is_bf16: bool) -> u64 {
    if is_bf16 { 3 } else { 10 }
}

/// One block of the MMDiT without gradients: the feed-forward network, or the scores where attention is not fused.
fn block(geometry: &MmditGeometry, samples: u64, pixels: u64, text: u64, device: DeviceKind) -> u64 {
    let tokens = pixels / (8 * geometry.patch as u64).pow(2) + text;
    let scores = if device == DeviceKind::Cpu { 2 * geometry.heads as u64 * tokens * tokens } else { 0 };
    F32 * samples * (ALIVE * 4 * geometry.width as u64 * tokens).max(scores)
}
