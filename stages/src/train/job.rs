//! Training as a chain of keyed epochs.

use crate::{
    action::{Action, Artifact},
    adapter::{Place, network_of, parameters::Method, places},
    captions::Item,
    checkpoint::Component,
    error::StageError,
    facts::Facts,
    random::Draws,
    stage::Stage,
    train::{
        ADAPTER, REVISION, held_out,
        items::{self, TrainItem, items_digest, measured_digest, split, views},
        order,
        parameters::Train,
        validation::{Report, Watch},
    },
};
use sd3pipe_cache::{Digest, Output, Preimage, Store};
use std::collections::HashMap;

/// A training with its epochs.
#[derive(Clone, Debug)]
pub struct TrainJob {
    /// How to train.
    pub parameters: Train,
    /// The model.
    pub facts: Facts,
    /// The data that is trained on, sorted by id.
    pub items: Vec<TrainItem>,
    /// The data that is held out.
    pub held_out: Vec<TrainItem>,
    /// As much of what is trained on, which a validation measures too.
    pub seen: Vec<TrainItem>,
    /// The epochs, from 0, after which there is a validation.
    pub validated: Vec<usize>,
    /// The encoding of the empty prompt.
    pub empty: Digest,
    /// Where the adapter sits, if one is trained.
    pub adapter: Vec<Place>,
    /// Rows of T5's output in the texts.
    pub t5_tokens: u32,
    /// One for each epoch, each reading the one before it; after these one for each validation, reading its epoch.
    pub actions: Vec<Action>,
}

impl TrainJob {
    /// The training of `parameters` on the items that the captions, the texts and the latents make up together.
    ///
    /// # Errors
    /// When an item lacks its text or its latents: the artifacts are of different captions.
    pub fn new(
        parameters: &Train,
        facts: &Facts,
        items: &[Item],
        text: &Artifact,
        latents: &Artifact,
        t5_tokens: u32,
    ) -> Result<Self, StageError> {
        let texts: HashMap<&str, Digest> = text.of("text").map(|entry| (entry.item.as_str(), entry.digest)).collect();
        let views = views(latents);
        let lacking =
            |what: &str| StageError::Unfit(format!("{what}: captions, texts and latents are of different data"));
        let mut trained = Vec::with_capacity(items.len());
        for item in items {
            let texts = item.texts.iter().map(|text| texts.get(text.as_str()).copied()).collect::<Option<Vec<_>>>();
            let texts = texts.ok_or_else(|| lacking(&item.id))?;
            let views = views.get(item.id.as_str()).ok_or_else(|| lacking(&item.id))?;
            for (index, view) in views.iter().enumerate() {
                if view.mask.is_some() != item.mask.is_some() || view.flipped.is_some() != item.flip {
                    return Err(lacking(&item.id));
                }
                trained.push(TrainItem {
                    id: item.id.clone(),
                    image: item.image.clone(),
                    repeats: item.repeats,
                    texts: texts.clone(),
                    captions: item.texts.clone(),
                    latents: view.latents.digest,
                    mask: view.mask,
                    flipped: view.flipped.map(|latents| (latents, view.flipped_mask)),
                    bucket: view.latents.size.ok_or_else(|| lacking(&item.id))?,
                    further: index > 0,
                    regularisation: item.regularisation,
                    weight: item.weight * if item.regularisation { parameters.prior_loss_weight } else { 1.0 },
                });
            }
        }
        let items = trained;
        let empty = texts.get("").copied().ok_or_else(|| lacking("the empty prompt"))?;
        let adapter = match &parameters.method {
            Method::Full => Vec::new(),
            Method::LoRA(lora) => places(lora, &facts.geometry, &facts.clips)?,
        };
        let (items, held_out) = split(parameters, items)?;
        let validated =
            parameters.validation.iter().flat_map(|validation| validation.epochs(parameters.epochs as usize));
        let mut job = Self {
            seen: held_out::seen(&items, held_out.len()),
            validated: validated.collect(),
            parameters: parameters.clone(),
            facts: facts.clone(),
            items,
            held_out,
            empty,
            adapter,
            t5_tokens,
            actions: Vec::new(),
        };
        job.actions = job.chain()?;
        job.actions.extend(job.validations()?);
        Ok(job)
    }

    /// The key of an epoch is the key of the one before it and what it reads beyond that. So more epochs under a constant
    /// schedule leave the first ones as they are, and another learning rate at step 1,000 leaves those before it.
    fn chain(&self) -> Result<Vec<Action>, StageError> {
        let mut parameters = Stage::Train(self.parameters.clone()).parameters().unwrap_or_default();
        if let Some(fields) = parameters.as_object_mut() {
            // The first act only through the rates and the items' weights. Validation changes no weight, and so none of these keys; an early stop leaves out the last of them.
            for of_the_whole in ["epochs", "learning_rate", "schedule", "prior_loss_weight", "validation", "stop"] {
                fields.remove(of_the_whole);
            }
        }
        let (items, more) = (items_digest(&self.items, !self.clips().is_empty()), items::more_digest(&self.items));
        let mut actions: Vec<Action> = Vec::new();
        for epoch in 0..self.parameters.epochs {
            let mut preimage = Preimage::new("train epoch", REVISION);
            match actions.last() {
                Some(previous) => preimage.read("previous", &previous.key.to_string())?,
                None => {
                    preimage.read("model", &self.facts.start(&self.parameters.method))?;
                    preimage.read("parameters", &parameters)?;
                    preimage.read("device", &self.facts.device)?;
                    preimage.read("t5_tokens", &self.t5_tokens)?;
                    preimage.read("empty_prompt", &self.empty)?;
                }
            }
            // The order is a function of these, the seed and the epoch, so they stand for the epoch's items in order.
            preimage.read("epoch", &epoch)?;
            preimage.read("items", &items)?;
            if let Some(more) = &more {
                preimage.read("more_of_items", more)?;
            }
            preimage.read("learning_rates", &self.learning_rates_digest(epoch))?;
            actions.push(Action::new(format!("epoch {}", epoch + 1), preimage));
        }
        Ok(actions)
    }

    /// A validation reads the epoch's weights, and what is measured.
    fn validations(&self) -> Result<Vec<Action>, StageError> {
        let Some(validation) = &self.parameters.validation else { return Ok(Vec::new()) };
        let [held_out, seen] =
            [&self.held_out, &self.seen].map(|items| measured_digest(items, !self.clips().is_empty()));
        let action = |epoch: &usize| {
            let mut preimage = Preimage::new("validation", REVISION);
            preimage.read("epoch", &self.actions[*epoch].key.to_string())?;
            preimage.read("held_out", &held_out)?;
            preimage.read("seen", &seen)?;
            preimage.read("timesteps", &validation.timesteps)?;
            preimage.read("noises", &validation.noises)?;
            Ok(Action::new(format!("validation of epoch {}", epoch + 1), preimage))
        };
        self.validated.iter().map(action).collect()
    }

    /// The role of what an epoch has trained.
    pub fn role(&self) -> &'static str {
        match self.parameters.method {
            Method::Full => "weights",
            Method::LoRA(_) => ADAPTER,
        }
    }

    /// How many epochs there are.
    pub fn epochs(&self) -> usize {
        self.parameters.epochs as usize
    }

    /// The index of the action that validates an epoch, from 0, if one does.
    pub fn validation_of(&self, epoch: usize) -> Option<usize> {
        self.validated.binary_search(&epoch).ok().map(|index| self.epochs() + index)
    }

    /// The epoch, from 0, that an action trains or validates.
    pub fn epoch_of(&self, action: usize) -> usize {
        let validation = action.checked_sub(self.epochs());
        validation.map_or(action, |index| self.validated.get(index).copied().unwrap_or_default())
    }

    /// Completes what is known of what the actions have put out, if the training ends early: of everything after that, nothing, for
    /// good. The keys of epochs know nothing of it, so that with more patience the training goes on from where it ended.
    ///
    /// # Errors
    /// When the store has lost what a validation found.
    pub fn settle(&self, outputs: &mut [Option<Vec<Output>>], store: &Store) -> Result<(), StageError> {
        if self.parameters.stop.is_none() {
            return Ok(());
        }
        let mut watch = Watch::new(self.parameters.stop);
        for &epoch in &self.validated {
            let action = self.validation_of(epoch).unwrap_or_default();
            let Some(Some(found)) = outputs.get(action) else { return Ok(()) };
            if watch.ends(&Report::read(found, store)?) {
                let later = outputs.iter_mut().enumerate().filter(|(action, _)| self.epoch_of(*action) > epoch);
                later.for_each(|(_, outputs)| *outputs = Some(Vec::new()));
                return Ok(());
            }
        }
        Ok(())
    }

    /// The CLIPs that have an adapter, in the order in which SD3 lines them up.
    pub fn clips(&self) -> Vec<Component> {
        let there = |clip: &Component| self.adapter.iter().any(|place| network_of(&place.site.layer).0 == *clip);
        [Component::ClipL, Component::ClipG].into_iter().filter(there).collect()
    }

    fn learning_rates_digest(&self, epoch: u32) -> Digest {
        let first = u64::from(epoch) * self.steps_per_epoch();
        let rates = (first..first + self.steps_per_epoch()).map(|step| self.learning_rate(step).to_bits());
        Digest::of(&rates.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
    }

    fn shape(&self) -> Vec<(u32, (u32, u32))> {
        self.items.iter().map(|item| (item.repeats, item.bucket)).collect()
    }

    /// Optimizer steps in an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        order::batch_count(&self.shape(), self.parameters.batch).div_ceil(self.parameters.accumulate.into())
    }

    /// Optimizer steps in all.
    pub fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.parameters.epochs)
    }

    /// The learning rate of a step, counted from 0 over all epochs.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.parameters.learning_rate * self.parameters.schedule.factor(step, self.total_steps())
    }

    /// Everything random of a sample at a step: a function of (seed, stream, step, item).
    pub(super) fn draws(&self, stream: &str, step: u64, turn: &order::Turn) -> Draws {
        Draws::new(self.parameters.seed, stream, step, &self.name(turn))
    }

    /// What a turn's draws are made by.
    pub(super) fn name(&self, turn: &order::Turn) -> String {
        let TrainItem { id, further, bucket: (width, height), .. } = &self.items[turn.item];
        let place = if *further { format!("@{width}x{height}") } else { String::new() };
        format!("{id}#{}{place}", turn.repeat)
    }

    /// The batches of each optimizer step of an epoch (counted from 0).
    pub fn steps(&self, epoch: u32) -> Vec<Vec<Vec<order::Turn>>> {
        let batches = order::batches(&self.shape(), self.parameters.seed, epoch, self.parameters.batch);
        batches.chunks(self.parameters.accumulate.max(1) as usize).map(<[_]>::to_vec).collect()
    }

    /// What the stage made: every epoch's weights and losses. The optimizer's state is the stage's own.
    pub fn artifact(&self, outputs: &[Vec<Output>]) -> Artifact {
        let mut artifact = Artifact::default();
        outputs.iter().for_each(|outputs| artifact.extend(outputs, &["state"]));
        artifact
    }
}

#[cfg(test)]
pub(crate) mod tests;
