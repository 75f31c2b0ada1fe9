//! Stopped, killed, or edited while it runs: nothing is lost, and nothing wrong is kept.

use crate::space::{Outcome, TestSpace, wait_until};
use sd3pipe::{
    pipeline,
    run::{Networks, Options, RunError, Runner},
};
use sd3pipe_cache::Store;
use sd3pipe_stages::work::{Interrupt, Progress};
use std::process::{Child, Stdio};

/// Long enough to be caught in the middle of training.
const LONG: [&str; 2] = ["--set", "train.epochs=40"];

fn start(space: &TestSpace) -> Child {
    let arguments = [&["run", "test.ron", "--until", "train"][..], &LONG].concat();
    space.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn training_has_begun(space: &TestSpace) -> bool {
    space.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors"))
}

fn weights(space: &TestSpace) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    space.call(&[&["run", "test.ron"][..], &LONG].concat()).succeeds();
    space.files("out")
}

fn undisturbed() -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    weights(&TestSpace::demo())
}

/// Promise 10, and the exit code of an interrupt.
#[test]
fn an_interrupted_training_goes_on_to_the_same_bytes() {
    let space = TestSpace::demo();
    let child = start(&space);
    wait_until("a saved state", || training_has_begun(&space));
    // The system's own command: a signal is not worth a dependency.
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let outcome = Outcome::of(child.wait_with_output().unwrap()).fails(130, &["the state is saved"]);
    assert!(outcome.stdout.contains("train"), "{}", outcome.stdout);
    space.call(&["runs"]).succeeds().says("interrupted");
    assert_eq!(weights(&space), undisturbed());
}

/// Promise 7.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes_and_repeats_no_finished_item() {
    let space = TestSpace::demo();
    let mut child = start(&space);
    wait_until("a saved state", || training_has_begun(&space));
    child.kill().unwrap();
    child.wait().unwrap();
    let found = weights(&space);
    let executed = space.executed();
    assert!(!executed.contains_key("text") && !executed.contains_key("latents"), "{executed:?}");
    assert_eq!(found, undisturbed());
}

/// Asks to stop after each step of a training.
struct StopAfterEachStep<'i>(&'i Interrupt);

impl Progress for StopAfterEachStep<'_> {
    fn begin(&self, _: &str, _: u64, _: &str) {}
    fn advance(&self, _: u64, note: &str) {
        if note.contains("loss") {
            self.0.ask();
        }
    }
    fn end(&self) {}
    fn line(&self, _: &str) {}
}

/// Promise 10, with everything on that could remember what was before.
#[test]
fn a_training_that_is_stopped_after_each_step_comes_to_the_same_bytes() {
    let train = r#"Train(epochs: 2, batch: 2, accumulate: 2, learning_rate: 1e-3, precision: F32, save_every: 1,
        target: X0, loss: Huber(delta: 0.1, schedule: Exponential), weighting: CosMap, density: Mode(), stratified: true,
        min_timestep: 20, max_timestep: 980,
        schedule: CosineWithRestarts(warmup: Share(0.2), cycles: 2, minimum_ratio: 0.1)),"#;
    let line =
        r#"Train(epochs: 2, batch: 2, learning_rate: 1e-3, schedule: Constant(), precision: F32, save_every: 1),"#;
    let spaces = [TestSpace::demo(), TestSpace::demo()];
    for space in &spaces {
        space.edit("test.ron", line, train);
    }
    let [stopped, undisturbed] = &spaces;
    undisturbed.run().succeeds();

    let resolved = pipeline::load(&stopped.path("test.ron"), &[]).expect("a right pipeline");
    let store = Store::open(&stopped.path(".sd3pipe")).unwrap();
    let mut stops = 0;
    loop {
        let interrupt = Interrupt::new();
        let progress = StopAfterEachStep(&interrupt);
        let options = Options::default();
        let runner = Runner {
            resolved: &resolved,
            store: &store,
            engine: &Networks,
            progress: &progress,
            interrupt: &interrupt,
            options,
            remote: None,
        };
        match runner.run(Default::default()).1 {
            Ok(()) => break,
            Err(RunError::Interrupted) => stops += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stops >= 4, "{stops}");
    let files = stopped.files("out");
    assert!(!files.is_empty() && files == undisturbed.files("out"));
}

/// Promise 5.
#[test]
fn an_edit_during_the_run_is_noticed() {
    let space = TestSpace::demo();
    let child = start(&space);
    wait_until("a saved state", || training_has_begun(&space));
    space.write("photos/wall-clock.txt", "written while it trained");
    Outcome::of(child.wait_with_output().unwrap()).fails(5, &["changed during the run", "wall-clock.txt"]);
    // What was made is right for what was read, and the edit is not taken for done.
    let planned = space.planned(&[&["--until", "train"][..], &LONG].concat());
    assert_eq!(planned["text"], ["wall-clock.jpg"]);
    assert!(planned.contains_key("train"));
}

#[test]
fn a_file_that_is_only_touched_during_the_run_is_not_a_change() {
    let space = TestSpace::demo();
    let child = start(&space);
    wait_until("a saved state", || training_has_begun(&space));
    let caption = space.read("photos/wall-clock.txt");
    space.write("photos/wall-clock.txt", caption);
    Outcome::of(child.wait_with_output().unwrap()).succeeds();
}

/// Promise 9, in small: two runs of the same pipeline at once.
#[test]
fn two_runs_at_once_are_both_right_and_train_once() {
    let space = TestSpace::demo();
    let children = [start(&space), start(&space)];
    for child in children {
        Outcome::of(child.wait_with_output().unwrap()).succeeds();
    }
    assert_eq!(weights(&space), undisturbed());
}

/// Two trainings of different lengths that start the same: who comes second goes on from what the first has made.
#[test]
fn a_longer_training_waits_for_a_shorter_one_and_adds_what_is_missing() {
    let space = TestSpace::demo();
    let short = start(&space);
    wait_until("a saved state", || training_has_begun(&space));
    let longer = ["--until", "train", "--set", "train.epochs=41", "--store", ".sd3pipe"];
    let outcome = space.run_with(&longer).succeeds();
    assert!(outcome.stderr.contains("whose training starts the same"), "{}", outcome.stderr);
    Outcome::of(short.wait_with_output().unwrap()).succeeds();
    outcome.says("1 of 41");
}
