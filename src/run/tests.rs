//! The runner with an engine that needs no network: what is carried out, kept, found again and told.

mod bundle;
mod grid;
mod shard;
#[cfg(feature = "remote")]
mod shared;

use super::{Engine, Journal, Options, RunError, Runner};
use crate::pipeline::{self, Resolved};
use sd3pipe_cache::{Digest, Store};
use sd3pipe_stages::{
    action::output,
    error::StageError,
    job::Job,
    work::{Interrupt, Silent, Work},
};
use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
};

/// Makes of every action an object that says its key: as good as a network for everything but pictures.
#[derive(Default)]
struct Keys {
    /// An action that fails, by its label.
    broken: RefCell<Option<String>>,
    /// The name that it gives to a contact sheet, if it's not the usual one.
    sheet: Option<&'static str>,
}

impl Engine for Keys {
    fn run(&self, job: &Job, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
        for index in missing {
            work.check_interrupt()?;
            let action = &job.actions()[*index];
            if self.broken.borrow().as_ref() == Some(&action.label) {
                return Err(StageError::Unfit("broken on purpose".to_owned()));
            }
            let (role, item) = match job {
                Job::Text(_) => ("text", String::new()),
                Job::Images(_) => ("latents", String::new()),
                Job::Train(_) => ("weights", (index + 1).to_string()),
                Job::Export(job) => ("checkpoint", job.checkpoints[*index].0.to_string()),
                Job::Sample(job) if *index == job.sheet() => ("sheet", self.sheet.unwrap_or("sheet.png").to_owned()),
                Job::Sample(_) => ("image", String::new()),
            };
            let object = work.store.put(action.key.to_string().as_bytes())?;
            let mut outputs = vec![output(role, item.clone(), object)];
            if let Job::Train(job) = job {
                let losses = serde_json::json!([{"loss": job.parameters.learning_rate}, {"loss": *index as f64}]);
                outputs.push(output("losses", item, work.store.put(losses.to_string().as_bytes())?));
            }
            work.publish(action, outputs, 0.0)?;
        }
        Ok(())
    }
}

struct Space {
    folder: tempfile::TempDir,
    engine: Keys,
    interrupt: Interrupt,
    /// What runs said of the remote store.
    notices: RefCell<Vec<String>>,
}

const PIPELINE: &str = r#"Pipeline(
    name: "keys", device: Cpu,
    model: (checkpoint: "MODEL/sd3_tiny.safetensors", clip_l: "MODEL/clip_l.safetensors"),
    stages: {
        "captions": Captions(data: [(path: "photos")]),
        "text": EncodeText(precision: F32),
        "latents": EncodeImages(resolution: 64),
        "train": Train(epochs: 2, schedule: Constant()),
        "export": Export(),
        "sample": Sample(prompts: ["x"], size: (64, 64)),
    },
)"#;

impl Space {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model");
        fs::create_dir(folder.path().join("photos")).unwrap();
        for (index, name) in ["a", "b", "c"].iter().enumerate() {
            let path = folder.path().join("photos").join(name);
            // Not square, so that buckets matter.
            image::RgbImage::from_pixel(64, 96, image::Rgb([index as u8; 3])).save(path.with_extension("png")).unwrap();
            fs::write(path.with_extension("txt"), format!("{name}, one, two, three")).unwrap();
        }
        fs::write(folder.path().join("p.ron"), PIPELINE.replace("MODEL", model.to_str().unwrap())).unwrap();
        Self { folder, engine: Keys::default(), interrupt: Interrupt::new(), notices: RefCell::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn resolve(&self, settings: &[&str]) -> Resolved {
        resolve(self.folder.path(), settings)
    }

    fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }

    fn run(&self, settings: &[&str], options: Options) -> (Journal, Result<(), RunError>) {
        let (journal, result, notices) = run(self.folder.path(), &self.engine, &self.interrupt, settings, options);
        self.notices.borrow_mut().extend(notices);
        (journal, result)
    }

    /// What a run carries out, as `stage: label` lines.
    fn executed(&self, settings: &[&str]) -> Vec<String> {
        let (journal, result) = self.run(settings, Options::default());
        result.expect("the run ends well");
        lines(&journal)
    }
}

fn resolve(folder: &Path, settings: &[&str]) -> Resolved {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    pipeline::load(&folder.join("p.ron"), &settings).expect("the pipeline is right")
}

/// Runs and keeps the journal, as the command line does. Gives what was said of the remote store too.
fn run(
    folder: &Path,
    engine: &Keys,
    interrupt: &Interrupt,
    settings: &[&str],
    options: Options,
) -> (Journal, Result<(), RunError>, Vec<String>) {
    let (resolved, store) = (resolve(folder, settings), Store::open(&folder.join("store")).unwrap());
    let id = store.begin_run("keys", &serde_json::Value::Null).unwrap();
    let remote = crate::remote::open(&resolved.pipeline.store).unwrap();
    let (remote, progress) = (remote.as_ref(), &Silent);
    let runner = Runner { resolved: &resolved, store: &store, remote, engine, progress, interrupt, options };
    let previous = super::previous_keys(&resolved, Some(&store)).unwrap();
    let (journal, result) = runner.run(previous);
    store.update_run(id, "done", &serde_json::to_value(&journal).unwrap()).unwrap();
    (journal, result, remote.map(crate::remote::Remote::notices).unwrap_or_default())
}

fn lines(journal: &Journal) -> Vec<String> {
    journal
        .stages
        .iter()
        .flat_map(|stage| stage.executed.iter().map(|label| format!("{}: {label}", stage.name)))
        .collect()
}

#[test]
fn a_second_run_carries_out_nothing() {
    let space = Space::new();
    assert_eq!(space.executed(&[]).len(), 4 + 3 + 2 + 2 + 4);
    assert!(space.executed(&[]).is_empty());
}

#[test]
fn only_what_reads_a_changed_parameter_runs() {
    let space = Space::new();
    space.executed(&[]);
    assert!(space.executed(&["train.save_every=7", "text.batch=3", "latents.batch=2"]).is_empty());
    assert!(space.executed(&["sample.cfg=3.0"]).iter().all(|line| line.starts_with("sample")));
    assert_eq!(space.executed(&["train.epochs=3"])[0], "train: epoch 3");
    assert!(space.executed(&[]).is_empty(), "what was undone is a hit");
}

/// Every field of every stage is in its key, or among those that a test shows to change nothing.
#[test]
fn each_parameter_moves_a_key_or_is_known_to_change_nothing() {
    let space = Space::new();
    space.executed(&[]);
    let moving = [
        "captions.prefix=\"x\"",
        "captions.suffix=\"x\"",
        "captions.shuffle=(variants: 3, keep_tokens: 0)",
        "text.t5_tokens=77",
        "text.precision=Bf16",
        "latents.resolution=128",
        "latents.buckets=(step: 16)",
        "latents.precision=Bf16",
        "train.epochs=1",
        "train.batch=2",
        "train.accumulate=2",
        "train.precision=F32",
        "train.seed=1",
        "train.learning_rate=1e-5",
        "train.schedule=Cosine()",
        "train.schedule=Constant(warmup: 1)",
        "train.schedule=Constant(warmup: Share(0.5))",
        "train.schedule=Linear()",
        "train.schedule=Linear(minimum_ratio: 0.1)",
        "train.schedule=Cosine(minimum_ratio: 0.1)",
        "train.schedule=CosineWithRestarts(cycles: 2)",
        "train.schedule=Polynomial(power: 2.0)",
        "train.schedule=InverseSqrt()",
        "train.schedule=InverseSqrt(timescale: 2)",
        "train.schedule=WarmupStableDecay(decay: 3)",
        "train.schedule=WarmupStableDecay(decay: 3, shape: Linear)",
        "train.target=X0",
        "train.loss=L1",
        "train.loss=Huber()",
        "train.loss=Huber(delta: 0.1)",
        "train.loss=Huber(delta: 0.1, schedule: Exponential)",
        "train.loss=SmoothL1(beta: 0.1)",
        "train.weighting=SigmaSqrt",
        "train.weighting=CosMap",
        "train.optimizer=AdamW(beta1: 0.8)",
        "train.optimizer=AdamW(beta2: 0.8)",
        "train.optimizer=AdamW(epsilon: 1e-6)",
        "train.optimizer=AdamW(weight_decay: 0.0)",
        "train.optimizer=AdamW8bit()",
        "train.optimizer=Adafactor()",
        "train.optimizer=Adafactor(epsilon1: 1e-20)",
        "train.optimizer=Adafactor(epsilon2: 1e-2)",
        "train.optimizer=Adafactor(clip_threshold: 2.0)",
        "train.optimizer=Adafactor(decay_rate: -0.9)",
        "train.optimizer=Adafactor(beta1: 0.9)",
        "train.optimizer=Adafactor(weight_decay: 0.1)",
        "train.optimizer=Adafactor(scale_parameter: true)",
        "train.optimizer=Lion()",
        "train.optimizer=Lion(beta1: 0.8)",
        "train.optimizer=Lion(beta2: 0.8)",
        "train.optimizer=Lion(weight_decay: 0.1)",
        "train.optimizer=AdamWScheduleFree()",
        "train.optimizer=AdamWScheduleFree(beta1: 0.8)",
        "train.optimizer=AdamWScheduleFree(beta2: 0.8)",
        "train.optimizer=AdamWScheduleFree(epsilon: 1e-6)",
        "train.optimizer=AdamWScheduleFree(weight_decay: 0.1)",
        "train.optimizer=AdamWScheduleFree(r: 1.0)",
        "train.optimizer=AdamWScheduleFree(weight_lr_power: 1.0)",
        "train.groups=[(match: \"*.bias\", learning_rate: 0.5)]",
        "train.groups=[(match: \"*.bias\", weight_decay: 0.0)]",
        "train.freeze=[\"*.bias\"]",
        "train.decay=Matrices",
        "train.weights=Bf16Stochastic",
        "train.checkpointing=Blocks",
        "train.max_gradient_norm=0.5",
        "train.density=Uniform",
        "train.density=LogitNormal(mean: 0.5)",
        "train.density=LogitNormal(standard_deviation: 0.5)",
        "train.density=Mode()",
        "train.density=Mode(scale: 0.5)",
        "train.density=CosMap",
        "train.shift=1.0",
        "train.min_timestep=1",
        "train.max_timestep=999",
        "train.sample_posterior=false",
        "train.caption_dropout=0.1",
        "train.encoder_dropout.clip_l=0.1",
        "train.encoder_dropout.clip_g=0.1",
        "train.encoder_dropout.t5=0.1",
        "export.epochs=Last",
        "export.precision=F32",
        "sample.prompts=[\"y\"]",
        "sample.negative=\"y\"",
        "sample.cfg=2.0",
        "sample.steps=3",
        "sample.seeds=[7]",
        "sample.size=(64, 128)",
        "sample.base=false",
        "sample.shift=1.0",
        "sample.t5_tokens=77",
        "sample.precision=F32",
    ];
    for setting in moving {
        assert!(!space.executed(&[setting]).is_empty(), "{setting} changed nothing");
    }
    // It needs two samples in a step, which a batch of two was above.
    assert!(!space.executed(&["train.batch=2", "train.stratified=true"]).is_empty());
    // Fewer rows make another sheet: one that no setting above has made.
    space.executed(&["sample.cfg=9.0"]);
    assert_eq!(space.executed(&["sample.cfg=9.0", "sample.epochs=Last"]), ["sample: contact sheet"]);
}

#[test]
fn a_failed_stage_keeps_what_was_finished_and_the_next_run_goes_on() {
    let space = Space::new();
    *space.engine.broken.borrow_mut() = Some("b.png".to_owned());
    let (journal, result) = space.run(&[], Options::default());
    assert!(matches!(result, Err(RunError::Stage { stage, .. }) if stage == "text"));
    assert!(journal.stages.iter().any(|stage| stage.name == "text" && stage.result.is_none()));
    *space.engine.broken.borrow_mut() = None;
    let executed = space.executed(&[]);
    assert_eq!(executed.iter().filter(|line| line.starts_with("text")).count(), 4 - lines(&journal).len());
}

#[test]
fn an_interrupt_ends_the_run_and_is_told() {
    let space = Space::new();
    space.interrupt.ask();
    let (_, result) = space.run(&[], Options::default());
    assert!(matches!(result, Err(RunError::Interrupted)));
}

#[test]
fn a_run_until_a_stage_leaves_the_rest() {
    let space = Space::new();
    let until = space.resolve(&[]).index("latents").into_iter().collect();
    let (journal, result) = space.run(&[], Options { until, ..Options::default() });
    result.unwrap();
    let names: Vec<&str> = journal.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["captions", "latents"]);
}

#[test]
fn a_lost_object_is_made_again_and_nothing_else() {
    let space = Space::new();
    space.executed(&[]);
    let (resolved, store) = (space.resolve(&[]), space.store());
    let journal: Journal = serde_json::from_value(store.last_run("keys").unwrap().unwrap().document).unwrap();
    let text: Digest = journal.stages.iter().find(|stage| stage.name == "text").unwrap().result.unwrap();
    fs::remove_file(store.file(&text).unwrap()).unwrap();
    drop((resolved, store));
    // The list of texts is read again because the training is to be done anew.
    let force = [space.resolve(&[]).index("train").unwrap()].into();
    let (journal, result) = space.run(&[], Options { force, ..Options::default() });
    result.unwrap();
    assert_eq!(lines(&journal), ["train: epoch 1", "train: epoch 2"]);
}

#[test]
fn a_result_that_names_a_file_outside_of_its_folder_is_not_written() {
    for name in ["../../../escaped.png", "/tmp/../escaped.png", "a/../../b.png", ""] {
        let mut space = Space::new();
        space.engine.sheet = Some(name);
        let (_, result) = space.run(&[], Options::default());
        let message = result.unwrap_err().to_string();
        assert!(message.contains(&format!("{name:?}")) && message.contains("--force"), "{message}");
        assert!(!space.path("escaped.png").exists() && !space.path("out/keys/samples").exists());
    }
}
