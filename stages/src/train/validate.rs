//! Measures the loss of an epoch's weights on what is held out, and on as much of what is trained.

use crate::{
    action::output,
    adapter::{Adapter, parameters::Method},
    checkpoint::{Component, ComponentSource, TensorFile},
    error::StageError,
    images::{Latents, Mask},
    nn::{self, Weights},
    tensors::Array,
    text::{Dropped, Encoded},
    train::{
        TrainItem, adapter,
        average::AVERAGE,
        batch::{Batch, Drawn},
        blocks, held_out,
        prompts::Caption,
        run::Trainer,
        state::State,
        validation::{Losses, Measured, Report, VALIDATION, Validation, Watch},
    },
    work::Work,
};
use sd3pipe_cache::Output;
use std::{cell::Cell, sync::Arc, time::Instant};

impl Trainer<'_> {
    /// Validates an epoch that is kept, if that is missing, and says whether the training ends with it.
    pub(super) fn look_at(&self, epoch: usize, watch: &mut Watch, work: &mut Work<'_>) -> Result<bool, StageError> {
        let Some(action) = self.job.validation_of(epoch) else { return Ok(false) };
        if !self.missing.contains(&action) {
            return Ok(self.job.parameters.stop.is_some() && watch.ends(&self.known(action, work)?));
        }
        let start = Instant::now();
        let weights = self.kept(epoch, self.job.role(), work)?;
        let averages = self.job.parameters.average.map(|_| self.kept(epoch, AVERAGE, work)).transpose()?;
        let sets = if averages.is_some() { 2 } else { 1 };
        work.progress.begin("validating", (sets * (self.job.held_out.len() + self.job.seen.len())) as u64, "images");
        let label = format!("epoch {}", epoch + 1);
        let report =
            self.validate(epoch, &weights, averages.as_ref(), &|done| work.progress.advance(done, &label), work);
        work.progress.end();
        let report = report?;
        let outputs = self.report(&report, work)?;
        work.publish(&self.job.actions[action], outputs, start.elapsed().as_secs_f64())?;
        work.flush()?;
        Ok(watch.ends(&report))
    }

    /// What a validation has found before.
    pub(super) fn known(&self, action: usize, work: &Work<'_>) -> Result<Report, StageError> {
        Report::read(&work.store.outputs(&self.job.actions[action].key)?.unwrap_or_default(), work.store)
    }

    /// What a validation puts out; told to whoever draws curves.
    pub(super) fn report(&self, report: &Report, work: &Work<'_>) -> Result<Vec<Output>, StageError> {
        let last = u64::from(report.epoch) * self.job.steps_per_epoch();
        work.progress.measured(&report.scalars(last.saturating_sub(1)));
        let bytes = serde_json::to_vec(report).map_err(|error| StageError::Unfit(error.to_string()))?;
        Ok(vec![output(VALIDATION, report.epoch.to_string(), work.store.put(&bytes)?)])
    }

    /// The weights that an epoch has put out, where they would lie in training. They are the same numbers to the network: it would
    /// have been given no more digits of them.
    fn kept(&self, epoch: usize, role: &str, work: &Work<'_>) -> Result<Weights, StageError> {
        let outputs = work.store.outputs(&self.job.actions[epoch].key)?.unwrap_or_default();
        let lacking = || StageError::Unfit(format!("epoch {} has left no {role}", epoch + 1));
        let digest = outputs.iter().find(|output| output.role == role).ok_or_else(lacking)?.digest;
        let path = work.store.file(&digest)?;
        match &self.job.parameters.method {
            Method::Full => {
                let source = ComponentSource::find(Arc::new(TensorFile::open(path)?), Component::Mmdit)?;
                Ok(nn::load_each(&source, |name| (self.replica.home(name), self.replica.dtype))?)
            }
            Method::LoRA(lora) => {
                let base = self.job.facts.base(&lora.networks())?;
                let adapter = Adapter::read(&path, &base)?;
                lora.networks().into_iter().try_for_each(|network| self.job.facts.check(network))?;
                Ok(adapter::trained(&adapter, |name| self.replica.home(name)))
            }
        }
    }

    /// Measures an epoch's weights, and its averaged ones if there are such; `tell` hears how many images are done.
    ///
    /// # Errors
    /// When somebody asks to stop, or a loss is not finite.
    pub(super) fn validate(
        &self,
        epoch: usize,
        weights: &Weights,
        averages: Option<&Weights>,
        tell: &dyn Fn(u64),
        work: &Work<'_>,
    ) -> Result<Report, StageError> {
        let validation = self.job.parameters.validation.clone().unwrap_or_default();
        let done = Cell::new(0);
        let of = |weights: &Weights| -> Result<Losses, StageError> {
            let state = State { frozen: self.replica.frozen.clone(), ..State::start(weights.clone()) };
            let measure = |items: &[TrainItem]| -> Result<Measured, StageError> {
                let mut rows = Vec::new();
                for item in items {
                    if work.interrupt.asked() {
                        return Err(StageError::Interrupted);
                    }
                    rows.extend(self.losses(&state, item, &validation, work)?);
                    done.set(done.get() + 1);
                    tell(done.get());
                }
                Ok(Measured::of(items.len(), &rows))
            };
            Ok(Losses { held_out: measure(&self.job.held_out)?, seen: measure(&self.job.seen)? })
        };
        let trained = of(weights)?;
        let average = averages.map(of).transpose()?;
        let report = Report {
            epoch: epoch as u32 + 1,
            timesteps: validation.timesteps.clone(),
            noises: validation.noises,
            trained,
            average,
        };
        let Losses { held_out, seen } = report.leading();
        if !held_out.mean.is_finite() {
            let reason = format!("the held-out loss of epoch {} is {}", report.epoch, held_out.mean);
            return Err(StageError::Unfit(format!("{reason}: the training has come apart; lower `learning_rate`")));
        }
        work.progress.line(&format!(
            "epoch {}: loss {:.4} held out, {:.4} on trained images",
            report.epoch, held_out.mean, seen.mean
        ));
        Ok(report)
    }

    /// The losses on one image: a row for each noise, a column for each timestep. What is computed at once is all of this image, so
    /// that on a CPU no other image shows in the last bits.
    fn losses(
        &self,
        state: &State,
        item: &TrainItem,
        validation: &Validation,
        work: &Work<'_>,
    ) -> Result<Vec<Vec<f64>>, StageError> {
        let Array { shape, values } = Latents::read(work.store, &item.latents)?.mean;
        let mask = item.mask.map(|mask| Mask::from_store(work.store, &mask)).transpose()?;
        let caption = item.captions.first().map_or("", String::as_str);
        let encoded = Encoded::read(work.store, item.texts.first().unwrap_or(&self.job.empty))?;
        let mut rows = Vec::new();
        for index in 0..validation.noises {
            let noise = held_out::noise(item, index).normals_f32(values.len());
            let mut row = Vec::new();
            for timesteps in validation.timesteps.chunks(self.job.parameters.batch.max(1) as usize) {
                let sample = |timestep: &u32| Drawn {
                    raw: Array { shape: shape.clone(), values: values.clone() },
                    noise: noise.clone(),
                    sigma: *timestep as f32 / 1000.0,
                };
                let samples: Vec<Drawn> = timesteps.iter().map(sample).collect();
                let caption = || Caption { text: caption, encoded: encoded.clone(), dropped: Dropped::default() };
                let captions: Vec<Caption<'_>> = samples.iter().map(|_| caption()).collect();
                let (context, pooled, prompts) = self.replica.read(&captions)?;
                let mut batch = Batch { prompts, ..Batch::new(&samples, context, pooled)? };
                batch.count(&vec![(1.0, mask.clone()); samples.len()])?;
                let losses = batch.losses(blocks::velocity(state, &self.job.parameters, &batch)?);
                let means = losses.reshape::<2, _>([samples.len() as i32, -1]).mean_dim(1);
                row.extend(nn::to_host(means).into_iter().map(f64::from));
            }
            rows.push(row);
        }
        Ok(rows)
    }
}
