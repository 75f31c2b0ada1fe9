//! The training loop: from the nearest state that is kept to the last epoch that is asked for.

use crate::{
    action::output,
    adapter::parameters::Method,
    checkpoint::Component,
    error::StageError,
    nn::{self, Weights},
    precision::Precision,
    train::{
        ADAPTER, TrainJob, adapter,
        batch::Batch,
        objective::{self, Gradients},
        order::Turn,
        parameters::Checkpointing,
        prompts::Prompts,
        state::{self, Measured, State},
    },
    work::Work,
};
use burn::tensor::{DType, Device};
use sd3pipe_cache::Output;
use std::time::{Duration, Instant};

/// The state at the end of an epoch is saved if the last one is so old: it only makes a kill cost little, and after short epochs
/// writing it would be most of the work.
const SAVE_AFTER: Duration = Duration::from_secs(10);

/// Trains the missing epochs, which nobody else may be training. Epochs in between whose results are kept are trained again when no state leads past them.
pub fn train(job: &TrainJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    let (Some(&first), Some(&last)) = (missing.iter().min(), missing.iter().max()) else { return Ok(()) };

    let device = work.device.open();
    let home = |name: &str| match job.parameters.swaps(name, job.facts.geometry.depth) {
        true => Device::flex(),
        false => device.clone(),
    };
    let mut state = nearest_state(job, first, &home, work)?;
    if let Method::LoRA(_) = job.parameters.method {
        let dtype = nn::dtype(job.parameters.precision);
        state.frozen = adapter::frozen(adapter::base(job, dtype, home)?, &job.adapter, home);
    }
    let trainer = Trainer { job, dtype: nn::dtype(job.parameters.precision), prompts: Prompts::new(job)?, device };
    let (per_epoch, save_every) = (job.steps_per_epoch(), u64::from(job.parameters.save_every));
    let done = |state: &State| u64::from(state.position.epoch) * per_epoch + state.position.steps;
    let total = (last as u64 + 1) * per_epoch;
    work.progress.begin("training", total, "steps");
    work.progress.advance(done(&state), "");
    let mut finished = Finished { epochs: Vec::new(), saved: Instant::now() };
    while state.position.epoch as usize <= last {
        let epoch = state.position.epoch;
        let start = Instant::now();
        for turns in job.steps(epoch).into_iter().skip(state.position.steps as usize) {
            if work.interrupt.asked() {
                finished.save(job, &state, work)?;
                work.progress.end();
                return Err(StageError::Interrupted);
            }
            let step = done(&state);
            let measured = match trainer.step(&mut state, &turns, step, work) {
                Ok(measured) => measured,
                Err(error) => {
                    // A step that fails leaves the state as it was. Whether that could be saved or not, this error is the one to tell.
                    drop(finished.save(job, &state, work));
                    return Err(error);
                }
            };
            state.position.steps += 1;
            state.position.measured.push(measured);
            let note = format!("epoch {} · loss {:.4} · rate {:.3e}", epoch + 1, measured.loss, measured.learning_rate);
            work.progress.advance(done(&state), &note);
            if state.position.steps.is_multiple_of(save_every) && state.position.steps < per_epoch {
                finished.save(job, &state, work)?;
            }
        }
        let is_last = epoch as usize == last;
        let outputs = finish_epoch(job, &mut state, is_last, work)?;
        finished.epochs.push((epoch as usize, outputs, start.elapsed().as_secs_f64()));
        if is_last {
            finished.record(job, work)?;
        } else if per_epoch.is_multiple_of(save_every) || finished.saved.elapsed() >= SAVE_AFTER {
            finished.save(job, &state, work)?;
        }
    }
    work.progress.end();
    Ok(())
}

/// The furthest state from which the epoch `first` can be reached.
fn nearest_state(
    job: &TrainJob,
    first: usize,
    home: &dyn Fn(&str) -> Device,
    work: &Work<'_>,
) -> Result<State, StageError> {
    for epoch in (0..=first).rev() {
        let unfinished = state::unfinished(&work.store.work_dir(&job.actions[epoch].key)?);
        if unfinished.exists() {
            match State::load(&unfinished, home) {
                Ok(state) => {
                    work.progress.line(&format!("going on from step {} of epoch {}", state.position.steps, epoch + 1));
                    return Ok(state);
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
            return State::load(&path, home).map_err(reason);
        }
    }
    Ok(State::start(match &job.parameters.method {
        Method::Full => mmdit(job, home)?,
        Method::LoRA(lora) => adapter::trained(&adapter::start(job, lora)?, home),
    }))
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

/// Epochs that are done and not recorded yet: until a state is saved that leads on from them, a kill has them trained again.
struct Finished {
    /// Each with its outputs and the seconds that it took.
    epochs: Vec<(usize, Vec<Output>, f64)>,
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

    /// Records the epochs, all together or none: a state is kept that leads on from the last of them.
    fn record(&mut self, job: &TrainJob, work: &mut Work<'_>) -> Result<(), StageError> {
        for (epoch, outputs, seconds) in &self.epochs {
            work.hold(&job.actions[*epoch], outputs.clone(), *seconds);
        }
        work.flush()?;
        for (epoch, ..) in self.epochs.drain(..) {
            work.store.remove_work_dir(&job.actions[epoch].key)?;
        }
        Ok(())
    }
}

/// What an epoch put out; the state is the next one's from then on.
fn finish_epoch(
    job: &TrainJob,
    state: &mut State,
    keep_state: bool,
    work: &Work<'_>,
) -> Result<Vec<Output>, StageError> {
    let epoch = state.position.epoch as usize;
    let name = (epoch + 1).to_string();
    let weights = work.store.temporary_path();
    let results: Weights = state.results(&job.parameters.optimizer).collect();
    let role = match job.parameters.method {
        Method::Full => {
            nn::save(
                results.iter().map(|(name, weight)| (name.to_owned(), weight.clone())),
                job.parameters.precision,
                None,
                &weights,
            )?;
            "weights"
        }
        // Small, so that nothing need be rounded.
        Method::LoRA(_) => {
            nn::save(adapter::saved(&results, &job.adapter), Precision::F32, None, &weights)?;
            ADAPTER
        }
    };
    let mut outputs = vec![output(role, name.clone(), work.store.adopt(&weights)?)];
    let measured =
        serde_json::to_vec(&state.position.measured).map_err(|error| StageError::Unfit(error.to_string()))?;
    outputs.push(output("losses", name.clone(), work.store.put(&measured)?));

    state.position = state::Position { epoch: state.position.epoch + 1, ..Default::default() };
    if keep_state {
        let path = work.store.temporary_path();
        state.save(&path)?;
        outputs.push(output("state", name, work.store.adopt(&path)?));
    }
    Ok(outputs)
}

struct Trainer<'j> {
    job: &'j TrainJob,
    dtype: DType,
    prompts: Prompts,
    device: Device,
}

impl Trainer<'_> {
    /// One optimizer step over the batches of `turns`.
    fn step(&self, state: &mut State, turns: &[Vec<Turn>], step: u64, work: &Work<'_>) -> Result<Measured, StageError> {
        let (parameters, rate) = (&self.job.parameters, self.job.learning_rate(step));
        let samples = turns.iter().map(Vec::len).sum();
        let levels = self.job.levels(step, turns);
        let mut batches = levels
            .iter()
            .map(|turns| Batch::draw(self.job, turns, step, &self.prompts, work.store, &self.device, self.dtype));
        if parameters.fused_step
            && let Some(batch) = batches.next()
        {
            return state.update_by_blocks(batch?, parameters, rate, step);
        }
        let gradients = match parameters.checkpointing {
            Checkpointing::None => Gradients::of(&objective::network(state, parameters), batches, samples)?,
            Checkpointing::Blocks => Gradients::by_blocks(state, parameters, batches, samples)?,
        };
        state.update(gradients, parameters, rate, step)
    }
}
