//! What must hold after every edit.

use super::{
    edit::Then,
    world::{PIPELINES, World},
};
use crate::space::TestSpace;
use sd3pipe_cache::Digest;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Mutex,
};

/// What lies in `out/`, by path.
type Results = BTreeMap<PathBuf, Digest>;

/// What runs from an empty store made, by all that they were given: equal states are computed once.
#[derive(Default)]
pub struct Clean(Mutex<HashMap<Digest, Results>>);

/// What was carried out in all, and what could be reused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub runs: usize,
    pub executed: usize,
    pub reused: usize,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, more: Self) {
        self.runs += more.runs;
        self.executed += more.executed;
        self.reused += more.reused;
    }
}

fn results(space: &TestSpace) -> Results {
    space.files("out").into_iter().map(|(path, bytes)| (path, Digest::of(&bytes))).collect()
}

impl Clean {
    /// What a run of this pipeline in a fresh copy of the folder, with an empty store, makes.
    fn results(&self, world: &World, pipeline: &str) -> Results {
        let files = world.files();
        let arguments = world.arguments();
        let mut all = format!("{pipeline}\n{arguments:?}\n").into_bytes();
        for (path, bytes) in &files {
            all.extend(format!("{path:?} {}\n", Digest::of(bytes)).into_bytes());
        }
        let state = Digest::of(&all);
        if let Some(known) = self.0.lock().expect("no panic").get(&state) {
            return known.clone();
        }
        let space = TestSpace::empty();
        files.iter().for_each(|(path, bytes)| space.write(path.to_str().expect("plain"), bytes));
        space.call(&[&["run", pipeline], &arguments[..]].concat()).succeeds();
        let results = results(&space);
        self.0.lock().expect("no panic").insert(state, results.clone());
        results
    }
}

/// Plans, runs, compares with a run from an empty store, and runs once more. Panics where something is not as it must be.
pub fn check(world: &World, then: &Then, clean: &Clean) -> Figures {
    let (pipeline, _) = PIPELINES[then.pipeline];
    let settings = world.arguments();
    let planned = world.space.call(&[&["plan", pipeline, "--json"], &settings[..]].concat()).succeeds().json();
    let before = results(&world.space);

    let force: Vec<&str> = then.force.iter().flat_map(|stage| ["--force", stage]).collect();
    let run = world.space.call(&[&["run", pipeline], &settings[..], &force].concat()).succeeds();
    let executed = world.space.executed();
    let mut figures = Figures { runs: 2, ..Figures::default() };
    for stage in planned["stages"].as_array().expect("stages") {
        let name = stage["name"].as_str().expect("a name");
        let done = executed.get(name).cloned().unwrap_or_default();
        let mut missing: Vec<String> = serde_json::from_value(stage["missing"].clone()).expect("labels");
        missing.sort();
        let forced = then.force == Some(name);
        // A stage that waits for another may turn out to have its result: nothing is said of it before.
        if stage["state"] != "waiting" && !forced {
            assert_eq!(missing, done, "the plan of {name}\n{}", run.stderr);
        }
        assert!(!forced || !done.is_empty(), "{name} was forced, and nothing was done");
        figures.executed += done.len();
        if let Some(actions) = stage["actions"].as_u64() {
            figures.reused += (actions as usize).saturating_sub(done.len());
        }
    }

    let after = results(&world.space);
    let right = clean.results(world, pipeline);
    for (path, digest) in &right {
        assert_eq!(
            after.get(path),
            Some(digest),
            "{} differs from a run from an empty store\n{}",
            path.display(),
            run.stderr
        );
    }
    for (path, digest) in after.iter().filter(|(path, _)| !right.contains_key(*path)) {
        assert_eq!(before.get(path), Some(digest), "{} is nothing that such a run makes", path.display());
    }
    world.space.call(&[&["run", pipeline], &settings[..]].concat()).succeeds().says("nothing to do");
    assert_eq!(results(&world.space), after, "a run that had nothing to do changed out/");
    figures
}
