//! Random histories of edits, each on a store of its own that grows old with it.
//!
//! | variable | what |
//! |---|---|
//! | `SD3PIPE_SOAK_EDITS` | how many edits in all; then histories are longer |
//! | `SD3PIPE_SOAK_SEED` | what the edits follow from; 1 if absent |
//! | `SD3PIPE_SOAK_THREADS` | how many histories at a time; 2 if absent |
//! | `SD3PIPE_SOAK_REPLAY` | the edits of one history, as a failure prints them |

use super::{
    check::{Clean, Figures, check},
    edit::{Edit, Kind},
    world::World,
};
use sd3pipe_stages::random::Draws;
use std::{
    collections::BTreeMap,
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

/// Histories in a test run, and edits in each.
const SHORT: (u64, u64) = (200, 4);
/// Edits in each history of a long soak.
const LONG: u64 = 25;
/// How many shorter histories are tried to find out which edits a failure needs.
const MOST_TRIES: usize = 60;

/// What has happened so far, over all histories.
#[derive(Default)]
struct Told {
    edits: BTreeMap<Kind, usize>,
    figures: Figures,
    failures: Vec<String>,
}

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// One history from the beginning. The error is the first thing that was not as it must be.
fn play(edits: &[Edit], clean: &Clean, mut after_each: impl FnMut(Option<Kind>, Figures)) -> Result<(), String> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new();
        after_each(None, check(&world, &Default::default(), clean));
        for edit in edits {
            let then = edit.apply(&mut world);
            after_each(Some(edit.kind), check(&world, &then, clean));
        }
    }));
    played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    })
}

/// Leaves out edits for as long as what is left fails.
fn shrink(mut edits: Vec<Edit>, mut fault: String, clean: &Clean) -> (Vec<Edit>, String) {
    let mut tries = 0;
    let mut index = 0;
    while index < edits.len() && tries < MOST_TRIES {
        let mut fewer = edits.clone();
        fewer.remove(index);
        tries += 1;
        match play(&fewer, clean, |_, _| {}) {
            Err(other) => (edits, fault) = (fewer, other),
            Ok(()) => index += 1,
        }
    }
    (edits, fault)
}

fn list(edits: &[Edit]) -> String {
    edits.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn any_history_of_edits_ends_like_a_run_from_an_empty_store() {
    let clean = Clean::default();
    if let Ok(replay) = env::var("SD3PIPE_SOAK_REPLAY") {
        let edits: Vec<Edit> = replay.split_whitespace().map(|edit| edit.parse().expect("an edit")).collect();
        return play(&edits, &clean, |_, _| {}).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let wanted = variable("SD3PIPE_SOAK_EDITS");
    let (histories, length) = wanted.map_or(SHORT, |edits| (edits.div_ceil(LONG), LONG));
    let (seed, threads) = (variable("SD3PIPE_SOAK_SEED").unwrap_or(1), variable("SD3PIPE_SOAK_THREADS").unwrap_or(2));
    let (start, next, told) = (Instant::now(), AtomicU64::new(0), Mutex::new(Told::default()));
    let work = || {
        loop {
            let history = next.fetch_add(1, Ordering::Relaxed);
            if history >= histories {
                return;
            }
            let mut draws = Draws::new(seed, "history of edits", history, "");
            let edits: Vec<Edit> = (0..length).map(|_| Edit::draw(&mut draws)).collect();
            let tell = |kind: Option<Kind>, figures: Figures| {
                let mut told = told.lock().expect("no panic");
                if let Some(kind) = kind {
                    *told.edits.entry(kind).or_default() += 1;
                }
                told.figures += figures;
            };
            if let Err(fault) = play(&edits, &clean, tell) {
                let (edits, fault) = shrink(edits, fault, &clean);
                let line =
                    format!("history {history} of seed {seed}\nSD3PIPE_SOAK_REPLAY=\"{}\"\n{fault}\n", list(&edits));
                eprintln!("{line}");
                told.lock().expect("no panic").failures.push(line);
            }
            if wanted.is_some() {
                report(history + 1, start, &told.lock().expect("no panic"));
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let told = told.into_inner().expect("no panic");
    report(histories, start, &told);
    println!("by kind: {:?}", told.edits);
    assert!(told.failures.is_empty(), "{} histories failed:\n{}", told.failures.len(), told.failures.join("\n"));
}

fn report(histories: u64, start: Instant, told: &Told) {
    let Figures { runs, executed, reused } = told.figures;
    println!(
        "{histories} histories, {} edits, {runs} runs, {executed} items executed, {reused} reused, {} failures, {:.0} s",
        told.edits.values().sum::<usize>(),
        told.failures.len(),
        start.elapsed().as_secs_f64()
    );
}
