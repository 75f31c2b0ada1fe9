//! What a batch of turns becomes: noisy latents, levels, conditioning and the target, all drawn by (seed, step, item).

use crate::{
    error::StageError,
    images::Latents,
    nn,
    random::Draws,
    text::{Conditioning, Dropped, Encoded},
    train::{TrainJob, order::Turn},
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::{Digest, Store};

/// One batch on the device.
pub struct Batch {
    /// `sigma·noise + (1 − sigma)·latents`, `[batch, 16, height, width]`, in 32 bits.
    pub noisy: Tensor<4>,
    /// `1000·sigma`, `[batch]`, in 32 bits.
    pub timesteps: Tensor<1>,
    /// `noise − latents`, the velocity that is learnt, in 32 bits.
    pub target: Tensor<4>,
    /// The context that the network reads, in its type.
    pub context: Tensor<3>,
    /// The pooled vector that the network reads, in its type.
    pub pooled: Tensor<2>,
}

impl Batch {
    /// The batch of these turns at an optimizer step (counted from 0 over all epochs).
    pub fn make(
        job: &TrainJob,
        turns: &[Turn],
        step: u64,
        conditioning: &Conditioning,
        store: &Store,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, StageError> {
        let parameters = &job.parameters;
        let (mut noisy, mut target, mut timesteps, mut texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut shape = Vec::new();
        for turn in turns {
            let item = &job.items[turn.item];
            let name = format!("{}#{}", item.id, turn.repeat);
            let draws = |stream: &str| Draws::new(parameters.seed, stream, step, &name);
            let latents = Latents::read(store, &item.latents)?;
            let raw = latents.sample(parameters.sample_posterior.then(|| draws("posterior")).as_mut());
            let noise = draws("noise").normals_f32(raw.len());
            let sigma = parameters.density.sigma(parameters.shift, &mut draws("timestep")) as f32;
            for (raw, noise) in raw.into_iter().zip(noise) {
                let latent = ((f64::from(raw) - nn::SHIFT) * nn::SCALE) as f32;
                noisy.push(sigma * noise + (1.0 - sigma) * latent);
                target.push(noise - latent);
            }
            timesteps.push(1000.0 * sigma);
            let chance = |stream: &str, rate: f64| rate > 0.0 && draws(stream).uniform() < rate;
            let digest = if chance("caption dropout", parameters.caption_dropout) {
                job.empty
            } else {
                variant(&item.texts, &mut draws("caption variant"))
            };
            let dropout = &parameters.encoder_dropout;
            let dropped = Dropped {
                clip_l: chance("CLIP-L dropout", dropout.clip_l),
                clip_g: chance("CLIP-G dropout", dropout.clip_g),
                t5: chance("T5 dropout", dropout.t5),
            };
            texts.push((Encoded::read(store, &digest)?, dropped));
            shape = latents.mean.shape;
        }
        let [channels, height, width] = shape[..] else {
            return Err(StageError::Numbers(format!(
                "latents have the shape {shape:?} and not [channels, height, width]"
            )));
        };
        let image = |values: Vec<f32>| {
            Tensor::<4>::from_data(
                TensorData::new(values, [turns.len(), channels, height, width]),
                (device, DType::F32),
            )
        };
        let references: Vec<_> = texts.iter().map(|(encoded, dropped)| (encoded, *dropped)).collect();
        let (context, pooled) = conditioning.assemble(&references, device, dtype)?;
        let timesteps = Tensor::<1>::from_data(TensorData::new(timesteps, [turns.len()]), (device, DType::F32));
        Ok(Self { noisy: image(noisy), timesteps, target: image(target), context, pooled })
    }
}

fn variant(texts: &[Digest], draws: &mut Draws) -> Digest {
    texts[draws.below(texts.len() as u64) as usize]
}
