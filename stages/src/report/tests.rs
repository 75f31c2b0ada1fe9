//! Checkpoints that are good and bad in known ways, from small pictures that are made up.

use super::*;
use crate::{
    action::{Artifact, Entry},
    captions::{Item, Items},
    images::{
        LATENTS,
        parameters::{EncodeImages, Resolution},
    },
    precision::Precision,
    random::Draws,
    sample::SAMPLE_LATENTS,
    tensors::{Array, to_bytes},
    train::validation::{Losses, Measured, Report, VALIDATION},
};
use image::{ImageFormat, Rgb, RgbImage, imageops};
use sd3pipe_cache::{Digest, Store};
use std::{collections::HashMap, io::Cursor};

const SIDE: u32 = 64;
const TRAINED: u64 = 24;

/// A block somewhere on a ground, in colours of its own; in the style that is learnt there are checks all over it.
fn draw(what: u64, style: bool) -> RgbImage {
    let draws: Vec<u32> =
        Draws::new(what, "test", 0, "").normals_f32(12).into_iter().map(|value| (value.abs() * 90.0) as u32).collect();
    let color = |at: usize| [0, 1, 2].map(|channel| 40 + draws[at + channel] % 160);
    let (ground, block, x0, y0) = (color(0), color(3), draws[6] % 40, draws[7] % 40);
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let inside = (x0..x0 + 22).contains(&x) && (y0..y0 + 22).contains(&y);
        let light = if style && (x / 4 + y / 4).is_multiple_of(2) { 45 } else { 0 };
        Rgb(if inside { block } else { ground }.map(|channel| (channel + light) as u8))
    })
}

fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A stand-in for a VAE: means of 2 × 2 pixels.
fn encode(image: &RgbImage) -> Array {
    let side = SIDE / 2;
    let small = imageops::thumbnail(image, side, side);
    let plane =
        |channel: usize| small.pixels().map(move |pixel| f32::from(pixel.0[channel]) / 64.0).collect::<Vec<_>>();
    Array { shape: vec![3, side as usize, side as usize], values: (0..3).flat_map(plane).collect() }
}

/// A store with what was trained on and what was drawn.
struct World {
    _folder: tempfile::TempDir,
    store: Store,
    items: Vec<Item>,
    pictures: HashMap<String, Vec<u8>>,
    latents: Artifact,
    samples: Artifact,
    train: Artifact,
}

impl World {
    /// With five samples of the model as it was, which draws what it is asked for without the style.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let (items, pictures, latents, samples, train) = Default::default();
        let mut world = Self { _folder: folder, store, items, pictures, latents, samples, train };
        for what in 0..TRAINED {
            let (image, id) = (draw(what, true), format!("{what:02}.png"));
            let bytes = png(&image);
            let digest = Digest::of(&bytes).to_string();
            let item = Item { id: id.clone(), image: digest, width: SIDE, height: SIDE, ..Item::default() };
            world.items.push(item);
            let entry = world.latents_of("mean", LATENTS, &id, &image);
            world.latents.entries.push(entry);
            world.pictures.insert(id, bytes);
        }
        world.draw("base", &|prompt| draw(100 + prompt, false));
        world
    }

    fn entry(&self, role: &str, item: &str, bytes: &[u8]) -> Entry {
        let object = self.store.put(bytes).unwrap();
        let (role, item, size) = (role.to_owned(), item.to_owned(), Some((SIDE, SIDE)));
        Entry { role, item, digest: object.digest, length: object.length, content: None, size }
    }

    fn latents_of(&self, tensor: &str, role: &str, item: &str, image: &RgbImage) -> Entry {
        self.entry(role, item, &to_bytes(&[(tensor, &encode(image))], Precision::Bf16, None).unwrap())
    }

    fn draw(&mut self, row: &str, picture: &dyn Fn(u64) -> RgbImage) {
        for prompt in 0..5 {
            let (image, name) = (picture(prompt), format!("{row}-prompt-{}-seed-1.png", prompt + 1));
            let entries =
                [self.entry("image", &name, &png(&image)), self.latents_of("latents", SAMPLE_LATENTS, &name, &image)];
            self.samples.entries.extend(entries);
        }
    }

    fn validation(&mut self, epoch: u32, held_out: f64, seen: f64) {
        let measured = |mean| Measured { items: 3, losses: vec![mean], mean };
        let trained = Losses { held_out: measured(held_out), seen: measured(seen) };
        let report = Report { epoch, timesteps: vec![500], noises: 1, trained, average: None };
        let entry = self.entry(VALIDATION, &epoch.to_string(), &serde_json::to_vec(&report).unwrap());
        self.train.entries.push(entry);
    }

    fn judge(&self) -> (Verdicts, bool) {
        let digest = |artifact: &Artifact| Digest::of(&artifact.to_bytes().unwrap());
        let results = Results {
            samples: digest(&self.samples),
            captions: Digest::of(b""),
            latents: digest(&self.latents),
            train: digest(&self.train),
        };
        let resolution = Resolution { width: SIDE, height: SIDE };
        let images = EncodeImages { resolution, buckets: None, ..EncodeImages::default() };
        let (samples, latents, train) = (self.samples.clone(), self.latents.clone(), self.train.clone());
        let job =
            VerdictsJob::new(&results, samples, Items::from(self.items.clone()), &images, latents, train).unwrap();
        job.judge(&Sources { store: &self.store, picture: &|item| self.pictures.get(&item.id).cloned() })
    }
}

fn finding(verdicts: &Verdicts, concern: Concern) -> Finding {
    verdicts.checkpoints[0].verdicts.iter().find(|verdict| verdict.concern == concern).unwrap().finding
}

fn flagged(verdicts: &Verdicts) -> Vec<Concern> {
    let flagged = verdicts.checkpoints[0].verdicts.iter().filter(|verdict| verdict.finding == Finding::Flagged);
    flagged.map(|verdict| verdict.concern).collect()
}

fn of(picture: &dyn Fn(u64) -> RgbImage) -> Verdicts {
    let mut world = World::new();
    world.draw("epoch-3", picture);
    world.judge().0
}

#[test]
fn a_checkpoint_that_draws_in_the_style_what_it_is_asked_for_is_recommended() {
    let verdicts = of(&|prompt| draw(100 + prompt, true));
    assert!(flagged(&verdicts).is_empty(), "{:#?}", verdicts.checkpoints);
    assert_eq!(verdicts.recommended.as_deref(), Some("epoch 3"));
    assert!(verdicts.notes.is_empty(), "{:?}", verdicts.notes);
    assert!(verdicts.checkpoints[0].pairs.windows(2).all(|pair| pair[0].distance <= pair[1].distance));
    for concern in [Concern::WashedOut, Concern::Blurred, Concern::Copying, Concern::UnderFitted, Concern::OverFitted] {
        assert_eq!(finding(&verdicts, concern), Finding::Clear, "{concern:?}");
    }
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_flagged() {
    let faded = |prompt: u64| {
        let mut image = draw(100 + prompt, true);
        image.pixels_mut().for_each(|pixel| pixel.0 = pixel.0.map(|channel| 255 - (255 - channel) / 5));
        image
    };
    let blurred = |prompt: u64| imageops::blur(&draw(100 + prompt, true), 2.5);
    let cases: [(Concern, &dyn Fn(u64) -> RgbImage); 5] = [
        (Concern::WashedOut, &faded),
        (Concern::Blurred, &blurred),
        (Concern::Copying, &|prompt| draw(prompt, true)),
        (Concern::UnderFitted, &|prompt| draw(100 + prompt, false)),
        (Concern::OverFitted, &|prompt| draw(100 + (prompt + 1) % 5, true)),
    ];
    for (concern, picture) in cases {
        let verdicts = of(picture);
        assert!(flagged(&verdicts).contains(&concern), "{concern:?}: {:#?}", verdicts.checkpoints);
        assert_eq!(verdicts.recommended, None, "{concern:?}");
        assert!(verdicts.reasons[0].contains(concern.name()), "{:?}", verdicts.reasons);
    }
    let copies = of(&|prompt| draw(prompt, true));
    let pair = &copies.checkpoints[0].pairs[0];
    assert!(pair.distance < 0.1 && pair.bits == Some(0) && pair.item.as_str() < "05.png", "{pair:?}");
}

#[test]
fn a_held_out_loss_that_rises_is_over_fitting_and_an_earlier_epoch_is_recommended() {
    let mut world = World::new();
    for epoch in [3, 6] {
        world.draw(&format!("epoch-{epoch}"), &|prompt| draw(100 + prompt, true));
    }
    for (epoch, held_out, seen) in [(3, 0.50, 0.48), (4, 0.49, 0.45), (6, 0.56, 0.2)] {
        world.validation(epoch, held_out, seen);
    }
    let (verdicts, whole) = world.judge();
    assert!(whole);
    let over = |checkpoint: usize| verdicts.checkpoints[checkpoint].verdicts[4].finding;
    assert_eq!((over(0), over(1)), (Finding::Clear, Finding::Flagged));
    assert_eq!(verdicts.recommended.as_deref(), Some("epoch 3"));
}

#[test]
fn what_is_not_there_is_said_and_not_guessed() {
    let mut world = World::new();
    world.samples.entries.clear();
    world.draw("epoch-3", &|prompt| draw(100 + prompt, false));
    world.pictures.clear();
    let (verdicts, whole) = world.judge();
    assert!(!whole, "with the pictures it would be more");
    assert_eq!(verdicts.notes.len(), 2, "{:?}", verdicts.notes);
    for concern in [Concern::WashedOut, Concern::Blurred, Concern::UnderFitted, Concern::OverFitted] {
        assert_eq!(finding(&verdicts, concern), Finding::Unmeasured, "{concern:?}");
    }
    assert_eq!(finding(&verdicts, Concern::Copying), Finding::Clear);
    assert_eq!(verdicts.recommended, None);
}

#[test]
fn the_key_holds_every_result_that_is_read() {
    let key = |changed: usize| {
        let digest = |index: usize| Digest::of(if index == changed { b"other" } else { b"one" });
        let results = Results { samples: digest(0), captions: digest(1), latents: digest(2), train: digest(3) };
        let (samples, latents, train) = Default::default();
        VerdictsJob::new(&results, samples, Items::default(), &EncodeImages::default(), latents, train)
            .unwrap()
            .action
            .key
    };
    let keys: std::collections::HashSet<_> = (0..5).map(key).collect();
    assert_eq!(keys.len(), 5);
}
