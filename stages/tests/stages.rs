//! The stages from captions and pictures to sampled images, on one small model with weights by formula, against the reference
//! libraries (see `tools/goldens/stages.py`).
//!
//! This is what holds each stage's `REVISION` honest: whoever has to change a number of a stage here changes what equal inputs
//! give, must raise that stage's `REVISION`, and then the number here that names it.
#![cfg(feature = "compute")]

mod golden;

use golden::{Golden, PROBES, distance, sketch, uniform, weight, write_checkpoint};
use sd3pipe_cache::{Digest, Fingerprint, Store};
use sd3pipe_stages::action::Artifact;
use sd3pipe_stages::adapter::parameters::{Layers, Lora, Method};
use sd3pipe_stages::captions::Item;
use sd3pipe_stages::checkpoint::{Component, ComponentSource, Dtype, MmditGeometry, POSITION_TABLE, TensorFile};
use sd3pipe_stages::device::{Device, DeviceKind};
use sd3pipe_stages::export::{
    self, ExportJob,
    job::Provenance,
    parameters::{Epochs, Export},
};
use sd3pipe_stages::facts::{Facts, Located, TokenizerFacts};
use sd3pipe_stages::images::parameters::{Buckets, EncodeImages, Resolution};
use sd3pipe_stages::images::{self, Files, ImagesJob, Latents};
use sd3pipe_stages::job::Job;
use sd3pipe_stages::precision::Precision;
use sd3pipe_stages::sample::{self, SampleJob, parameters::Sample};
use sd3pipe_stages::tensors;
use sd3pipe_stages::text::parameters::EncodeText;
use sd3pipe_stages::text::tokenizer::{ClipTokenizer, T5Tokenizer};
use sd3pipe_stages::text::{self, Encoded, TextJob};
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer};
use sd3pipe_stages::train::parameters::{Checkpointing, EncoderDropout, Train};
use sd3pipe_stages::train::{self, Measured, TrainJob, schedule::Schedule, span::Span};
use sd3pipe_stages::work::{Interrupt, Silent, Work};
use std::collections::BTreeMap;
use std::path::Path;

/// The revisions under which the numbers of the golden were made.
const REVISIONS: [(&str, u32, u32); 5] = [
    ("text", text::REVISION, 1),
    ("images", images::REVISION, 1),
    ("train", train::REVISION, 1),
    ("export", export::REVISION, 1),
    ("sample", sample::REVISION, 2),
];

/// The relative error of a loss, and that by Euclidean length of an encoding.
const TOLERANCE: f64 = 2e-5;
/// The relative error, by Euclidean length, of a tensor's change over four steps of training. The first of them divide gradients
/// by hardly more than their own size, so that small ones with large errors count as much as others.
const OF_UPDATES: f64 = 5e-4;

#[derive(serde::Deserialize)]
struct Settings {
    items: BTreeMap<String, (u32, Vec<String>, u32, u32)>,
    train: Training,
    sample: Sampling,
    t5_tokens: u32,
    t5_tokenizer: String,
}

#[derive(serde::Deserialize)]
struct Training {
    epochs: u32,
    batch: u32,
    accumulate: u32,
    seed: u64,
    learning_rate: f64,
    warmup: u64,
    weight_decay: f64,
    largest_norm: f64,
    shift: f64,
    caption_dropout: f64,
    t5_dropout: f64,
}

#[derive(serde::Deserialize)]
struct Sampling {
    prompt: String,
    negative: String,
    steps: u32,
    seed: u64,
    width: u32,
    height: u32,
    cfg: f64,
}

/// The names and shapes of one network's weights.
fn shapes<'g>(golden: &'g Golden, network: &'g str) -> impl Iterator<Item = (&'g str, &'g [usize])> {
    let named = golden.shapes.iter().filter_map(move |(name, shape)| Some((name.split_once(' ')?, shape)));
    named.filter(move |((of, _), _)| *of == network).map(|((_, name), shape)| (name, shape.as_slice()))
}

/// A model by formula in `folder`, as its user has it: a checkpoint, text encoders beside it, T5's tokenizer.
fn facts(folder: &Path, golden: &Golden, settings: &Settings) -> Facts {
    let file = |name: &str, prefixes: &[(&'static str, &'static str)]| {
        let path = folder.join(name);
        let tensors = prefixes.iter();
        let tensors =
            tensors.flat_map(|(network, prefix)| shapes(golden, network).map(|(name, shape)| (*prefix, name, shape)));
        write_checkpoint(&path, Dtype::F32, tensors);
        path
    };
    let checkpoint = file("sd3.safetensors", &[("mmdit", "model.diffusion_model."), ("vae", "first_stage_model.")]);
    let files = [
        (Component::Mmdit, checkpoint.clone()),
        (Component::VaeEncoder, checkpoint.clone()),
        (Component::VaeDecoder, checkpoint),
        (Component::ClipL, file("clip_l.safetensors", &[("clip_l", "")])),
        (Component::ClipG, file("clip_g.safetensors", &[("clip_g", "")])),
        (Component::T5, file("t5xxl.safetensors", &[("t5xxl", "")])),
    ];
    let components = files.into_iter().map(|(component, path)| {
        let digest = ComponentSource::open(&path, component).unwrap().component_digest().unwrap();
        let files = vec![(path.clone(), Fingerprint::of(&path.metadata().unwrap()))];
        (component, Located { path, digest, files })
    });
    let tokenizer = folder.join("t5.json");
    std::fs::write(&tokenizer, &settings.t5_tokenizer).unwrap();
    let identity = Digest::of(&T5Tokenizer::open(&tokenizer).unwrap().identity());
    Facts {
        components: components.collect(),
        adapters: BTreeMap::new(),
        pictures: BTreeMap::new(),
        geometry: MmditGeometry::of(|name| golden.shapes.get(&format!("mmdit {name}")).cloned()).unwrap(),
        clips: [(Component::ClipL, "clip_l"), (Component::ClipG, "clip_g")]
            .map(|(clip, name)| {
                (clip, shapes(golden, name).map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect())
            })
            .into(),
        clip_tokenizer: TokenizerFacts {
            path: None,
            identity: Digest::of(&ClipTokenizer::built_in_identity()),
            files: vec![],
        },
        t5_tokenizer: Some(TokenizerFacts { path: Some(tokenizer), identity, files: vec![] }),
        device: DeviceKind::Cpu,
    }
}

/// The pictures by formula, and the items that captions would make of them.
fn items(folder: &Path, settings: &Settings) -> (Vec<Item>, BTreeMap<String, Files>) {
    let made = settings.items.iter().map(|(id, (repeats, texts, width, height))| {
        let bytes = uniform(&format!("picture {id}"), (width * height * 3) as usize);
        let bytes = bytes.into_iter().map(|value| ((value + 1.0) * 128.0) as u8).collect();
        let path = folder.join(id);
        image::RgbImage::from_raw(*width, *height, bytes).unwrap().save(&path).unwrap();
        let digest = Digest::of(&std::fs::read(&path).unwrap()).to_string();
        let (id, texts) = (id.clone(), texts.clone());
        let (image, (width, height), repeats) = (digest, (*width, *height), *repeats);
        let files = Files { image: path, mask: None };
        (Item { id: id.clone(), image, width, height, repeats, texts, ..Item::default() }, (id, files))
    });
    made.unzip()
}

/// Carries out a whole job.
fn run(job: &Job, work: &mut Work<'_>) -> Artifact {
    let all: Vec<usize> = (0..job.actions().len()).collect();
    job.run(&all, work).unwrap();
    work.flush().unwrap();
    let outputs = job.actions().iter().map(|action| work.store.outputs(&action.key).unwrap().unwrap());
    job.artifact(&outputs.collect::<Vec<_>>())
}

fn relative(name: &str, found: &[f32], expected: &[f64]) -> f64 {
    let expected: &[f64; PROBES + 1] = expected.try_into().unwrap();
    distance(&sketch(name, found), expected) / expected[PROBES]
}

#[test]
fn every_stage_gives_what_the_reference_gives_under_its_revision() {
    for (stage, revision, pinned) in REVISIONS {
        assert_eq!(revision, pinned, "{stage}: when its results have changed, change the golden, then this number");
    }
    let golden = Golden::open("stages");
    let settings: Settings = serde_json::from_str(&golden.file.metadata()["config"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let (progress, interrupt) = (Silent, Interrupt::new());
    let mut work = Work::new(&store, &progress, &interrupt, vec![Device::Cpu]);
    let Data { facts, items, texts, latents } = encoded(folder.path(), &golden, &settings, &mut work);
    check_texts(&golden, &texts, &store);
    check_latents(&golden, &latents, &store);

    let parameters = training(&settings.train);
    let job = TrainJob::new(&parameters, &facts, &items, &texts, &latents, settings.t5_tokens).unwrap();
    let trained = run(&Job::Train(job), &mut work);
    check_losses(&golden, &trained, &store);

    let provenance = Provenance { pipeline: "golden".to_owned(), data: Digest::of(b""), resolution: (64, 64) };
    let exported = |precision| {
        let parameters = Export { epochs: Epochs::Last, precision, ..Export::default() };
        ExportJob::new(&parameters, &facts, provenance.clone(), None, &trained, None).unwrap()
    };
    let export = run(&Job::Export(exported(Precision::F32)), &mut work);
    let half = run(&Job::Export(exported(Precision::F16)), &mut work);
    check_checkpoints(&golden, &export, &half, &store);

    let drawing = &settings.sample;
    let parameters = Sample {
        prompts: vec![drawing.prompt.clone()],
        negative: drawing.negative.clone(),
        cfg: drawing.cfg,
        steps: drawing.steps,
        seeds: vec![drawing.seed],
        size: (drawing.width, drawing.height),
        t5_tokens: settings.t5_tokens,
        precision: Precision::F32,
        ..Sample::default()
    };
    let images = run(&Job::Sample(SampleJob::new(&parameters, &facts, None, &export).unwrap()), &mut work);
    check_images(&golden, &images, &store);
    assert!(work.changed.is_empty());
}

/// What a training reads.
struct Data {
    facts: Facts,
    items: Vec<Item>,
    texts: Artifact,
    latents: Artifact,
}

fn encoded(folder: &Path, golden: &Golden, settings: &Settings, work: &mut Work<'_>) -> Data {
    let facts = facts(folder, golden, settings);
    let (items, paths) = items(folder, settings);
    let parameters = EncodeText { t5_tokens: settings.t5_tokens, precision: Precision::F32, ..EncodeText::default() };
    let texts = items.iter().flat_map(|item| item.texts.iter().map(|text| (text.as_str(), text.as_str())));
    let texts = run(&Job::Text(TextJob::new(&parameters, &facts, texts).unwrap()), work);

    let buckets = Some(Buckets { step: 16, upscale: false, ..Buckets::default() });
    let resolution = Resolution { width: 64, height: 64 };
    let parameters = EncodeImages { resolution, buckets, ..EncodeImages::default() };
    let latents = run(&Job::Images(ImagesJob::new(&parameters, &facts, &items, |id| paths[id].clone()).unwrap()), work);
    Data { facts, items, texts, latents }
}

/// An adapter that does nothing yet leaves a CLIP what it was: what it makes of captions, and of the empty prompt in their place, and
/// where zeros take its own place, is what the store has of it.
#[test]
fn clips_with_an_adapter_begin_where_their_cached_encodings_are() {
    let golden = Golden::open("stages");
    let settings: Settings = serde_json::from_str(&golden.file.metadata()["config"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let (progress, interrupt) = (Silent, Interrupt::new());
    let mut work = Work::new(&store, &progress, &interrupt, vec![Device::Cpu]);
    let Data { facts, items, texts, latents } = encoded(folder.path(), &golden, &settings, &mut work);
    let mut losses = |targets: &[Layers], checkpointing, learning_rate| {
        let lora = Lora { rank: 2, targets: targets.iter().copied().collect(), ..Lora::default() };
        let parameters = Train {
            method: Method::LoRA(lora),
            checkpointing,
            learning_rate,
            encoder_dropout: EncoderDropout { clip_l: 0.3, clip_g: 0.3, t5: 0.3 },
            ..training(&settings.train)
        };
        let job = TrainJob::new(&parameters, &facts, &items, &texts, &latents, settings.t5_tokens).unwrap();
        let trained = run(&Job::Train(job), &mut work);
        let epochs = trained.of("losses").map(|entry| store.read(&entry.digest).unwrap());
        let measured = epochs.flat_map(|epoch| serde_json::from_slice::<Vec<Measured>>(&epoch).unwrap());
        measured.map(|measured| measured.loss).collect::<Vec<_>>()
    };
    let clips = [Layers::ClipLAttention, Layers::ClipLFeedForward, Layers::ClipGAttention];
    let apart = |left: &[f64], right: &[f64]| {
        left.iter().zip(right).map(|(left, right)| (left / right - 1.0).abs()).fold(0.0, f64::max)
    };
    let cached = losses(&[Layers::ImageQuery], Checkpointing::None, 0.0);
    for checkpointing in [Checkpointing::None, Checkpointing::Blocks] {
        let error = apart(&losses(&clips, checkpointing, 0.0), &cached);
        assert!(error <= 1e-6, "{checkpointing:?}: off by {error:e}");
    }
    let learnt = losses(&clips, Checkpointing::None, 1e-2);
    assert!(apart(&learnt[..1], &cached[..1]) <= 1e-6 && apart(&learnt, &cached) > 1e-4, "{learnt:?} {cached:?}");
}

fn training(settings: &Training) -> Train {
    Train {
        epochs: settings.epochs,
        batch: settings.batch,
        accumulate: settings.accumulate,
        precision: Precision::F32,
        seed: settings.seed,
        learning_rate: settings.learning_rate,
        schedule: Schedule::Cosine { warmup: Span::Steps(settings.warmup), minimum_ratio: 0.0 },
        optimizer: Optimizer::AdamW(AdamW { weight_decay: settings.weight_decay, ..AdamW::default() }),
        max_gradient_norm: settings.largest_norm,
        shift: settings.shift,
        caption_dropout: settings.caption_dropout,
        encoder_dropout: EncoderDropout { t5: settings.t5_dropout, ..EncoderDropout::default() },
        ..Train::default()
    }
}

fn check_texts(golden: &Golden, texts: &Artifact, store: &Store) {
    assert_eq!(texts.of("text").count(), 3);
    for entry in texts.of("text") {
        let encoded = Encoded::read(store, &entry.digest).unwrap();
        let ([l_states, l_pooled], [g_states, g_pooled]) = (encoded.clip_l.unwrap(), encoded.clip_g.unwrap());
        let arrays = [
            ("clip_l.states", l_states),
            ("clip_l.pooled", l_pooled),
            ("clip_g.states", g_states),
            ("clip_g.pooled", g_pooled),
            ("t5.states", encoded.t5.unwrap()),
        ];
        for (name, array) in arrays {
            let error = relative(name, &array.values, &golden.doubles(&format!("text {} {name}", entry.item)));
            println!("{:?} {name}: {error:.1e}", entry.item);
            assert!(error <= TOLERANCE, "{name} of {:?} is off by {error:e}", entry.item);
        }
    }
}

fn check_latents(golden: &Golden, latents: &Artifact, store: &Store) {
    assert_eq!(latents.of("latents").count(), 3);
    for entry in latents.of("latents") {
        let Latents { mean, log_variance } = Latents::read(store, &entry.digest).unwrap();
        for (name, array) in [("mean", mean), ("log_variance", log_variance)] {
            let error = relative(name, &array.values, &golden.doubles(&format!("latents {} {name}", entry.item)));
            println!("{} {name}: {error:.1e}", entry.item);
            assert!(error <= TOLERANCE, "{name} of {} is off by {error:e}", entry.item);
        }
    }
}

fn check_losses(golden: &Golden, trained: &Artifact, store: &Store) {
    let epochs = trained.of("losses").map(|entry| store.read(&entry.digest).unwrap());
    let found: Vec<Measured> = epochs.flat_map(|epoch| serde_json::from_slice::<Vec<_>>(&epoch).unwrap()).collect();
    let expected = golden.doubles("losses");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        println!("step {}: {:.1e}", found.step, found.loss / expected - 1.0);
        assert!(
            (found.loss / expected - 1.0).abs() <= TOLERANCE,
            "the loss of step {} is {} and not {expected}",
            found.step,
            found.loss
        );
    }
}

/// The full-precision one against the reference, the half-precision one against it.
fn check_checkpoints(golden: &Golden, full: &Artifact, half: &Artifact, store: &Store) {
    let open = |export: &Artifact| {
        TensorFile::open(store.file(&export.of("checkpoint").next().unwrap().digest).unwrap()).unwrap()
    };
    let (full, half) = (open(full), open(half));
    let read = |file: &TensorFile, name: &str| {
        tensors::decode(file.info(name).unwrap().dtype, file.bytes(name).unwrap()).unwrap()
    };
    let updates = golden.doubles("updates");
    let mut updates = updates.as_chunks::<{ PROBES + 1 }>().0.iter();
    for (network, prefix) in [("mmdit", "model.diffusion_model."), ("vae", "first_stage_model.")] {
        for (name, shape) in shapes(golden, network) {
            let (in_file, start) = (format!("{prefix}{name}"), weight(name, shape));
            let found = read(&full, &in_file);
            assert_eq!(full.info(&in_file).unwrap().shape, shape);
            if network == "vae" || name == POSITION_TABLE {
                assert_eq!(found, start, "{in_file} is not trained");
            } else {
                let update: Vec<f32> = found.iter().zip(&start).map(|(found, start)| found - start).collect();
                let error = relative(name, &update, updates.next().unwrap());
                println!("{name}: {error:.1e}");
                assert!(error <= OF_UPDATES, "the update of {name} is off by {error:e}");
            }
            let rounded: Vec<f32> = found.into_iter().map(|value| half::f16::from_f32(value).to_f32()).collect();
            assert_eq!(read(&half, &in_file), rounded, "{in_file}");
        }
    }
    assert!(updates.next().is_none());
    let count = shapes(golden, "mmdit").count() + shapes(golden, "vae").count();
    assert_eq!((full.names().count(), half.names().count()), (count, count));
}

fn check_images(golden: &Golden, images: &Artifact, store: &Store) {
    let found: Vec<_> = images.of("image").collect();
    assert_eq!(found.len(), 2);
    for (entry, row) in found.iter().zip(["base", "epoch 2"]) {
        let pixels = image::load_from_memory(&store.read(&entry.digest).unwrap()).unwrap().to_rgb8();
        let expected = golden.file.bytes(&format!("image {row}")).unwrap();
        assert_eq!(pixels.len(), expected.len());
        let differ = pixels.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        println!("{row}: {differ} of {} bytes differ", pixels.len());
        assert!(pixels.iter().zip(expected).all(|(found, expected)| found.abs_diff(*expected) <= 1), "{row}");
        assert!(differ * 100 <= pixels.len(), "{row}: {differ} bytes differ");
    }
}
