//! What is drawn for a sample of a step: numbers in the host's memory, by (seed, step, item), while a device is busy with the step before.

use crate::{
    error::StageError,
    images::{Latents, Mask},
    tensors::Array,
    text::{Dropped, Encoded},
    train::{TrainJob, batch::Drawn, order::Turn, parallel::Hand, prompts::Caption},
};
use rayon::prelude::*;
use sd3pipe_cache::Store;

/// A sample that waits for its device.
pub(super) struct Sample<'j> {
    /// Its turn.
    pub(super) turn: Turn,
    pub(super) drawn: Drawn,
    /// What it counts, and each of its cells.
    pub(super) counts: (f64, Option<Mask>),
    pub(super) caption: Caption<'j>,
}

impl<'j> Sample<'j> {
    /// All of a device's part of an optimizer step (counted from 0 over all epochs), batch by batch. If the part doesn't count, the samples'
    /// losses are nothing.
    ///
    /// # Errors
    /// When the store can't give an item's latents or text.
    pub(super) fn draw_all(
        job: &'j TrainJob,
        hand: &Hand<(Turn, f32)>,
        step: u64,
        store: &Store,
    ) -> Result<Vec<Vec<Self>>, StageError> {
        let all: Vec<&(Turn, f32)> = hand.batches.iter().flatten().collect();
        let drawn = all.into_par_iter().map(|turn| Self::draw(job, turn, hand.counts, step, store));
        let mut drawn = drawn.collect::<Result<Vec<_>, _>>()?.into_iter();
        Ok(hand.batches.iter().map(|batch| drawn.by_ref().take(batch.len()).collect()).collect())
    }

    fn draw(
        job: &'j TrainJob,
        (turn, sigma): &(Turn, f32),
        counts: bool,
        step: u64,
        store: &Store,
    ) -> Result<Self, StageError> {
        let (parameters, item) = (&job.parameters, &job.items[turn.item]);
        let draws = |stream: &str| job.draws(stream, step, turn);
        let (latents, mask) = match item.flipped {
            Some(flipped) if draws("flip").uniform() < 0.5 => flipped,
            _ => (item.latents, item.mask),
        };
        let latents = Latents::read(store, &latents)?;
        let weight = if counts { item.weight } else { 0.0 };
        let counts = (weight, mask.map(|mask| Mask::from_store(store, &mask)).transpose()?);
        let (raw, noise) = rayon::join(
            || latents.sample(parameters.sample_posterior.then(|| draws("posterior")).as_mut()),
            || draws("noise").normals_f32(latents.mean.values.len()),
        );
        let drawn = Drawn { raw: Array { shape: latents.mean.shape, values: raw }, noise, sigma: *sigma };
        let chance = |stream: &str, rate: f64| rate > 0.0 && draws(stream).uniform() < rate;
        let (text, digest) = if chance("caption dropout", parameters.caption_dropout) {
            ("", &job.empty)
        } else {
            let variant = draws("caption variant").below(item.texts.len() as u64) as usize;
            (item.captions[variant].as_str(), &item.texts[variant])
        };
        let dropout = &parameters.encoder_dropout;
        let dropped = Dropped {
            clip_l: chance("CLIP-L dropout", dropout.clip_l),
            clip_g: chance("CLIP-G dropout", dropout.clip_g),
            t5: chance("T5 dropout", dropout.t5),
        };
        let caption = Caption { text, encoded: Encoded::read(store, digest)?, dropped };
        Ok(Self { turn: *turn, drawn, counts, caption })
    }
}
