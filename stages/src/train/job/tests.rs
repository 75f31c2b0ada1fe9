//! Keys of trainings.

use super::*;
use crate::{
    action::Entry,
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
        pictures: [].into(),
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
    let keys = |job: &TrainJob| job.actions.iter().map(|action| (action.label.clone(), action.key)).collect::<Vec<_>>();
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
