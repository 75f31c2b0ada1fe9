//! What a run did, as the store keeps it: `runs`, `show`, `why` and the next run read it.

use crate::{pipeline::Resolved, plan::PlanError};
use sd3pipe_cache::{Digest, Key, Run, RunStage, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the key of verdicts goes by among those of stages, before the stage's name: no stage is called so.
const VERDICTS: &str = "verdicts of ";

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The pipeline as it was run, in RON.
    pub pipeline: String,
    /// The stages in the order in which they came up.
    pub stages: Vec<StageEntry>,
    /// The newest key of every stage, those of earlier runs included: what `why` compares with.
    pub keys: BTreeMap<String, String>,
    /// The error that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What happened to a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageEntry {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// The digest of what it made; none if it failed.
    pub result: Option<Digest>,
    /// The labels of the actions that were carried out, in order.
    pub executed: Vec<String>,
    /// How many actions its result is made of; none for a stage that was kept as a whole.
    pub actions: Option<usize>,
    /// How many of them a run that makes a share has left to others; none if it left none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<usize>,
    /// How many results came from the remote store.
    #[serde(default, skip_serializing_if = "is_none")]
    pub fetched: usize,
    /// How long it took.
    pub seconds: f64,
}

fn is_none(fetched: &usize) -> bool {
    *fetched == 0
}

impl Journal {
    /// A journal in which nothing happened yet.
    pub fn new(resolved: &Resolved, previous: &BTreeMap<String, Key>) -> Self {
        // Not of stages that the pipeline no longer has: what they made need not be kept for it.
        let stage = |name: &str| resolved.index(name.strip_prefix(VERDICTS).unwrap_or(name));
        let there = previous.iter().filter(|(name, _)| stage(name).is_some());
        let keys = there.map(|(name, key)| (name.clone(), key.to_string())).collect();
        Self { pipeline: resolved.to_ron().unwrap_or_default(), keys, ..Self::default() }
    }

    /// Adds a stage, in the place of what an earlier attempt of the same run said of it.
    pub fn add(&mut self, mut entry: StageEntry) {
        if entry.result.is_some() {
            self.keys.insert(entry.name.clone(), entry.key.clone());
        }
        match self.stages.iter_mut().find(|old| old.name == entry.name) {
            Some(old) => {
                entry.executed = [std::mem::take(&mut old.executed), entry.executed].concat();
                entry.seconds += old.seconds;
                *old = entry;
            }
            None => self.stages.push(entry),
        }
    }

    /// Takes note of what the verdicts on a `Sample` stage's checkpoints are found by, so that they are kept like its samples.
    pub fn add_verdicts(&mut self, stage: &str, key: Key) {
        self.keys.insert(format!("{VERDICTS}{stage}"), key.to_string());
    }

    /// Whether anything was carried out.
    pub fn did_something(&self) -> bool {
        self.stages.iter().any(|stage| !stage.executed.is_empty())
    }
}

/// The stages that a run leads to: those that it came to, and for the others what the runs before it made.
pub fn stages_of(run: &Run) -> Vec<RunStage> {
    let Ok(journal) = serde_json::from_value::<Journal>(run.document.clone()) else { return Vec::new() };
    let came_to = journal.stages.iter().map(|stage| (&stage.name, &stage.key, stage.result));
    let known = journal.keys.iter().map(|(name, key)| (name, key, None));
    let parsed = came_to
        .chain(known)
        .filter_map(|(name, key, result)| Some(RunStage { name: name.clone(), key: key.parse().ok()?, result }));
    let mut stages: Vec<RunStage> = Vec::new();
    for stage in parsed {
        if !stages.iter().any(|other| other.key == stage.key) {
            stages.push(stage);
        }
    }
    stages
}

/// The keys of the stages at the last run of this pipeline.
pub fn previous_keys(resolved: &Resolved, store: Option<&Store>) -> Result<BTreeMap<String, Key>, PlanError> {
    let Some(run) = store.map(|store| store.last_run(&resolved.pipeline.name)).transpose()?.flatten() else {
        return Ok(BTreeMap::new());
    };
    let Ok(journal) = serde_json::from_value::<Journal>(run.document) else { return Ok(BTreeMap::new()) };
    Ok(journal.keys.into_iter().filter_map(|(name, key)| Some((name, key.parse().ok()?))).collect())
}

/// What runs of this pipeline found in the remote store, by the keys of its stages: there it is, and not in the store.
pub fn fetched(resolved: &Resolved, store: Option<&Store>) -> Result<BTreeMap<Key, Digest>, PlanError> {
    let mut fetched = BTreeMap::new();
    let Some(store) = store.filter(|_| resolved.pipeline.store.remote.is_some()) else { return Ok(fetched) };
    let runs = store.runs(RUNS_BACK)?.into_iter().filter(|run| run.pipeline == resolved.pipeline.name);
    for journal in runs.filter_map(|run| serde_json::from_value::<Journal>(run.document).ok()) {
        for stage in journal.stages.iter().filter(|stage| stage.fetched > 0) {
            fetched.extend(stage.key.parse::<Key>().ok().zip(stage.result));
        }
    }
    Ok(fetched)
}

/// So many runs are looked through for one in which a stage did something.
const RUNS_BACK: usize = 50;

/// How long an action of each stage took, by the newest run of this pipeline in which the stage carried some out to the end.
pub fn seconds_an_action(resolved: &Resolved, store: Option<&Store>) -> Result<BTreeMap<String, f64>, PlanError> {
    let mut seconds = BTreeMap::new();
    let Some(store) = store else { return Ok(seconds) };
    let runs = store.runs(RUNS_BACK)?.into_iter().filter(|run| run.pipeline == resolved.pipeline.name);
    for journal in runs.filter_map(|run| serde_json::from_value::<Journal>(run.document).ok()) {
        for stage in journal.stages {
            if stage.seconds > 0.0 && !stage.executed.is_empty() {
                seconds.entry(stage.name).or_insert(stage.seconds / stage.executed.len() as f64);
            }
        }
    }
    Ok(seconds)
}
