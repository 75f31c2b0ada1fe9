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
        ADAPTER, TrainJob, adapter,
        batch::Batch,
        objective::{self, Gradients},
        order::Turn,
        parameters::Checkpointing,
        state::{self, Measured, State},
    },
    work::Work,
};
use burn::tensor::{DType, Device};
use std::time::Instant;

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
        let weights = base(job, |source| Ok(nn::load_each(source, |name| (home(name), dtype))?))?;
        state.frozen = adapter::frozen(weights, &job.adapter, home);
    }
    let trainer = Trainer {
        job,
        dtype: nn::dtype(job.parameters.precision),
        conditioning: Conditioning::new(&job.facts.geometry, job.t5_tokens),
        device,
    };
    let per_epoch = job.steps_per_epoch();
    let done = |state: &State| u64::from(state.position.epoch) * per_epoch + state.position.steps;
    let total = (last as u64 + 1) * per_epoch;
    work.progress.begin("training", total, "steps");
    work.progress.advance(done(&state), "");
    while state.position.epoch as usize <= last {
        let epoch = state.position.epoch;
        let start = Instant::now();
        let folder = work.store.work_dir(&job.actions[epoch as usize].key)?;
        for turns in job.steps(epoch).into_iter().skip(state.position.steps as usize) {
            if work.interrupt.asked() {
                state::save_unfinished(&state, &folder)?;
                work.progress.end();
                return Err(StageError::Interrupted);
            }
            let step = done(&state);
            let measured = trainer.step(&mut state, &turns, step, work)?;
            state.position.steps += 1;
            state.position.measured.push(measured);
            let note = format!("epoch {} · loss {:.4} · rate {:.3e}", epoch + 1, measured.loss, measured.learning_rate);
            work.progress.advance(done(&state), &note);
            if state.position.steps.is_multiple_of(job.parameters.save_every.into()) && state.position.steps < per_epoch
            {
                state::save_unfinished(&state, &folder)?;
            }
        }
        finish_epoch(job, &mut state, epoch as usize == last, start, work)?;
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
    let weights = base(job, |source| match &job.parameters.method {
        Method::Full => Ok(nn::load_each(source, |name| (home(name), nn::dtype(job.parameters.kept_in(name))))?),
        Method::LoRA(lora) => Ok(adapter::trained(&adapter::start(job, lora, source)?, home)),
    })?;
    Ok(State::start(weights))
}

/// What `read` makes of the MMDiT that the training starts from.
fn base<T>(job: &TrainJob, read: impl Fn(&ComponentSource) -> Result<T, StageError>) -> Result<T, StageError> {
    let Some(source) = job.facts.open(Component::Mmdit)? else {
        return Err(StageError::Unfit("the model has no MMDiT".to_owned()));
    };
    let read = read(&source)?;
    job.facts.check(Component::Mmdit)?;
    Ok(read)
}

fn finish_epoch(
    job: &TrainJob,
    state: &mut State,
    keep_state: bool,
    start: Instant,
    work: &mut Work<'_>,
) -> Result<(), StageError> {
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
    } else {
        // Before this epoch counts as done: nothing else leads from it to the next.
        state::save_unfinished(state, &work.store.work_dir(&job.actions[epoch + 1].key)?)?;
    }
    work.publish(&job.actions[epoch], outputs, start.elapsed().as_secs_f64())?;
    work.flush()?;
    work.store.remove_work_dir(&job.actions[epoch].key)?;
    Ok(())
}

struct Trainer<'j> {
    job: &'j TrainJob,
    dtype: DType,
    conditioning: Conditioning,
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
            .map(|turns| Batch::draw(self.job, turns, step, &self.conditioning, work.store, &self.device, self.dtype));
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
