//! The training loop: from the nearest state that is kept to the last epoch that is asked for.

use crate::{
    action::output,
    adapter::parameters::Method,
    checkpoint::{Component, ComponentSource},
    error::StageError,
    nn::{self, Weights},
    precision::Precision,
    text::Conditioning,
    train::{
        TrainJob, adapter,
        average::AVERAGE,
        batch::Batch,
        objective::{self, Gradients},
        order::Turn,
        parameters::Checkpointing,
        state::{self, Measured, State},
        validation::Watch,
    },
    work::Work,
};
use burn::tensor::{DType, Device};
use sd3pipe_cache::Object;
use std::{collections::BTreeSet, time::Instant};

/// Trains the missing epochs, which nobody else may be training, and validates those whose validation is missing. Epochs in between
/// whose results are kept are trained again when no state leads past them.
pub fn train(job: &TrainJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    if missing.is_empty() {
        return Ok(());
    }
    let missing: BTreeSet<usize> = missing.iter().copied().collect();
    let dtype = nn::dtype(job.parameters.precision);
    let conditioning = Conditioning::new(&job.facts.geometry, job.t5_tokens);
    let mut trainer =
        Trainer { job, missing, dtype, conditioning, device: work.device.open(), frozen: Weights::default() };
    if let Method::LoRA(_) = job.parameters.method {
        let weights = base(job, |source| Ok(nn::load_each(source, |name| (trainer.home(name), dtype))?))?;
        trainer.frozen = adapter::frozen(weights, &job.adapter, |name| trainer.home(name));
    }
    let mut watch = Watch::new(job.parameters.stop);
    let last = (0..job.epochs()).rev().find(|epoch| trainer.missing.contains(epoch));
    let mut state = None;
    for epoch in 0..job.epochs() {
        let ended = if trainer.missing.contains(&epoch) {
            let state = match &mut state {
                Some(state) => state,
                none => {
                    let state = none.insert(trainer.nearest_state(epoch, work)?);
                    let total = last.map_or(0, |last| (last as u64 + 1) * job.steps_per_epoch());
                    work.progress.begin("training", total, "steps");
                    work.progress.advance(trainer.done(state), "");
                    state
                }
            };
            while (state.position.epoch as usize) < epoch {
                trainer.steps(state, &watch, work)?;
                trainer.finish(state, false, None, work)?;
            }
            trainer.steps(state, &watch, work)?;
            trainer.finish(state, last == Some(epoch), Some(&mut watch), work)?
        } else {
            trainer.look_at(epoch, &mut watch, work)?
        };
        if ended && epoch + 1 < job.epochs() {
            work.progress.line(&format!("stopped after epoch {}: the held-out loss gets no lower", epoch + 1));
            break;
        }
    }
    work.progress.end();
    Ok(())
}

/// What `read` makes of the MMDiT that the training starts from.
pub(super) fn base<T>(
    job: &TrainJob,
    read: impl Fn(&ComponentSource) -> Result<T, StageError>,
) -> Result<T, StageError> {
    let Some(source) = job.facts.open(Component::Mmdit)? else {
        return Err(StageError::Unfit("the model has no MMDiT".to_owned()));
    };
    let read = read(&source)?;
    job.facts.check(Component::Mmdit)?;
    Ok(read)
}

pub(super) struct Trainer<'j> {
    pub(super) job: &'j TrainJob,
    /// The actions to carry out.
    pub(super) missing: BTreeSet<usize>,
    pub(super) dtype: DType,
    pub(super) conditioning: Conditioning,
    pub(super) device: Device,
    /// The weights that an adapter is trained beside, see [`State::frozen`].
    pub(super) frozen: Weights,
}

impl Trainer<'_> {
    /// Where a tensor lies between steps.
    pub(super) fn home(&self, name: &str) -> Device {
        match self.job.parameters.swaps(name, self.job.facts.geometry.depth) {
            true => Device::flex(),
            false => self.device.clone(),
        }
    }

    /// Steps that are done, over all epochs.
    fn done(&self, state: &State) -> u64 {
        u64::from(state.position.epoch) * self.job.steps_per_epoch() + state.position.steps
    }

    /// The furthest state from which an epoch can be reached.
    fn nearest_state(&self, epoch: usize, work: &Work<'_>) -> Result<State, StageError> {
        let home = |name: &str| self.home(name);
        let state = match kept_state(self.job, epoch, &home, work)? {
            Some(state) => state,
            None => State::start(base(self.job, |source| match &self.job.parameters.method {
                Method::Full => {
                    Ok(nn::load_each(source, |name| (home(name), nn::dtype(self.job.parameters.kept_in(name))))?)
                }
                Method::LoRA(lora) => Ok(adapter::trained(&adapter::start(self.job, lora, source)?, home)),
            })?),
        };
        Ok(State { frozen: self.frozen.clone(), ..state })
    }

    /// The steps of an epoch that are not done.
    fn steps(&self, state: &mut State, watch: &Watch, work: &Work<'_>) -> Result<(), StageError> {
        let (job, epoch) = (self.job, state.position.epoch);
        let folder = work.store.work_dir(&job.actions[epoch as usize].key)?;
        let held_out = watch.held_out().map_or(String::new(), |loss| format!(" · held out {loss:.4}"));
        for turns in job.steps(epoch).into_iter().skip(state.position.steps as usize) {
            if work.interrupt.asked() {
                return Err(interrupted(state, job, work));
            }
            let measured = self.step(state, &turns, self.done(state), work)?;
            state.position.steps += 1;
            state.position.measured.push(measured);
            let (loss, rate) = (measured.loss, measured.learning_rate);
            let note = format!("epoch {} · loss {loss:.4} · rate {rate:.3e}{held_out}", epoch + 1);
            work.progress.advance(self.done(state), &note);
            if state.position.steps.is_multiple_of(job.parameters.save_every.into())
                && state.position.steps < job.steps_per_epoch()
            {
                state::save_unfinished(state, &folder)?;
            }
        }
        Ok(())
    }

    /// Publishes an epoch, and its validation if it is `watch`ed and that is missing. Says whether the training ends with it.
    fn finish(
        &self,
        state: &mut State,
        last: bool,
        watch: Option<&mut Watch>,
        work: &mut Work<'_>,
    ) -> Result<bool, StageError> {
        let (start, job, epoch) = (Instant::now(), self.job, state.position.epoch as usize);
        let name = (epoch + 1).to_string();
        let results: Weights = state.results(&job.parameters.optimizer).collect();
        let averages = job.parameters.average.map(|_| state.averages());
        // Before the epoch counts as done: how it is published depends on whether there is another.
        let validation = job.validation_of(epoch).filter(|_| watch.is_some());
        let mut report = None;
        if let Some(action) = validation {
            let found = match self.missing.contains(&action) {
                true => self.validate(epoch, &results, averages.as_ref(), &|_| (), work),
                false => self.known(action, work),
            };
            report = Some(found.map_err(|error| match error {
                StageError::Interrupted => interrupted(state, job, work),
                error => error,
            })?);
        }
        let ended = report.as_ref().zip(watch).is_some_and(|(report, watch)| watch.ends(report));

        let mut outputs = vec![output(job.role(), name.clone(), self.save(&results, work)?)];
        if let Some(averages) = &averages {
            outputs.push(output(AVERAGE, name.clone(), self.save(averages, work)?));
        }
        let measured =
            serde_json::to_vec(&state.position.measured).map_err(|error| StageError::Unfit(error.to_string()))?;
        outputs.push(output("losses", name.clone(), work.store.put(&measured)?));

        state.position = state::Position { epoch: state.position.epoch + 1, ..Default::default() };
        if last || ended {
            let path = work.store.temporary_path();
            state.save(&path)?;
            outputs.push(output("state", name, work.store.adopt(&path)?));
        } else {
            // Before this epoch counts as done: nothing else leads from it to the next.
            state::save_unfinished(state, &work.store.work_dir(&job.actions[epoch + 1].key)?)?;
        }
        work.publish(&job.actions[epoch], outputs, start.elapsed().as_secs_f64())?;
        if let (Some(report), Some(action)) = (&report, validation.filter(|action| self.missing.contains(action))) {
            self.publish(report, action, start, work)?;
        }
        work.flush()?;
        work.store.remove_work_dir(&job.actions[epoch].key)?;
        Ok(ended)
    }

    /// Writes weights as an epoch has them.
    fn save(&self, weights: &Weights, work: &Work<'_>) -> Result<Object, StageError> {
        let path = work.store.temporary_path();
        match self.job.parameters.method {
            Method::Full => {
                let weights = weights.iter().map(|(name, weight)| (name.to_owned(), weight.clone()));
                nn::save(weights, self.job.parameters.precision, None, &path)?;
            }
            // Small, so that nothing need be rounded.
            Method::LoRA(_) => nn::save(adapter::saved(weights, &self.job.adapter), Precision::F32, None, &path)?,
        }
        Ok(work.store.adopt(&path)?)
    }

    /// One optimizer step over the batches of `turns`.
    fn step(&self, state: &mut State, turns: &[Vec<Turn>], step: u64, work: &Work<'_>) -> Result<Measured, StageError> {
        let (parameters, rate) = (&self.job.parameters, self.job.learning_rate(step));
        let samples = turns.iter().map(Vec::len).sum();
        let levels = self.job.levels(step, turns);
        let mut batches = levels
            .iter()
            .map(|turns| Batch::draw(self.job, turns, step, &self.conditioning, work.store, &self.device, self.dtype));
        let measured = if parameters.fused_step
            && let Some(batch) = batches.next()
        {
            state.update_by_blocks(batch?, parameters, rate, step)?
        } else {
            let gradients = match parameters.checkpointing {
                Checkpointing::None => Gradients::of(&objective::network(state, parameters), batches, samples)?,
                Checkpointing::Blocks => Gradients::by_blocks(state, parameters, batches, samples)?,
            };
            state.update(gradients, parameters, rate, step)?
        };
        if let Some(average) = &parameters.average {
            state.follow(average, |name| parameters.trains(name), step, &self.device);
        }
        Ok(measured)
    }
}

/// The furthest state that is kept and leads to an epoch.
fn kept_state(
    job: &TrainJob,
    epoch: usize,
    home: &dyn Fn(&str) -> Device,
    work: &Work<'_>,
) -> Result<Option<State>, StageError> {
    for epoch in (0..=epoch).rev() {
        let unfinished = state::unfinished(&work.store.work_dir(&job.actions[epoch].key)?);
        if unfinished.exists() {
            match State::load(&unfinished, home) {
                Ok(state) => {
                    work.progress.line(&format!("going on from step {} of epoch {}", state.position.steps, epoch + 1));
                    return Ok(Some(state));
                }
                Err(reason) => work
                    .progress
                    .line(&format!("the saved state of epoch {} can't be read and is left out: {reason}", epoch + 1)),
            }
        }
        let kept = match epoch.checked_sub(1) {
            Some(previous) => work.store.outputs(&job.actions[previous].key)?.unwrap_or_default(),
            None => Vec::new(),
        };
        if let Some(kept) = kept.iter().find(|output| output.role == "state")
            && let Ok(path) = work.store.file(&kept.digest)
        {
            let reason = |reason| StageError::Unreadable { what: format!("state of epoch {epoch}"), reason };
            return State::load(&path, home).map(Some).map_err(reason);
        }
    }
    Ok(None)
}

/// Saves the state of an epoch that is not published yet, for the run that goes on from it.
fn interrupted(state: &State, job: &TrainJob, work: &Work<'_>) -> StageError {
    work.progress.end();
    let folder = work.store.work_dir(&job.actions[state.position.epoch as usize].key).map_err(StageError::from);
    match folder.and_then(|folder| state::save_unfinished(state, &folder)) {
        Ok(()) => StageError::Interrupted,
        Err(error) => error,
    }
}
