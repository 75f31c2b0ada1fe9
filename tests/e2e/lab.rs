//! A place to break runs in: small pipelines in known states, a fault in one run, and what must hold after it.
//!
//! The program that tests run has the feature `faults` of the cache (cache/src/injection.rs): every step towards the disk has a
//! name, and `SD3PIPE_FAULT` has the program killed or failed there.

use crate::space::{Outcome, TestSpace};
use sd3pipe_cache::{Digest, Store};
use sd3pipe_stages::action::Artifact;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Mutex,
};

/// Lock files that stay.
const KEPT_LOCKS: [&str; 4] = ["locks/store", "locks/index", "locks/gate", "locks/making"];

/// Every step towards the disk, each of which [`Scenario::ALL`] comes by. A new step is added here.
pub const STEPS: [&str; 41] = [
    "deliver.copy",
    "deliver.make",
    "deliver.rename",
    "deliver.sweep",
    "deliver.sync",
    "digests.commit",
    "format.create",
    "format.folder",
    "format.rename",
    "format.sync",
    "format.write",
    "index.create",
    "index.folder",
    "index.rename",
    "journal.begin",
    "journal.update",
    "lock.open",
    "lock.remove",
    "lock.sign",
    "object.create",
    "object.folder",
    "object.make",
    "object.remove",
    "object.rename",
    "object.sync",
    "object.write",
    "quarantine.index",
    "quarantine.rename",
    "record.commit",
    "record.forget",
    "state.folder",
    "state.rename",
    "state.sync",
    "store.folder",
    "store.make",
    "sweep.remove",
    "tensors.create",
    "tensors.write",
    "work.folder",
    "work.make",
    "work.remove",
];

/// Two images, two epochs of two steps with the state saved after each step, a checkpoint and a sample of each.
const PIPELINE: &str = r#"Pipeline(
    name: "test",
    model: (
        checkpoint: "MODEL/sd3_tiny.safetensors",
        clip_l: "MODEL/clip_l.safetensors",
        clip_g: "MODEL/clip_g.safetensors",
        t5xxl: "MODEL/t5xxl.safetensors",
        tokenizers: (clip: "MODEL/clip_tokenizer.json", t5: "MODEL/t5_tokenizer.json"),
    ),
    device: Cpu,
    stages: {
        "captions": Captions(data: [(path: "photos")]),
        "text": EncodeText(t5_tokens: 16, precision: F32),
        "latents": EncodeImages(resolution: 64, buckets: (step: 16)),
        "train": Train(epochs: 2, learning_rate: 1e-3, schedule: Constant(), precision: F32, save_every: 1),
        "export": Export(),
        "sample": Sample(prompts: ["a cat"], size: (64, 64), steps: 1, t5_tokens: 16, precision: F32),
    },
)
"#;

/// A state from which a run goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Nothing was made yet.
    Fresh,
    /// All is made, and one caption was edited since.
    Edited,
    /// All is made, and there is to be one more epoch.
    Extended,
    /// All is made; a caption was edited, and a latent that the training reads is damaged.
    Damaged,
    /// All is made, but the index is garbage.
    NoIndex,
    /// All is made, and killed runs left things everywhere; a delivered file is gone.
    Leftovers,
}

impl Scenario {
    pub const ALL: [Scenario; 6] =
        [Self::Fresh, Self::Edited, Self::Extended, Self::Damaged, Self::NoIndex, Self::Leftovers];

    /// How many records a run may replace though they were there: the item's that promises the damaged object, and those of
    /// the stage, of before and after the edit, whose result names it.
    fn replaced(self) -> usize {
        if self == Self::Damaged { 3 } else { 0 }
    }
}

/// States, and what undisturbed runs make of them.
pub struct Lab {
    states: BTreeMap<Scenario, State>,
}

struct State {
    /// What a test begins with.
    space: TestSpace,
    /// What is in `out/` after an undisturbed run.
    expected: BTreeMap<PathBuf, Vec<u8>>,
    /// The steps of that run in their order.
    steps: Vec<String>,
}

/// What a run left that was killed while it copied a result.
pub const LEFT_COPY: &str = "out/test/checkpoints/.sd3pipe-copy-4711";

const PARTS: [&str; 4] = ["photos", "out", ".sd3pipe", "test.ron"];

impl Lab {
    pub fn new(scenarios: &[Scenario]) -> Self {
        let done = TestSpace::empty();
        begin(&done);
        let empty = copy_of(&done);
        done.run().succeeds();
        let states = scenarios.iter().map(|&scenario| {
            let space = copy_of(if scenario == Scenario::Fresh { &empty } else { &done });
            match scenario {
                Scenario::Fresh => {}
                Scenario::Edited => space.write("photos/coffee-cup.txt", "a cup, edited"),
                Scenario::Extended => space.edit("test.ron", "epochs: 2", "epochs: 3"),
                Scenario::Damaged => {
                    space.write("photos/coffee-cup.txt", "a cup, edited");
                    damage(&latents_of(&space, "wall-clock.jpg"));
                }
                Scenario::NoIndex => space.write(".sd3pipe/index.sqlite", "garbage".repeat(1000)),
                Scenario::Leftovers => leave_behind(&space),
            }
            let trial = copy_of(&space);
            let log = trial.path("steps");
            let outcome = trial.command(&["run", "test.ron"]).env("SD3PIPE_FAULT_LOG", &log).output().expect("it runs");
            Outcome::of(outcome).succeeds();
            let steps = String::from_utf8(trial.read("steps")).expect("a text").lines().map(str::to_owned).collect();
            (scenario, State { space, expected: trial.files("out"), steps })
        });
        Self { states: states.collect() }
    }

    /// The steps of an undisturbed run in their order.
    pub fn steps(&self, scenario: Scenario) -> &[String] {
        &self.states[&scenario].steps
    }

    /// How often an undisturbed run comes by each step.
    pub fn passages(&self, scenario: Scenario) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        self.steps(scenario).iter().for_each(|step| *counts.entry(step.as_str()).or_default() += 1);
        counts
    }

    /// Does `task` to each case on a space of its own, two at a time.
    pub fn each<C: Sync>(&self, cases: &[(Scenario, C)], task: impl Fn(&TestSpace, Scenario, &C) + Sync) {
        let next = Mutex::new(cases.iter());
        let worker = || {
            let space = TestSpace::empty();
            loop {
                // Not held while the task runs, and not poisoned by a task that fails.
                let case = next.lock().expect("the list").next();
                let Some((scenario, case)) = case else { return };
                for part in PARTS {
                    remove(&space.path(part));
                    copy(&self.states[scenario].space.path(part), &space.path(part));
                }
                task(&space, *scenario, case);
            }
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(worker);
            worker();
            if let Err(panic) = other.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// After a run that ended badly, because of `why`: the store holds nothing torn, and the next run does only what had not
    /// been published, makes the bytes of an undisturbed run and tidies up.
    pub fn goes_on(&self, space: &TestSpace, scenario: Scenario, why: &str) {
        whole(space, scenario, why);
        let before = records(space).unwrap_or_default();
        let outcome = space.run();
        assert_eq!(outcome.code, Some(0), "{scenario:?}, {why}: {}", outcome.stderr);
        assert!(space.files("out") == self.states[&scenario].expected, "{scenario:?}, {why}: other bytes in out/");
        // A record that is published again has another number.
        let after = records(space).expect("an index");
        let again: Vec<_> = before.iter().filter(|(key, record)| after.get(*key) != Some(record)).collect();
        assert!(again.len() <= scenario.replaced(), "{scenario:?}, {why}: done again though published: {again:?}");
        let left: Vec<PathBuf> = ["tmp", "work", "locks"]
            .iter()
            .flat_map(|folder| fs::read_dir(space.path(".sd3pipe").join(folder)).expect("a folder of the store"))
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| !KEPT_LOCKS.iter().any(|name| path.ends_with(name)))
            .collect();
        assert!(left.is_empty(), "{scenario:?}, {why}: left behind: {left:?}");
        whole(space, Scenario::Fresh, why);
    }
}

/// Every object has the bytes of its name, and every object that a record names is there; but one that the scenario began with
/// damaged may be there still, or in quarantine already.
fn whole(space: &TestSpace, scenario: Scenario, why: &str) {
    let objects = space.files(".sd3pipe/objects");
    let mut wrong = 0;
    for (path, bytes) in &objects {
        let name: String = path.iter().skip(2).map(|part| part.to_string_lossy()).collect();
        wrong += usize::from(Digest::of(bytes).to_string() != name);
    }
    for name in query(space, "SELECT DISTINCT lower(hex(digest)), '' FROM named").unwrap_or_default().into_keys() {
        let (shard, rest) = name.split_at(2);
        let path = Path::new(".sd3pipe/objects").join(shard).join(rest);
        wrong += usize::from(!objects.contains_key(&path));
    }
    let damaged = usize::from(scenario == Scenario::Damaged);
    assert!(wrong <= damaged, "{scenario:?}, {why}: {wrong} objects that are torn, or named by a record and not there");
}

/// The labels and numbers of the records by their keys; nothing without an index.
fn records(space: &TestSpace) -> Option<BTreeMap<String, String>> {
    query(space, "SELECT hex(key), id || ': ' || label FROM records")
}

/// Asks a copy of the index, so that this look changes nothing; nothing without an index.
fn query(space: &TestSpace, query: &str) -> Option<BTreeMap<String, String>> {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["index.sqlite", "index.sqlite-wal"] {
        copy(&space.path(".sd3pipe").join(name), &folder.path().join(name));
    }
    let index = rusqlite::Connection::open(folder.path().join("index.sqlite")).expect("SQLite opens any file");
    let mut query = index.prepare(query).ok()?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    Some(rows.collect::<Result<_, _>>().expect("texts"))
}

/// Carries out `run` with a fault, saying nothing.
pub fn run_with_fault(space: &TestSpace, fault: &str) -> ExitStatus {
    let mut command = space.command(&["run", "test.ron"]);
    command.env("SD3PIPE_FAULT", fault).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it runs")
}

/// Some of `1..=count`, spread evenly, ends included.
pub fn spread(count: usize, most: usize) -> BTreeSet<usize> {
    (0..most.min(count)).map(|index| 1 + index * (count - 1) / (most.min(count) - 1).max(1)).collect()
}

fn begin(space: &TestSpace) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let model = root.join("model");
    for name in ["coffee-cup.png", "coffee-cup.txt", "wall-clock.jpg", "wall-clock.txt"] {
        space.write(&format!("photos/{name}"), fs::read(root.join("photos").join(name)).expect("a photograph"));
    }
    space.write("test.ron", PIPELINE.replace("MODEL", &model.to_string_lossy()));
}

/// What is in the way of the next run after several were killed.
fn leave_behind(space: &TestSpace) {
    space.write(".sd3pipe/tmp/4711-0", "half of");
    space.write(".sd3pipe/tmp/4711-1/part", "half of");
    space.write(".sd3pipe/locks/making-4711-0", "4711: sd3pipe run gone.ron\n");
    space.write(".sd3pipe/locks/run-4711", "");
    space.write(LEFT_COPY, "half of");
    space.remove("out/test/checkpoints/test-epoch-0001.safetensors");
}

fn latents_of(space: &TestSpace, item: &str) -> PathBuf {
    let store = Store::open_read_only(&space.path(".sd3pipe")).expect("a store").expect("a store");
    let run = store.last_run("test").expect("a journal").expect("a run");
    let stages = run.document["stages"].as_array().expect("stages");
    let latents = stages.iter().find(|stage| stage["name"] == "latents").expect("a stage");
    let result = latents["result"].as_str().expect("a result").parse().expect("a digest");
    let artifact = Artifact::from_bytes(&store.read(&result).expect("an object")).expect("an artifact");
    let entry = artifact.entries.iter().find(|entry| entry.item == item).expect("the item");
    store.file(&entry.digest).expect("an object")
}

/// Flips one bit of a read-only file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("written");
}

fn copy_of(space: &TestSpace) -> TestSpace {
    let other = TestSpace::empty();
    PARTS.iter().for_each(|part| copy(&space.path(part), &other.path(part)));
    other
}

/// Copies a file or a folder, if there is one.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else if from.exists() {
        fs::copy(from, to).expect("a copy");
    }
}

fn remove(path: &Path) {
    drop(if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
}
