//! The backward pass block by block: of the forward pass only what goes into each block is kept, and each block runs again.

use crate::{
    adapter::network_of,
    checkpoint::{Component, MmditGeometry, block_of},
    error::StageError,
    nn::{
        self, Mmdit, PositionCrop, Weights, WeightsError,
        mmdit::{JointBlock, Streams},
    },
    train::{
        batch::Batch,
        objective::{of_weights, tracked},
        parameters::Train,
        state::State,
    },
};
use burn::tensor::{Device, Gradients as All, Tensor};
use std::collections::BTreeMap;

/// What is done with what a backward pass finds.
pub(super) struct Sink<'s> {
    /// Is given the loss of the batch, and says what it comes to with those of others that belong to it.
    pub loss: &'s mut dyn FnMut(f64) -> Result<f64, StageError>,
    /// Is given the gradients of a part of the network as soon as they are known. It may move the weights of that part.
    pub gradients: &'s mut Visit<'s>,
}

/// What moves weights by gradients.
pub(super) type Visit<'v> = dyn FnMut(&mut State, BTreeMap<String, Tensor<1>>) -> Result<(), StageError> + 'v;

/// The loss of a batch, times `share`; the gradients of it go to `sink`, from the last layer to the first. A loss that comes to
/// nothing finite has no gradients.
///
/// The arithmetic is that of the plain backward pass, but for the order in which the blocks' gradients of the conditioning are
/// added up, on which those of the timestep's and the pooled text's embedders depend. Below the first tensor that is trained no
/// block runs again. Weights in the host's memory come to the batch's device for the time that their block runs. CLIPs that have
/// an adapter come last of all, and run again too, one after the other.
///
/// # Errors
/// When the weights make no network, and those of the sink.
pub(super) fn backward(
    state: &mut State,
    parameters: &Train,
    batch: Batch,
    share: f64,
    sink: &mut Sink<'_>,
) -> Result<f64, StageError> {
    let geometry = geometry(state)?;
    let part = Part { geometry: &geometry, parameters, masks: &batch.masks, device: batch.context.device() };
    let Batch { noisy, timesteps, .. } = batch.clone();
    let [_, _, height, width] = noisy.dims();
    let first = first_trained(&state.weights, parameters);

    let (mut context, mut pooled) = part.read(state, &batch)?;
    let ends = part.weights(state, Section::Around, true);
    let network = Mmdit::without_blocks(&ends.root(), &geometry)?;
    let still = part.weights(state, Section::Around, false);
    let still = Mmdit::without_blocks(&still.root(), &geometry)?;
    let mut inputs = Vec::new();
    let (streams, conditioning) =
        part.forward(state, &still, &batch, (context.clone(), pooled.clone()), |streams| inputs.push(streams.clone()))?;

    let (image, condition) = (leaf(&streams.image), leaf(&conditioning));
    let velocity = network.finish(image.clone(), condition.clone(), [height, width]);
    let loss = batch.losses(velocity).mean().mul_scalar(share);
    let value = (sink.loss)(f64::from(nn::to_host(loss.clone().inner()).first().copied().unwrap_or(f32::NAN)))?;
    if !value.is_finite() {
        return Ok(value);
    }
    let mut all = loss.backward();
    (sink.gradients)(state, of_weights(&ends, &all).collect())?;
    let mut of_condition = taken(&condition, &mut all);
    // Nobody reads the text's tokens after the last block.
    let mut above = Streams { image: taken(&image, &mut all), context: streams.context.inner().zeros_like() };

    for (index, input) in inputs.into_iter().enumerate().rev() {
        if first.is_none_or(|first| Section::Block(index) < first) {
            return Ok(value);
        }
        let (weights, block) = part.block(state, index, true)?;
        let (image, context, condition) = (leaf(&input.image), leaf(&input.context), leaf(&conditioning));
        let output = block.forward(Streams { image: image.clone(), context: context.clone() }, condition.clone());
        let mut all = (along(output.image, above.image) + along(output.context, above.context)).backward();
        above = Streams { image: taken(&image, &mut all), context: taken(&context, &mut all) };
        of_condition = of_condition + taken(&condition, &mut all);
        let gradients = of_weights(&weights, &all).collect();
        // A weight that nobody else holds can be moved where it lies.
        drop((weights, block, all));
        (sink.gradients)(state, gradients)?;
    }
    if first.is_none_or(|first| first > Section::Around) {
        return Ok(value);
    }
    if !batch.prompts.is_empty() {
        (context, pooled) = (leaf(&context), leaf(&pooled));
    }
    let condition = network.condition(timesteps, pooled.clone());
    let streams = network.embed(noisy, context.clone(), PositionCrop::Centre);
    let sum = along(condition, of_condition) + along(streams.image, above.image);
    let mut all = (sum + along(streams.context, above.context)).backward();
    (sink.gradients)(state, of_weights(&ends, &all).collect())?;
    if batch.prompts.is_empty() {
        return Ok(value);
    }
    let (of_context, of_pooled) = (taken(&context, &mut all), taken(&pooled, &mut all));
    for prompt in &batch.prompts {
        let weights = part.weights(state, Section::Clip(prompt.clip), true);
        // What stands around the CLIP's channels is a constant here.
        let (context, pooled) = prompt.put(&weights, (of_context.zeros_like(), of_pooled.zeros_like()))?;
        let all = (along(context, of_context.clone()) + along(pooled, of_pooled.clone())).backward();
        (sink.gradients)(state, of_weights(&weights, &all).collect())?;
    }
    Ok(value)
}

/// The velocity that the network gives, with no more than one block's weights as the network takes them at once. The same kernels run
/// as in training.
///
/// # Errors
/// When the weights make no network.
pub(super) fn velocity(state: &State, parameters: &Train, batch: &Batch) -> Result<Tensor<4>, StageError> {
    let geometry = geometry(state)?;
    let part = Part { geometry: &geometry, parameters, masks: &batch.masks, device: batch.context.device() };
    let [_, _, height, width] = batch.noisy.dims();
    let read = part.read(state, batch)?;
    let ends = part.weights(state, Section::Around, false);
    let network = Mmdit::without_blocks(&ends.root(), &geometry)?;
    let (streams, conditioning) = part.forward(state, &network, batch, read, |_| ())?;
    Ok(network.finish(streams.image, conditioning, [height, width]).inner())
}

fn geometry(state: &State) -> Result<MmditGeometry, StageError> {
    let shape =
        |name: &str| state.weights.get(name).or_else(|| state.frozen.get(name)).map(|weight| weight.shape.clone());
    Ok(MmditGeometry::of(shape).map_err(WeightsError::from)?)
}

/// A section of the networks whose gradients are known together, in the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    /// A CLIP that has an adapter.
    Clip(Component),
    /// What comes before the blocks, and what comes after them.
    Around,
    /// One of the blocks.
    Block(usize),
}

impl Section {
    /// That of a tensor.
    pub(super) fn of(name: &str) -> Self {
        match (network_of(name), block_of(name)) {
            ((Component::Mmdit, _), None) => Self::Around,
            ((Component::Mmdit, _), Some(block)) => Self::Block(block),
            ((clip, _), _) => Self::Clip(clip),
        }
    }
}

/// The first section that is trained, in the order of the forward pass. Nothing if only what comes after the blocks is trained.
fn first_trained(weights: &Weights, parameters: &Train) -> Option<Section> {
    let names = weights.names().filter(|name| !name.starts_with("final_layer.") && parameters.trains(name));
    names.map(Section::of).min()
}

/// How parts of the network are made from the weights.
struct Part<'p> {
    geometry: &'p MmditGeometry,
    parameters: &'p Train,
    /// An adapter's dropout.
    masks: &'p Weights,
    device: Device,
}

impl Part<'_> {
    /// The weights of a section, as the network takes them.
    fn weights(&self, state: &State, section: Section, tracks: bool) -> Weights {
        let here = |weights: &Weights| -> Weights {
            let of_part = weights.iter().filter(|(name, _)| Section::of(name) == section);
            of_part.map(|(name, weight)| (name.to_owned(), weight.clone().to_device(&self.device))).collect()
        };
        let trains = |name: &str| tracks && self.parameters.trains(name);
        let trained = tracked(&here(&state.weights), nn::dtype(self.parameters.precision), trains);
        here(&state.frozen).map(|_, values| values.autodiff()).with(&trained).with(&here(self.masks))
    }

    /// The context and the pooled vector, with what CLIPs that have an adapter make of the captions in their places.
    fn read(&self, state: &State, batch: &Batch) -> Result<(Tensor<3>, Tensor<2>), StageError> {
        batch.prompts.iter().try_fold((batch.context.clone(), batch.pooled.clone()), |read, prompt| {
            prompt.put(&self.weights(state, Section::Clip(prompt.clip), false), read)
        })
    }

    /// What comes out of the blocks, and the conditioning; `before` sees what goes into each block.
    fn forward(
        &self,
        state: &State,
        ends: &Mmdit,
        batch: &Batch,
        (context, pooled): (Tensor<3>, Tensor<2>),
        mut before: impl FnMut(&Streams),
    ) -> Result<(Streams, Tensor<2>), StageError> {
        let Batch { noisy, timesteps, .. } = batch.clone();
        let conditioning = ends.condition(timesteps, pooled);
        let mut streams = ends.embed(noisy, context, PositionCrop::Centre);
        for index in 0..self.geometry.depth {
            before(&streams);
            streams = self.block(state, index, false)?.1.forward(streams, conditioning.clone());
        }
        Ok((streams, conditioning))
    }

    fn block(&self, state: &State, index: usize, tracks: bool) -> Result<(Weights, JointBlock), StageError> {
        let weights = self.weights(state, Section::Block(index), tracks);
        let block = Mmdit::block(&weights.root(), self.geometry, index)?;
        Ok((weights, block))
    }
}

/// A tensor at which a backward pass ends.
fn leaf<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().inner().autodiff().require_grad()
}

fn taken<const D: usize>(leaf: &Tensor<D>, all: &mut All) -> Tensor<D> {
    leaf.grad_remove(all).unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

/// A number whose gradient by `output` is `gradient`.
fn along<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&output.device()) {
        return sd3pipe_kernels::along(output, gradient.autodiff());
    }
    (output * gradient.autodiff()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{Component, ComponentSource},
        precision::Precision,
        tensors::Array,
        train::Drawn,
    };
    use burn::tensor::DType;

    fn model() -> State {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/model/sd3_tiny.safetensors");
        let source = ComponentSource::open(path, Component::Mmdit).unwrap();
        State::start(nn::load(&source, &Device::flex(), DType::F32).unwrap())
    }

    fn batch(state: &State) -> Batch {
        let geometry = MmditGeometry::of(|name| state.weights.get(name).map(|weight| weight.shape.clone())).unwrap();
        let values: Vec<f32> = (0..16 * 8 * 8u16).map(|index| (f32::from(index) * 0.7).sin()).collect();
        let raw = Array { shape: vec![16, 8, 8], values: values.clone() };
        let place = (&Device::flex(), DType::F32);
        let context = Tensor::ones([1, 4, geometry.context_width], place);
        let pooled = Tensor::ones([1, geometry.pooled_width], place);
        Batch::new(&[Drawn { raw, noise: values, sigma: 0.5 }], context, pooled).unwrap()
    }

    /// The model has two blocks.
    #[test]
    fn no_block_runs_again_below_the_first_that_is_trained() {
        let mut state = model();
        let batch = batch(&state);
        let cases: [(&[&str], &[&str]); 6] = [
            (&[], &["final_layer", "joint_blocks.1", "joint_blocks.0", "context_embedder"]),
            (&["joint_blocks.*"], &["final_layer", "", "", "context_embedder"]),
            (&["*embedder.*"], &["final_layer", "joint_blocks.1", "joint_blocks.0"]),
            (&["*embedder.*", "joint_blocks.0.*"], &["final_layer", "joint_blocks.1"]),
            (&["*embedder.*", "*.0.*", "final_layer.*"], &["", "joint_blocks.1"]),
            (&["*embedder.*", "joint_blocks.*"], &["final_layer"]),
        ];
        for (freeze, expected) in cases {
            let freeze = freeze.iter().map(ToString::to_string).collect();
            let parameters = Train { freeze, precision: Precision::F32, ..Train::default() };
            let mut parts: Vec<String> = Vec::new();
            let gradients = &mut |_: &mut State, gradients: BTreeMap<String, Tensor<1>>| {
                assert!(gradients.keys().all(|name| parameters.trains(name)));
                parts.push(gradients.into_keys().next().unwrap_or_default());
                Ok(())
            };
            let sink = &mut Sink { loss: &mut Ok, gradients };
            backward(&mut state, &parameters, batch.clone(), 1.0, sink).unwrap();
            assert_eq!(parts.len(), expected.len(), "{parts:?}");
            assert!(parts.iter().zip(expected).all(|(part, start)| part.starts_with(start)), "{parts:?}");
        }
    }
}
