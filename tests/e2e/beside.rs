//! Several runs on one store at once: all are right, none makes what another is making, and those who only look never wait.

use crate::space::{Outcome, TestSpace, wait_until};
use std::{
    collections::BTreeMap,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const ROUNDS: usize = 50;
/// Long enough to be waited for.
const LONG: [&str; 2] = ["--set", "train.epochs=400"];
/// What a reader may take while a run holds what it holds, on a busy machine.
const BOUND: Duration = Duration::from_secs(10);

/// Pipelines that share what they can: two trainings that are the same but for their length, one with other parameters, and one on
/// data that is the same in part.
const OVERLAPPING: [(&str, &str, &str); 4] = [
    ("one", "epochs: 1", "[(path: \"photos\")]"),
    ("two", "epochs: 2", "[(path: \"photos\")]"),
    ("three", "seed: 3, epochs: 1", "[(path: \"photos\")]"),
    ("four", "epochs: 1", "[(path: \"photos\"), (path: \"more\", name: \"more\")]"),
];

fn start(space: &TestSpace, arguments: &[&str]) -> Child {
    space.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn overlapping() -> TestSpace {
    let space = TestSpace::small();
    for (number, name) in ["elk", "oak"].into_iter().enumerate() {
        space.picture(&format!("more/{name}.png"), (64, 96), 60 + number as u8);
        space.write(&format!("more/{name}.txt"), format!("an {name}"));
    }
    let base = String::from_utf8(space.read("test.ron")).expect("UTF-8");
    for (name, training, data) in OVERLAPPING {
        let text = base.replace("\"test\"", &format!("{name:?}")).replace("epochs: 1", training);
        space.write(&format!("{name}.ron"), text.replace("[(path: \"photos\")]", data));
    }
    space
}

/// How many actions of each stage were carried out in the runs of a store.
fn executed(space: &TestSpace, store: &str) -> BTreeMap<String, usize> {
    let mut sums = BTreeMap::new();
    for run in 1..=OVERLAPPING.len() {
        let shown = space.call(&["show", &run.to_string(), "--json", "--store", store]).succeeds().json();
        assert_eq!(shown["outcome"], "done");
        for stage in shown["journal"]["stages"].as_array().expect("stages") {
            let name = stage["name"].as_str().expect("a name").to_owned();
            *sums.entry(name).or_default() += stage["executed"].as_array().expect("a list").len();
        }
    }
    sums
}

/// Promise 9. What one after another has to do is the least that can be done: at once they do no more.
#[test]
fn overlapping_runs_at_once_are_all_right_and_make_nothing_twice() {
    let space = overlapping();
    for (name, ..) in OVERLAPPING {
        space.call(&["run", &format!("{name}.ron"), "--store", "in-turn"]).succeeds();
    }
    let (right, least) = (space.files("out"), executed(&space, "in-turn"));
    let mut waited = 0;
    for round in 0..ROUNDS {
        std::fs::remove_dir_all(space.path("out")).expect("the last results");
        let store = format!("store-{round}");
        // Each is the first in some rounds.
        let mut order = OVERLAPPING.map(|(name, ..)| format!("{name}.ron"));
        order.rotate_left(round % OVERLAPPING.len());
        let children = order.map(|file| start(&space, &["run", &file, "--store", &store]));
        for child in children {
            let outcome = Outcome::of(child.wait_with_output().expect("an end")).succeeds();
            waited += usize::from(outcome.stderr.contains("waiting for process "));
        }
        assert!(space.files("out") == right, "round {round}");
        assert_eq!(executed(&space, &store), least, "round {round}");
        std::fs::remove_dir_all(space.path(&store)).expect("a store");
    }
    println!("{ROUNDS} rounds of {}; {waited} runs waited for another", OVERLAPPING.len());
    assert!(waited > 0, "they never met");
}

/// A training that goes on for long, and an equal run that waits for it.
fn one_waits_for_another(space: &TestSpace) -> (Child, Child) {
    let arguments = [&["run", "test.ron", "--until", "train"][..], &LONG].concat();
    let holder = start(space, &arguments);
    wait_until("a saved state", || space.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors")));
    let log = std::fs::File::create(space.path("log")).expect("a file");
    let waiting = space.command(&arguments).stdout(Stdio::null()).stderr(log).spawn().expect("the program starts");
    let line = format!("train: waiting for process {}: sd3pipe run test.ron --until train", holder.id());
    wait_until("the line that names the holder", || String::from_utf8_lossy(&space.read("log")).contains(&line));
    (holder, waiting)
}

fn kill(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("an end");
}

#[test]
fn who_only_looks_never_waits() {
    let space = TestSpace::small();
    let (mut holder, waiting) = one_waits_for_another(&space);
    let looks: [&[&str]; 6] = [
        &["plan", "test.ron"],
        &["status", "test.ron"],
        &["why", "test.ron", "sample"],
        &["graph", "test.ron"],
        &["runs"],
        &["show", "last"],
    ];
    for look in looks {
        let start = Instant::now();
        space.call(look).succeeds();
        assert!(start.elapsed() < BOUND, "{look:?} took {:?}", start.elapsed());
    }
    assert!(holder.try_wait().expect("a child").is_none(), "the training ended too soon for this to show anything");
    kill(waiting);
    kill(holder);
}

#[test]
fn a_run_that_waits_can_be_interrupted() {
    let space = TestSpace::small();
    let (holder, mut waiting) = one_waits_for_another(&space);
    std::process::Command::new("kill").args(["-INT", &waiting.id().to_string()]).status().expect("a signal");
    assert_eq!(waiting.wait().expect("an end").code(), Some(130));
    kill(holder);
}

#[test]
fn a_run_that_waits_for_one_that_is_killed_goes_on_in_its_place() {
    let space = TestSpace::small();
    let arguments = ["run", "test.ron", "--until", "train", "--set", "train.epochs=40"];
    let holder = start(&space, &arguments);
    wait_until("a saved state", || space.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors")));
    let waiting = start(&space, &arguments);
    thread::sleep(Duration::from_millis(300));
    kill(holder);
    let outcome = Outcome::of(waiting.wait_with_output().expect("an end")).succeeds();
    assert!(outcome.stdout.contains("of 40"), "{}", outcome.stdout);
}

/// Readers beside writers that come and go: what they say is always an answer.
#[test]
fn plans_beside_runs_are_never_refused() {
    let space = overlapping();
    let done = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                for verb in ["plan", "status"] {
                    let start = Instant::now();
                    space.call(&[verb, "two.ron"]).succeeds();
                    assert!(start.elapsed() < BOUND, "{verb} took {:?}", start.elapsed());
                }
                looks += 2;
            }
            looks
        });
        for seed in 0..4 {
            let seed = format!("train.seed={seed}");
            let children =
                OVERLAPPING.map(|(name, ..)| start(&space, &["run", &format!("{name}.ron"), "--set", &seed]));
            for child in children {
                Outcome::of(child.wait_with_output().expect("an end")).succeeds();
            }
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("no panic")
    });
    assert!(looks > 3, "{looks}");
}
