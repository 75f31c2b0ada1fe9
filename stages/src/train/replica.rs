//! A device's copy of what is trained, and its part of each step.

use crate::{
    adapter::parameters::Method,
    checkpoint::Component,
    error::StageError,
    nn::{self, Weights},
    train::{
        TrainJob, adapter,
        batch::Batch,
        metrics::Measured,
        objective::{self, Gradients},
        parallel::{Hands, Rank},
        parameters::Checkpointing,
        prompts::{Caption, Prompt, Prompts},
        sample::Sample,
        state::{self, State},
    },
};
use burn::tensor::{DType, Device, Tensor};
use sd3pipe_cache::Store;
use std::cell::RefCell;

/// What a device trains with.
pub(super) struct Replica<'j> {
    pub(super) job: &'j TrainJob,
    pub(super) dtype: DType,
    pub(super) prompts: Prompts,
    pub(super) device: Device,
    /// Its place among those that train together.
    pub(super) rank: Rank,
    /// The weights that an adapter is trained beside, see [`State::frozen`].
    pub(super) frozen: Weights,
    /// What was drawn for a step ahead of it.
    ahead: RefCell<Option<(u64, Samples<'j>)>>,
}

/// Those of a device's batches in a step.
type Samples<'j> = Result<Vec<Vec<Sample<'j>>>, StageError>;

impl<'j> Replica<'j> {
    /// That of a device, with the frozen weights loaded.
    ///
    /// # Errors
    /// When the model can't be loaded.
    pub(super) fn new(job: &'j TrainJob, device: Device, rank: Rank) -> Result<Self, StageError> {
        let (dtype, prompts) = (nn::dtype(job.parameters.precision), Prompts::new(job)?);
        let mut replica =
            Self { job, dtype, prompts, device, rank, frozen: Weights::default(), ahead: RefCell::default() };
        if let Method::LoRA(_) = job.parameters.method {
            let weights = adapter::base(job, dtype, |name| replica.home(name))?;
            replica.frozen = adapter::frozen(weights, &job.adapter, |name| replica.home(name));
        }
        Ok(replica)
    }

    /// Where a tensor lies between steps.
    pub(super) fn home(&self, name: &str) -> Device {
        match self.job.parameters.swaps(name, self.job.facts.geometry.depth) {
            true => Device::flex(),
            false => self.device.clone(),
        }
    }

    /// What the network reads of captions.
    ///
    /// # Errors
    /// Those of [`Prompts::read`].
    pub(super) fn read(&self, captions: &[Caption<'_>]) -> Result<(Tensor<3>, Tensor<2>, Vec<Prompt>), StageError> {
        self.prompts.read(captions, &self.device, self.dtype)
    }

    /// The furthest state from which an epoch can be reached; `say` hears where that is.
    pub(super) fn nearest_state(&self, epoch: usize, store: &Store, say: &dyn Fn(&str)) -> Result<State, StageError> {
        let state = match self.kept_state(epoch, store, say)? {
            Some(state) => state,
            None => {
                let home = |name: &str| self.home(name);
                State::start(match &self.job.parameters.method {
                    Method::Full => mmdit(self.job, home)?,
                    Method::LoRA(lora) => adapter::trained(&adapter::start(self.job, lora)?, home),
                })
            }
        };
        // Of no use any more: buffers of other sizes that weights came through.
        self.device.memory_cleanup();
        Ok(State { frozen: self.frozen.clone(), rank: self.rank.clone(), ..state })
    }

    /// The furthest state that is kept and leads to an epoch.
    fn kept_state(&self, epoch: usize, store: &Store, say: &dyn Fn(&str)) -> Result<Option<State>, StageError> {
        let (job, home) = (self.job, |name: &str| self.home(name));
        for epoch in (0..=epoch).rev() {
            let unfinished = state::unfinished(&store.work_dir(&job.actions[epoch].key)?);
            if unfinished.exists() {
                match State::load(&unfinished, home, self.rank.clone()) {
                    Ok(state) => {
                        say(&format!("going on from step {} of epoch {}", state.position.steps, epoch + 1));
                        return Ok(Some(state));
                    }
                    Err(reason) => {
                        let epoch = epoch + 1;
                        say(&format!("the saved state of epoch {epoch} can't be read and is left out: {reason}"));
                    }
                }
            }
            let kept = match epoch.checked_sub(1) {
                Some(previous) => store.outputs(&job.actions[previous].key)?.unwrap_or_default(),
                None => Vec::new(),
            };
            if let Some(kept) = kept.iter().find(|output| output.role == "state")
                && let Ok(path) = store.file(&kept.digest)
            {
                let reason = |reason| StageError::Unreadable { what: format!("state of epoch {epoch}"), reason };
                return State::load(&path, home, self.rank.clone()).map(Some).map_err(reason);
            }
        }
        Ok(None)
    }

    /// Its part of an optimizer step of so many samples over all devices, while that of the step after it is drawn. A step that fails
    /// leaves the state as it was, on all devices.
    ///
    /// # Errors
    /// When a batch can't be made or the training has come apart, here or on another device.
    pub(super) fn step(
        &self,
        state: &mut State,
        hands: &Hands,
        samples: usize,
        step: u64,
        store: &Store,
    ) -> Result<Measured, StageError> {
        let job = self.job;
        let drawn = match self.ahead.take() {
            Some((of, drawn)) if of == step => drawn,
            _ => Sample::draw_all(job, &hands.now, step, store),
        };
        std::thread::scope(|scope| {
            let next = hands.next.as_ref();
            let next = next.map(|next| scope.spawn(move || Sample::draw_all(job, next, step + 1, store)));
            let measured = self.compute(state, drawn, samples, step);
            *self.ahead.borrow_mut() = next.and_then(|next| Some((step + 1, next.join().ok()?)));
            measured
        })
    }

    fn compute(
        &self,
        state: &mut State,
        drawn: Samples<'_>,
        samples: usize,
        step: u64,
    ) -> Result<Measured, StageError> {
        let (parameters, rate) = (&self.job.parameters, self.job.learning_rate(step));
        let batches: Result<Vec<Batch>, StageError> =
            drawn.and_then(|batches| batches.into_iter().map(|drawn| Batch::of(drawn, step, self)).collect());
        // Before the devices wait for each other in the middle of a step, all of them know that all go there.
        let [failed] = self.rank.total([if batches.is_err() { 1.0 } else { 0.0 }])?;
        let batches = batches?;
        if failed > 0.0 {
            return Err(StageError::LostDevice);
        }
        let mut batches = batches.into_iter();
        let measured = if parameters.fused_step
            && let Some(batch) = batches.next()
        {
            state.update_by_blocks(batch, samples, parameters, rate, step)?
        } else {
            let batches = batches.map(Ok);
            let gradients = match parameters.checkpointing {
                Checkpointing::None => {
                    let gradients = Gradients::of(&objective::network(state, parameters), batches, samples)?;
                    gradients.of_all_devices(&self.rank)?
                }
                Checkpointing::Blocks => Gradients::by_blocks(state, parameters, batches, samples)?,
            };
            state.update(gradients, parameters, rate, step)?
        };
        if let Some(average) = &parameters.average {
            let follows = |name: &str| parameters.trains(name) && self.rank.owns(name);
            state.follow(average, follows, step, &self.device);
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
