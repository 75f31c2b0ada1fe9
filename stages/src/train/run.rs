//! The training loop: from the nearest state that is kept to the last epoch that is asked for.

use crate::{
    action::output,
    adapter::parameters::Method,
    checkpoint::Component,
    error::StageError,
    nn::{self, Weights},
    precision::Precision,
    train::{
        TrainJob, adapter,
        average::AVERAGE,
        batch::Batch,
        metrics::{LOSSES, Measured},
        objective::{self, Gradients},
        order::Turn,
        parameters::Checkpointing,
        prompts::Prompts,
        state::{self, State},
        validation::Watch,
    },
    work::Work,
};
use burn::tensor::{DType, Device};
use sd3pipe_cache::{Object, Output};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The state at the end of an epoch is saved if the last one is so old: it only makes a kill cost little, and after short epochs
/// writing it would be most of the work.
const SAVE_AFTER: Duration = Duration::from_secs(10);

/// Trains the missing epochs, which nobody else may be training, and validates those whose validation is missing. Epochs in between
/// whose results are kept are trained again when no state leads past them.
pub fn train(job: &TrainJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    if missing.is_empty() {
        return Ok(());
    }
    let missing: BTreeSet<usize> = missing.iter().copied().collect();
    let dtype = nn::dtype(job.parameters.precision);
    let (device, prompts) = (work.device.open(), Prompts::new(job)?);
    let mut trainer = Trainer { job, missing, dtype, prompts, device, frozen: Weights::default() };
    if let Method::LoRA(_) = job.parameters.method {
        let weights = adapter::base(job, dtype, |name| trainer.home(name))?;
        trainer.frozen = adapter::frozen(weights, &job.adapter, |name| trainer.home(name));
    }
    let mut watch = Watch::new(job.parameters.stop);
    let end = (0..job.epochs()).rev().find(|epoch| trainer.missing.contains(epoch));
    let last = end.filter(|_| !work.continues);
    let mut state = None;
    let mut finished = Finished { actions: Vec::new(), saved: Instant::now() };
    for epoch in 0..job.epochs() {
        let ended = if trainer.missing.contains(&epoch) {
            let state = match &mut state {
                Some(state) => state,
                none => {
                    let state = none.insert(trainer.nearest_state(epoch, work)?);
                    let total = end.map_or(0, |end| (end as u64 + 1) * job.steps_per_epoch());
                    work.progress.begin("training", total, "steps");
                    work.progress.advance(trainer.done(state), "");
                    state
                }
            };
            while (state.position.epoch as usize) < epoch {
                trainer.epoch(state, false, None, &mut finished, work)?;
            }
            trainer.epoch(state, last == Some(epoch), Some(&mut watch), &mut finished, work)?
        } else {
            trainer.look_at(epoch, &mut watch, work)?
        };
        if ended && epoch + 1 < job.epochs() {
            work.progress.line(&format!("stopped after epoch {}: the held-out loss gets no lower", epoch + 1));
            state = None;
            break;
        }
    }
    if work.continues
        && !finished.actions.is_empty()
        && let Some(state) = &state
    {
        finished.save(job, state, work)?;
    }
    work.progress.end();
    Ok(())
}

pub(super) struct Trainer<'j> {
    pub(super) job: &'j TrainJob,
    /// The actions to carry out.
    pub(super) missing: BTreeSet<usize>,
    pub(super) dtype: DType,
    pub(super) prompts: Prompts,
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
            None => State::start(match &self.job.parameters.method {
                Method::Full => mmdit(self.job, home)?,
                Method::LoRA(lora) => adapter::trained(&adapter::start(self.job, lora)?, home),
            }),
        };
        // Of no use any more: buffers of other sizes that weights came through.
        self.device.memory_cleanup();
        Ok(State { frozen: self.frozen.clone(), ..state })
    }

    /// Trains what is left of an epoch, and validates it if it is `watch`ed. Says whether the training ends with it.
    fn epoch(
        &self,
        state: &mut State,
        last: bool,
        watch: Option<&mut Watch>,
        finished: &mut Finished,
        work: &mut Work<'_>,
    ) -> Result<bool, StageError> {
        let (start, job) = (Instant::now(), self.job);
        let (per_epoch, save_every) = (job.steps_per_epoch(), u64::from(job.parameters.save_every));
        let held_out = watch.as_ref().and_then(|watch| watch.held_out());
        let held_out = held_out.map_or(String::new(), |loss| format!(" · held out {loss:.4}"));
        // Steps that an earlier run has done of this epoch.
        let before: Vec<_> = state.position.measured.iter().flat_map(Measured::scalars).collect();
        work.progress.measured(&before);
        for turns in job.steps(state.position.epoch).into_iter().skip(state.position.steps as usize) {
            let measured = match work.interrupt.asked() {
                true => Err(StageError::Interrupted),
                false => self.step(state, &turns, self.done(state), work),
            };
            // A step that fails leaves the state as it was.
            let measured = measured.map_err(|error| finished.save_after(error, job, state, work))?;
            state.position.steps += 1;
            state.position.measured.push(measured);
            work.progress.measured(&measured.scalars());
            let (epoch, loss, rate) = (state.position.epoch + 1, measured.loss, measured.learning_rate);
            let note = format!("epoch {epoch} · loss {loss:.4} · rate {rate:.3e}{held_out}");
            work.progress.advance(self.done(state), &note);
            if state.position.steps.is_multiple_of(save_every) && state.position.steps < per_epoch {
                finished.save(job, state, work)?;
            }
        }
        let made = self.finish(state, last, watch, start, work);
        let (made, ended) = made.map_err(|error| finished.save_after(error, job, state, work))?;
        finished.actions.extend(made);
        if last || ended {
            finished.record(job, work)?;
        } else if per_epoch.is_multiple_of(save_every) || finished.saved.elapsed() >= SAVE_AFTER {
            finished.save(job, state, work)?;
        }
        Ok(ended)
    }

    /// What an epoch put out, and its validation if it is `watch`ed and that is missing; and whether the training ends with it. The
    /// state is the next epoch's from then on, and as it was if this fails.
    fn finish(
        &self,
        state: &mut State,
        last: bool,
        watch: Option<&mut Watch>,
        start: Instant,
        work: &Work<'_>,
    ) -> Result<(Vec<Made>, bool), StageError> {
        let (job, epoch) = (self.job, state.position.epoch as usize);
        let name = (epoch + 1).to_string();
        let results: Weights = state.results(&job.parameters.optimizer).collect();
        let averages = job.parameters.average.map(|_| state.averages());
        let (mut validations, mut ended) = (Vec::new(), false);
        if let Some(watch) = watch
            && let Some(action) = job.validation_of(epoch)
        {
            let start = Instant::now();
            let report = if self.missing.contains(&action) {
                let report = self.validate(epoch, &results, averages.as_ref(), &|_| (), work)?;
                validations.push((action, self.report(&report, work)?, start.elapsed().as_secs_f64()));
                report
            } else {
                self.known(action, work)?
            };
            ended = watch.ends(&report);
        }

        let mut outputs = vec![output(job.role(), name.clone(), self.save(&results, work)?)];
        if let Some(averages) = &averages {
            outputs.push(output(AVERAGE, name.clone(), self.save(averages, work)?));
        }
        let measured =
            serde_json::to_vec(&state.position.measured).map_err(|error| StageError::Unfit(error.to_string()))?;
        outputs.push(output(LOSSES, name.clone(), work.store.put(&measured)?));

        let before = state.position.clone();
        state.position = state::Position { epoch: before.epoch + 1, ..Default::default() };
        if last || ended {
            let path = work.store.temporary_path();
            let saved = state.save(&path).and_then(|()| Ok(work.store.adopt(&path)?));
            let saved = saved.inspect_err(|_| state.position = before)?;
            outputs.push(output("state", name, saved));
        }
        let trained = (epoch, outputs, start.elapsed().as_secs_f64());
        Ok((std::iter::once(trained).chain(validations).collect(), ended))
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
            .map(|turns| Batch::draw(self.job, turns, step, &self.prompts, work.store, &self.device, self.dtype));
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

/// The MMDiT that the training starts from.
fn mmdit(job: &TrainJob, home: impl Fn(&str) -> Device) -> Result<Weights, StageError> {
    let Some(source) = job.facts.open(Component::Mmdit)? else {
        return Err(StageError::Unfit("the model has no MMDiT".to_owned()));
    };
    let weights = nn::load_each(&source, |name| (home(name), nn::dtype(job.parameters.kept_in(name))))?;
    job.facts.check(Component::Mmdit)?;
    Ok(weights)
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

/// An action with its outputs and the seconds that it took.
type Made = (usize, Vec<Output>, f64);

/// Epochs and validations that are done and not recorded yet: until a state is saved that leads on from them, a kill has them made
/// again.
struct Finished {
    actions: Vec<Made>,
    /// When a state was last saved.
    saved: Instant,
}

impl Finished {
    /// Saves the state, and then records the epochs before it.
    fn save(&mut self, job: &TrainJob, state: &State, work: &mut Work<'_>) -> Result<(), StageError> {
        state::save_unfinished(state, &work.store.work_dir(&job.actions[state.position.epoch as usize].key)?)?;
        self.saved = Instant::now();
        self.record(job, work)
    }

    /// The same after an error. Whether that can be done or not, the error is the one to tell, unless it was only to stop.
    fn save_after(&mut self, error: StageError, job: &TrainJob, state: &State, work: &mut Work<'_>) -> StageError {
        let saved = self.save(job, state, work);
        work.progress.end();
        match (error, saved) {
            (StageError::Interrupted, Err(unsaved)) => unsaved,
            (error, _) => error,
        }
    }

    /// Records what is done, all together or none: a state is kept that leads on from the last epoch.
    fn record(&mut self, job: &TrainJob, work: &mut Work<'_>) -> Result<(), StageError> {
        for (action, outputs, seconds) in &self.actions {
            work.hold(&job.actions[*action], outputs.clone(), *seconds)?;
        }
        work.flush()?;
        for (action, ..) in self.actions.drain(..).filter(|(action, ..)| *action < job.epochs()) {
            work.store.remove_work_dir(&job.actions[action].key)?;
        }
        Ok(())
    }
}
