//! What a batch of turns becomes: noisy latents, levels, conditioning and the target, all drawn by (seed, step, item).

use crate::{
    adapter::parameters::{Lora, Method},
    error::StageError,
    images::Mask,
    nn::{self, Weights},
    random::Draws,
    tensors::Array,
    train::{adapter, loss::Objective, prompts::Prompt, replica::Replica, sample::Sample},
};
use burn::tensor::{DType, Tensor, TensorData};

/// One batch on the device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `sigma·noise + (1 − sigma)·latents`, `[batch, 16, height, width]`, in 32 bits.
    pub noisy: Tensor<4>,
    /// `1000·sigma`, `[batch]`, in 32 bits.
    pub timesteps: Tensor<1>,
    /// The level of noise of each sample, from 0 to 1.
    pub sigmas: Vec<f32>,
    /// `noise − latents`, the velocity that is learnt, in 32 bits.
    pub target: Tensor<4>,
    /// How the network's velocity is compared with that: by default its square difference, every level alike.
    pub objective: Objective,
    /// What each cell of the latents counts in the loss, `[batch, 1, height, width]`, in 32 bits; none if all count 1.
    pub counts: Option<Tensor<4>>,
    /// The context that the network reads, in its type.
    pub context: Tensor<3>,
    /// The pooled vector that the network reads, in its type.
    pub pooled: Tensor<2>,
    /// The captions for each CLIP that has an adapter, whose encodings take the place of those in `context` and `pooled`; none for
    /// most trainings.
    pub prompts: Vec<Prompt>,
    /// The dropout of an adapter's inner values, by names as the network reads them; none for most trainings.
    pub masks: Weights,
}

/// What was drawn for one sample of a batch.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Raw latents, as the VAE's encoder gives them, `[16, height, width]`.
    pub raw: Array,
    /// Normal noise, as many values.
    pub noise: Vec<f32>,
    /// The level of noise, from 0 to 1.
    pub sigma: f32,
}

impl Batch {
    /// The batch of what was drawn for the samples of an optimizer step (counted from 0 over all epochs).
    ///
    /// # Errors
    /// When they don't fit the network.
    pub(super) fn of(samples: Vec<Sample<'_>>, step: u64, replica: &Replica<'_>) -> Result<Self, StageError> {
        let Replica { job, device, .. } = replica;
        let parameters = &job.parameters;
        let names: Vec<String> = samples.iter().map(|sample| job.name(&sample.turn)).collect();
        let (mut drawn, mut captions, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for sample in samples {
            drawn.push(sample.drawn);
            captions.push(sample.caption);
            counts.push(sample.counts);
        }
        let (context, pooled, prompts) = replica.read(&captions)?;
        let mut batch = Self { objective: parameters.objective(), prompts, ..Self::new(&drawn, context, pooled)? };
        batch.count(&counts)?;
        if let Method::LoRA(Lora { dropout, .. }) = &parameters.method
            && *dropout > 0.0
        {
            let draws = |sample: &str, site: &str| {
                Draws::new(parameters.seed, "adapter dropout", step, &format!("{sample}/{site}"))
            };
            let ([_, _, height, width], patch) = (batch.noisy.dims(), job.facts.geometry.patch);
            let tokens = [(height / patch) * (width / patch), batch.context.dims()[1]];
            batch.masks = adapter::masks(&job.adapter, *dropout, &draws, &names, tokens, device);
        }
        Ok(batch)
    }

    /// The batch of these samples, on the device of their conditioning (equation 13 of the SD3 paper, arXiv:2403.03206, with
    /// the latents as the MMDiT takes them: see [`nn::vae::process_in`]).
    ///
    /// # Errors
    /// When the samples' latents are not all of one shape `[channels, height, width]`.
    pub fn new(samples: &[Drawn], context: Tensor<3>, pooled: Tensor<2>) -> Result<Self, StageError> {
        let shape = samples.first().map(|sample| sample.raw.shape.as_slice()).unwrap_or_default();
        let [channels, height, width] = *shape else {
            return Err(StageError::Unfit(format!(
                "latents have the shape {shape:?} and not [channels, height, width]"
            )));
        };
        let (mut noisy, mut target) = (Vec::new(), Vec::new());
        for Drawn { raw, noise, sigma } in samples {
            if raw.shape != shape || noise.len() != raw.values.len() || raw.values.len() != channels * height * width {
                return Err(StageError::Unfit(format!("latents of {:?} and of {shape:?} are in one batch", raw.shape)));
            }
            for (raw, noise) in raw.values.iter().zip(noise) {
                let latent = ((f64::from(*raw) - nn::SHIFT) * nn::SCALE) as f32;
                noisy.push(sigma * noise + (1.0 - sigma) * latent);
                target.push(noise - latent);
            }
        }
        let place = (&context.device(), DType::F32);
        let image =
            |values| Tensor::from_data(TensorData::new(values, [samples.len(), channels, height, width]), place);
        let sigmas: Vec<f32> = samples.iter().map(|sample| sample.sigma).collect();
        let timesteps: Vec<f32> = sigmas.iter().map(|sigma| 1000.0 * sigma).collect();
        let timesteps = Tensor::from_data(TensorData::new(timesteps, [samples.len()]), place);
        let (noisy, target, objective) = (image(noisy), image(target), Objective::default());
        let (prompts, masks) = (Vec::new(), Weights::default());
        Ok(Self { noisy, timesteps, sigmas, target, objective, counts: None, context, pooled, prompts, masks })
    }

    /// Has each sample count so much in the loss, and of it each cell what its mask says, see [`Mask::shares`]: sample by sample, whatever
    /// others are in the batch.
    ///
    /// # Errors
    /// When there are not as many as samples, or a mask has another size than the latents.
    pub fn count(&mut self, counts: &[(f64, Option<Mask>)]) -> Result<(), StageError> {
        let [samples, _, height, width] = self.noisy.dims();
        if counts.iter().all(|(weight, mask)| *weight == 1.0 && mask.is_none()) {
            return Ok(());
        }
        let mut values: Vec<f32> = Vec::with_capacity(samples * height * width);
        for (weight, mask) in counts {
            let shares = mask.as_ref().map_or_else(|| vec![1.0; height * width], Mask::shares);
            values.extend(shares.into_iter().map(|share| share * *weight as f32));
        }
        let misfit = |mask: &Mask| mask.cells.shape != [height, width];
        if counts.len() != samples || counts.iter().filter_map(|(_, mask)| mask.as_ref()).any(misfit) {
            return Err(StageError::Unfit(format!("a mask has not the size of its latents, {height} × {width}")));
        }
        let place = (&self.context.device(), DType::F32);
        self.counts = Some(Tensor::from_data(TensorData::new(values, [samples, 1, height, width]), place));
        Ok(())
    }

    /// The loss of each value of the velocity that the network gives, in 32 bits, weighted for its sample and its cell. Its mean is the
    /// mean over the samples of each one's loss, as they are all of one size.
    pub fn losses(&self, velocity: Tensor<4>) -> Tensor<4> {
        let losses = self.objective.losses(velocity.cast(DType::F32) - self.target.clone(), &self.sigmas);
        match &self.counts {
            Some(counts) => losses * counts.clone(),
            None => losses,
        }
    }

    /// What the network reads of the captions: `context` and `pooled`, with what CLIPs that have an adapter make of them.
    ///
    /// # Errors
    /// When the weights make no CLIP, or it doesn't know the captions' token ids.
    pub fn conditioning(&self, weights: &Weights) -> Result<(Tensor<3>, Tensor<2>), StageError> {
        let cached = (self.context.clone(), self.pooled.clone());
        self.prompts.iter().try_fold(cached, |conditioning, prompt| prompt.put(weights, conditioning))
    }

    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.timesteps.dims()[0]
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
