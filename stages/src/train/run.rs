//! The training loop: from the nearest state that is kept to the last epoch that is asked for.

use crate::{
    action::output,
    adapter::parameters::Method,
    device::DeviceKind,
    error::StageError,
    nn::{self, Weights},
    precision::Precision,
    train::{
        TrainJob, adapter,
        average::AVERAGE,
        metrics::{LOSSES, Measured},
        order::Turn,
        parallel::{Crew, Hands, deal},
        replica::Replica,
        state::{self, State},
        validation::Watch,
    },
    work::Work,
};
use burn::tensor::Device;
use sd3pipe_cache::{Object, Output};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The state at the end of an epoch is saved if the last one is so old: it only makes a kill cost little, and after short epochs
/// writing it would be most of the work.
const SAVE_AFTER: Duration = Duration::from_secs(10);

/// What the first step of a size takes longer than is worth a line.
const FIRST_TAKES: Duration = Duration::from_secs(3);

/// Trains the missing epochs, which nobody else may be training, and validates those whose validation is missing. Epochs in between
/// whose results are kept are trained again when no state leads past them.
pub fn train(job: &TrainJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    if missing.is_empty() {
        return Ok(());
    }
    let devices: Vec<_> = work.devices.iter().map(|device| device.open()).collect();
    let store = work.store;
    std::thread::scope(|scope| {
        // Left last of all, so that the others see that the first is gone.
        let (crew, rank) = Crew::start(scope, job, &devices, store)?;
        let device = devices.first().cloned().unwrap_or_else(Device::flex);
        let replica = Replica::new(job, device, rank)?;
        let (missing, sizes) = (missing.iter().copied().collect(), RefCell::default());
        Trainer { job, missing, crew: &crew, replica, sizes }.train(work)
    })
}

pub(super) struct Trainer<'j> {
    pub(super) job: &'j TrainJob,
    /// The actions to carry out.
    pub(super) missing: BTreeSet<usize>,
    /// The first device's.
    pub(super) replica: Replica<'j>,
    /// The other devices.
    crew: &'j Crew,
    /// Sizes of pictures that have been in a step.
    sizes: RefCell<BTreeSet<(u32, u32)>>,
}

impl Trainer<'_> {
    fn train(&self, work: &mut Work<'_>) -> Result<(), StageError> {
        let job = self.job;
        let mut watch = Watch::new(job.parameters.stop);
        let end = (0..job.epochs()).rev().find(|epoch| self.missing.contains(epoch));
        let last = end.filter(|_| !work.continues);
        let mut state = None;
        let mut finished = Finished { actions: Vec::new(), saved: Instant::now() };
        for epoch in 0..job.epochs() {
            let ended = if self.missing.contains(&epoch) {
                let state = match &mut state {
                    Some(state) => state,
                    none => {
                        let state = none.insert(self.nearest_state(epoch, work)?);
                        let total = end.map_or(0, |end| (end as u64 + 1) * job.steps_per_epoch());
                        work.progress.begin("training", total, "steps");
                        work.progress.advance(self.done(state), "");
                        state
                    }
                };
                while (state.position.epoch as usize) < epoch {
                    self.epoch(state, false, None, &mut finished, work)?;
                }
                self.epoch(state, last == Some(epoch), Some(&mut watch), &mut finished, work)?
            } else {
                self.look_at(epoch, &mut watch, work)?
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
            finished.save(self, state, work)?;
        }
        work.progress.end();
        Ok(())
    }

    /// The furthest state from which an epoch can be reached, on all devices.
    fn nearest_state(&self, epoch: usize, work: &Work<'_>) -> Result<State, StageError> {
        let say = |text: &str| work.progress.line(text);
        self.crew.load(epoch, || self.replica.nearest_state(epoch, work.store, &say))
    }

    /// Steps that are done, over all epochs.
    fn done(&self, state: &State) -> u64 {
        u64::from(state.position.epoch) * self.job.steps_per_epoch() + state.position.steps
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
        let mut steps = job.steps(state.position.epoch).into_iter().skip(state.position.steps as usize).peekable();
        while let Some(turns) = steps.next() {
            let measured = match work.interrupt.asked() {
                true => Err(StageError::Interrupted),
                false => self.step(state, &turns, steps.peek(), self.done(state), work),
            };
            // A step that fails leaves the state as it was.
            let measured = measured.map_err(|error| finished.save_after(error, self, state, work))?;
            state.position.steps += 1;
            state.position.measured.push(measured);
            work.progress.measured(&measured.scalars());
            let (epoch, loss, rate) = (state.position.epoch + 1, measured.loss, measured.learning_rate);
            let note = format!("epoch {epoch} · loss {loss:.4} · rate {rate:.3e}{held_out}");
            work.progress.advance(self.done(state), &note);
            if state.position.steps.is_multiple_of(save_every) && state.position.steps < per_epoch {
                finished.save(self, state, work)?;
            }
        }
        let made = self.finish(state, last, watch, start, work);
        let (made, ended) = made.map_err(|error| finished.save_after(error, self, state, work))?;
        finished.actions.extend(made);
        if last || ended {
            finished.record(job, work)?;
        } else if per_epoch.is_multiple_of(save_every) || finished.saved.elapsed() >= SAVE_AFTER {
            finished.save(self, state, work)?;
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
        let whole = self.crew.whole(state)?;
        let results: Weights = whole.results(&job.parameters.optimizer).collect();
        let averages = job.parameters.average.map(|_| whole.averages());
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

        let position = state::Position { epoch: state.position.epoch + 1, ..Default::default() };
        if last || ended {
            let path = work.store.temporary_path();
            State { position: position.clone(), ..whole.into_owned() }.save(&path)?;
            outputs.push(output("state", name, work.store.adopt(&path)?));
        }
        state.position = position;
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

    /// One optimizer step over the batches of `turns`, dealt to all devices, which draw those of `next` meanwhile.
    fn step(
        &self,
        state: &mut State,
        turns: &[Vec<Turn>],
        next: Option<&Vec<Vec<Turn>>>,
        step: u64,
        work: &Work<'_>,
    ) -> Result<Measured, StageError> {
        let samples = turns.iter().map(Vec::len).sum();
        let cost = |(turn, _): &(Turn, f32)| {
            let (width, height) = self.job.items[turn.item].bucket;
            u64::from(width) * u64::from(height)
        };
        let deal = |step, turns| deal(&self.job.levels(step, turns), cost, self.crew.devices());
        let mut next = next.map(|next| deal(step + 1, next).into_iter());
        let hand = |now| Hands { now, next: next.as_mut().and_then(Iterator::next) };
        let hands: Vec<Hands> = deal(step, turns).into_iter().map(hand).collect();
        let start = Instant::now();
        let measured = self
            .crew
            .step(&hands, (samples, step), || self.replica.step(state, &hands[0], samples, step, work.store))?;
        self.tell_of_sizes(turns, start.elapsed(), work);
        Ok(measured)
    }

    /// Says it if a step took long because its pictures' size was new.
    fn tell_of_sizes(&self, turns: &[Vec<Turn>], took: Duration, work: &Work<'_>) {
        let mut sizes = self.sizes.borrow_mut();
        let of_step = turns.iter().flatten().map(|turn| self.job.items[turn.item].bucket);
        let new: Vec<String> = of_step
            .filter(|bucket| sizes.insert(*bucket))
            .map(|(width, height)| format!("{width} × {height}"))
            .collect();
        if !new.is_empty() && took >= FIRST_TAKES && self.job.facts.device == DeviceKind::Cuda {
            let (sizes, seconds) = (new.join(", "), took.as_secs_f64());
            work.progress.line(&format!(
                "the first step at {sizes} took {seconds:.0} s: kernels were made for it, and are kept"
            ));
        }
    }
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
    fn save(&mut self, trainer: &Trainer<'_>, state: &State, work: &mut Work<'_>) -> Result<(), StageError> {
        let key = &trainer.job.actions[state.position.epoch as usize].key;
        state::save_unfinished(trainer.crew.whole(state)?.as_ref(), &work.store.work_dir(key)?)?;
        self.saved = Instant::now();
        self.record(trainer.job, work)
    }

    /// The same after an error. Whether that can be done or not, the error is the one to tell, unless it was only to stop.
    fn save_after(
        &mut self,
        error: StageError,
        trainer: &Trainer<'_>,
        state: &State,
        work: &mut Work<'_>,
    ) -> StageError {
        let saved = self.save(trainer, state, work);
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
