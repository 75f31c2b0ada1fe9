//! Training as a chain of keyed epochs.

use crate::{
    action::{Action, Artifact, Entry},
    adapter::{Place, network_of, parameters::Method, places},
    captions::Item,
    checkpoint::Component,
    error::StageError,
    facts::Facts,
    images::{FLIPPED, FLIPPED_MASK, LATENTS, MASK},
    random::Draws,
    stage::Stage,
    train::{
        ADAPTER, REVISION, held_out, order,
        parameters::Train,
        validation::{Report, Watch},
    },
};
use sd3pipe_cache::{Digest, Output, Preimage, Store};
use std::collections::HashMap;

/// An item as training sees it.
#[derive(Clone, Debug)]
pub struct TrainItem {
    /// Its id, which its noise is drawn by.
    pub id: String,
    /// The digest of its file's bytes, by which it is held out or not.
    pub image: String,
    /// Times that it's seen in an epoch.
    pub repeats: u32,
    /// The encodings of its caption's variants.
    pub texts: Vec<Digest>,
    /// The variants themselves, for CLIPs that have an adapter.
    pub captions: Vec<String>,
    /// Its latents.
    pub latents: Digest,
    /// Which cells of these are learnt, if not all are.
    pub mask: Option<Digest>,
    /// Its latents mirrored left to right with their mask, if it is trained so too.
    pub flipped: Option<(Digest, Option<Digest>)>,
    /// Width and height of its bucket in pixels.
    pub bucket: (u32, u32),
    /// Whether another item of this id, in another bucket, comes before it: an image that is trained at several resolutions.
    pub further: bool,
    /// What it counts in the loss.
    pub weight: f64,
    /// Whether it is there to keep what the model knew: it is neither held out nor measured.
    pub regularisation: bool,
}

/// What the images' stage made of an item at one place.
struct View<'a> {
    latents: &'a Entry,
    mask: Option<Digest>,
    flipped: Option<Digest>,
    flipped_mask: Option<Digest>,
}

/// The views of every item: what belongs to latents comes right behind them.
fn views(latents: &Artifact) -> HashMap<&str, Vec<View<'_>>> {
    let mut views: HashMap<&str, Vec<View<'_>>> = HashMap::new();
    for entry in &latents.entries {
        let of_item = views.entry(&entry.item).or_default();
        if entry.role == LATENTS {
            of_item.push(View { latents: entry, mask: None, flipped: None, flipped_mask: None });
        } else if let Some(view) = of_item.last_mut() {
            match entry.role.as_str() {
                MASK => view.mask = Some(entry.digest),
                FLIPPED => view.flipped = Some(entry.digest),
                FLIPPED_MASK => view.flipped_mask = Some(entry.digest),
                _ => {}
            }
        }
    }
    views
}

/// What is trained on and what is held out.
fn split(parameters: &Train, items: Vec<TrainItem>) -> Result<(Vec<TrainItem>, Vec<TrainItem>), StageError> {
    let Some(validation) = &parameters.validation else { return Ok((items, Vec::new())) };
    let count = items.len();
    let (trained, held_out) = validation.split(items);
    let (happens, change) = match (trained.is_empty(), held_out.is_empty()) {
        (true, _) => ("all are held out and none is left to train on", "lower"),
        (_, true) => ("none is held out", "raise"),
        _ => return Ok((trained, held_out)),
    };
    Err(StageError::Unfit(format!(
        "`validation`: of {count} images {happens}; each is decided on alone, by its bytes: {change} `share` (now {})",
        validation.share
    )))
}

/// The digest of what an epoch reads of its data.
fn items_digest(items: &[TrainItem], reads_captions: bool) -> Digest {
    let mut bytes = Vec::new();
    let mut field = |part: &[u8]| {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    };
    for item in items {
        field(item.id.as_bytes());
        field(&item.repeats.to_le_bytes());
        field(&[item.bucket.0.to_le_bytes(), item.bucket.1.to_le_bytes()].concat());
        field(item.latents.as_bytes());
        field(&item.texts.iter().flat_map(|text| *text.as_bytes()).collect::<Vec<u8>>());
        item.captions.iter().filter(|_| reads_captions).for_each(|caption| field(caption.as_bytes()));
    }
    Digest::of(&bytes)
}

/// The digest of what a validation reads of some items: what a noise is drawn by, the latents, their mask and the first caption.
fn measured_digest(items: &[TrainItem], reads_captions: bool) -> Digest {
    let line = |item: &TrainItem| {
        let text = item.texts.first().map(Digest::to_string).unwrap_or_default();
        let caption = item.captions.first().filter(|_| reads_captions);
        let caption = caption.map(|caption| format!(" {}", Digest::of(caption.as_bytes()))).unwrap_or_default();
        let mask = item.mask.map(|mask| mask.to_string()).unwrap_or_default();
        format!("{} {} {mask} {text}{caption}\n", item.image, item.latents)
    };
    Digest::of(items.iter().map(line).collect::<String>().as_bytes())
}

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
        let (items, more) = (items_digest(&self.items, !self.clips().is_empty()), self.more_of_items());
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

    /// What some items have and most have not; nothing if none has, so that older trainings are still found.
    fn more_of_items(&self) -> Option<Digest> {
        let mut bytes = Vec::new();
        for (index, item) in self.items.iter().enumerate() {
            let TrainItem { mask, flipped, further, weight, .. } = item;
            if mask.is_none() && flipped.is_none() && !further && *weight == 1.0 {
                continue;
            }
            bytes.extend((index as u64).to_le_bytes());
            bytes.extend(weight.to_bits().to_le_bytes());
            bytes.push(u8::from(*further));
            let (latents, flipped_mask) = flipped.unzip();
            for digest in [*mask, latents, flipped_mask.flatten()] {
                bytes.push(u8::from(digest.is_some()));
                bytes.extend(digest.iter().flat_map(|digest| *digest.as_bytes()));
            }
        }
        (!bytes.is_empty()).then(|| Digest::of(&bytes))
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
pub(crate) mod tests {
    use super::*;
    use crate::{
        captions::items::Mask,
        checkpoint::{Component, ComponentSource, MmditGeometry},
        device::DeviceKind,
        facts::{Located, TokenizerFacts},
    };

    pub(crate) fn facts() -> Facts {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/model/sd3_tiny.safetensors");
        let source = ComponentSource::open(path, Component::Mmdit).unwrap();
        let located = Located { path: path.into(), digest: Digest::of(b"mmdit"), files: Vec::new() };
        Facts {
            components: [(Component::Mmdit, located)].into(),
            adapters: [].into(),
            geometry: MmditGeometry::of(|name| source.shape(name).map(<[usize]>::to_vec)).unwrap(),
            clips: [].into(),
            clip_tokenizer: TokenizerFacts { path: None, identity: Digest::of(b"tokenizer"), files: Vec::new() },
            t5_tokenizer: None,
            device: DeviceKind::Cpu,
        }
    }

    /// Five turns of two items.
    pub(in crate::train) fn job(parameters: &Train) -> TrainJob {
        job_of(parameters, [3, 2])
    }

    /// A training of two items that are repeated so often.
    pub(in crate::train) fn job_of(parameters: &Train, repeats: [u32; 2]) -> TrainJob {
        let entry = |role: &str, item: &str, size| Entry {
            role: role.to_owned(),
            item: item.to_owned(),
            digest: Digest::of(item.as_bytes()),
            length: 1,
            content: None,
            size,
        };
        let item = |id: &str, repeats, text: &str| Item {
            id: id.to_owned(),
            image: id.to_owned(),
            width: 64,
            height: 64,
            repeats,
            texts: vec![text.to_owned()],
            ..Item::default()
        };
        let items = [item("a.png", repeats[0], "one"), item("b.png", repeats[1], "two")];
        let text = Artifact { entries: ["", "one", "two"].map(|text| entry("text", text, None)).into() };
        let bucket = Some((64, 64));
        let latents = Artifact { entries: ["a.png", "b.png"].map(|item| entry("latents", item, bucket)).into() };
        TrainJob::new(parameters, &facts(), &items, &text, &latents, 77).unwrap()
    }

    /// What was trained before a field came is still found: a new one is in no key while it is at its default.
    #[test]
    fn keys_are_pinned_for_ever() {
        let keys = |parameters: &str| {
            let job = job(&ron::from_str(parameters).unwrap());
            job.actions.iter().map(|action| action.key.to_string()).collect::<Vec<_>>()
        };
        let two = [
            "88011e5add5595d92a689bdcdf58c4c0b229f4c1a818c20307c08ef4862532b2",
            "0a236569531425835efcc3a09424a55e336a60c96dc2d8fc5202b69bfccd967a",
        ];
        assert_eq!(keys("(epochs: 2)"), two);
        let one = ["d5600f8ffdab940ea88265fd7b5cecfbdcb848297ba02fe57f49d7ac1eac8e79"];
        assert_eq!(keys("(epochs: 1, schedule: Constant(warmup: 3), density: Uniform, batch: 2)"), one);
        let stage = |parameters: &str| {
            let train: Train = ron::from_str(parameters).unwrap();
            Stage::Train(train).parameters().unwrap().to_string()
        };
        let expected = r#"{"accumulate":1,"batch":1,"caption_dropout":0.0,"#.to_owned()
            + r#""density":{"LogitNormal":{"mean":0.0,"standard_deviation":1.0}},"#
            + r#""encoder_dropout":{"clip_g":0.0,"clip_l":0.0,"t5":0.0},"epochs":16,"learning_rate":0.0001,"#
            + r#""max_gradient_norm":1.0,"optimizer":{"AdamW":{"beta1":0.9,"beta2":0.999,"epsilon":1e-8,"weight_decay":0.01}},"#
            + r#""precision":"Bf16","sample_posterior":true,"schedule":{"Cosine":{"warmup":0}},"seed":42,"shift":3.0}"#;
        assert_eq!(stage("()"), expected);
        let warmed_up = expected.replace("\"warmup\":0", "\"warmup\":20");
        assert_eq!(stage("(schedule: Cosine(warmup: 20))"), warmed_up);
        assert_eq!(stage("(schedule: Cosine(warmup: Steps(20)), init: File(\"x\"))"), warmed_up);
    }

    /// By the hashes of its bytes the second of the two items is held out.
    #[test]
    fn validation_and_early_stops_are_in_no_epochs_key() {
        let of = |settings: &str| job(&ron::from_str(settings).unwrap());
        let keys =
            |job: &TrainJob| job.actions.iter().map(|action| (action.label.clone(), action.key)).collect::<Vec<_>>();
        let plain = of("(epochs: 2, schedule: Constant(), validation: Some((share: 0.5)))");
        let ids = |items: &[TrainItem]| items.iter().map(|item| item.id.clone()).collect::<Vec<_>>();
        assert_eq!([ids(&plain.items), ids(&plain.held_out), ids(&plain.seen)], [["a.png"], ["b.png"], ["a.png"]]);
        let other =
            "(epochs: 2, schedule: Constant(), validation: Some((share: 0.5, every: 2, noises: 2)), stop: Some(()))";
        let [plain, other] = [&plain, &of(other)].map(keys);
        assert_eq!(plain[..2], other[..2]);
        assert_eq!((plain.len(), other.len()), (4, 3));
        assert_eq!(plain[3].0, other[2].0);
        assert_ne!(plain[3].1, other[2].1);
    }

    fn entry(role: &str, made_of: &str, size: (u32, u32)) -> Entry {
        let digest = Digest::of(made_of.as_bytes());
        Entry { role: role.to_owned(), item: "a.png".to_owned(), digest, length: 1, content: None, size: Some(size) }
    }

    /// A training of one item that the images' stage made all this of.
    fn job_with(item: Item, parameters: &str, latents: &[Entry]) -> Result<TrainJob, StageError> {
        let text = Artifact { entries: vec![Entry { item: String::new(), ..entry("text", "", (1, 1)) }] };
        let item = Item { id: "a.png".to_owned(), texts: vec![String::new()], ..item };
        let latents = Artifact { entries: latents.to_vec() };
        TrainJob::new(&ron::from_str(parameters).unwrap(), &facts(), &[item], &text, &latents, 77)
    }

    #[test]
    fn weights_masks_flips_and_sizes_move_the_key_and_only_when_there_are_any() {
        let (small, large) = ((64, 64), (96, 96));
        let plain = [entry("latents", "1", small)];
        let key = |job: Result<TrainJob, StageError>| job.unwrap().actions[0].key.to_string();
        let of = |item: Item, latents: &[Entry]| key(job_with(item, "(epochs: 1)", latents));
        let masked = |digest: &str| Item { mask: Some(Mask::File(digest.to_owned())), ..Item::default() };
        let flip = || Item { flip: true, ..Item::default() };
        let regularisation = || Item { regularisation: true, ..Item::default() };
        let base = of(Item::default(), &plain);
        let both = [entry("latents", "1", small), entry("flipped", "2", small)];
        let keys = [
            base.clone(),
            of(Item { weight: 0.5, ..Item::default() }, &plain),
            of(masked("3"), &[entry("latents", "1", small), entry("mask", "3", small)]),
            of(masked("4"), &[entry("latents", "1", small), entry("mask", "4", small)]),
            of(flip(), &both),
            of(flip(), &[entry("latents", "1", small), entry("flipped", "3", small)]),
            of(Item::default(), &[entry("latents", "1", small), entry("latents", "2", large)]),
            key(job_with(regularisation(), "(epochs: 1, prior_loss_weight: 0.25)", &plain)),
        ];
        let mut distinct = keys.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), keys.len());
        // A regularisation image of full weight is an image like others; a weight of what is not there moves nothing.
        assert_eq!(of(regularisation(), &plain), base);
        assert_eq!(key(job_with(Item::default(), "(epochs: 1, prior_loss_weight: 0.25)", &plain)), base);
        let half = Item { weight: 0.5, ..regularisation() };
        assert_eq!(job_with(half, "(prior_loss_weight: 0.25)", &plain).unwrap().items[0].weight, 0.125);
        // What was made for other captions is not trained on.
        assert!(job_with(flip(), "()", &plain).is_err());
        assert!(job_with(Item::default(), "()", &both).is_err());
        assert!(job_with(masked("3"), "()", &plain).is_err());
    }

    #[test]
    fn an_image_is_seen_at_each_of_its_sizes_with_noise_of_its_own() {
        let latents = [
            entry("latents", "1", (64, 64)),
            entry("flipped", "2", (64, 64)),
            entry("latents", "3", (96, 96)),
            entry("flipped", "4", (96, 96)),
        ];
        let item = Item { flip: true, repeats: 2, ..Item::default() };
        let job = job_with(item, "(batch: 2)", &latents).unwrap();
        assert_eq!(job.steps_per_epoch(), 2);
        let seen: Vec<_> = job.items.iter().map(|item| (item.latents, item.flipped.unwrap().0, item.bucket)).collect();
        let digest = |name: &str| Digest::of(name.as_bytes());
        assert_eq!(seen, [(digest("1"), digest("2"), (64, 64)), (digest("3"), digest("4"), (96, 96))]);
        let name = |item| job.name(&order::Turn { item, repeat: 1 });
        assert_eq!([name(0), name(1)], ["a.png#1", "a.png#1@96x96"]);
    }
}
