//! What takes how much room in a store, and whose it is.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use crate::census::{Census, Reach, StagesOf, files_in, found, nodes_of};
use crate::gc::Part;
use crate::{Digest, Store, StoreError};

/// What one pipeline needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Needs {
    /// All that its kept runs and its pins lead to.
    pub all: Part,
    /// What of that nobody else needs.
    pub alone: Part,
}

/// What takes room in a store.
#[derive(Debug, Default)]
pub struct Usage {
    /// Objects by role; by an empty one those that no record names.
    pub roles: BTreeMap<String, Part>,
    /// What each pipeline needs.
    pub pipelines: BTreeMap<String, Needs>,
    /// All objects.
    pub objects: Part,
    /// Objects that no kept run and no pin leads to.
    pub garbage: Part,
    /// Damaged files that were moved away.
    pub quarantine: Part,
    /// States of unfinished trainings.
    pub work: Part,
    /// Files that are being written, or were left so.
    pub temporary: Part,
    /// Bytes of the index with its journal.
    pub index: u64,
}

impl Store {
    /// Adds up what takes room, where the newest `keep_runs` runs of each pipeline are what it needs. Live runs are not
    /// told from others: what they make is garbage until they are done.
    ///
    /// # Errors
    /// As [`Store::would_collect`].
    pub fn usage(&self, keep_runs: usize, stages_of: StagesOf<'_>) -> Result<Usage, StoreError> {
        self.indexed()?;
        let census = Census::take(self, stages_of)?;
        let history = &census.history;
        let mut nodes: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for run in history.kept(keep_runs) {
            let of_run = nodes_of(&stages_of(run), Some(run.id), &history.reliances);
            nodes.entry(&run.pipeline).or_default().extend(of_run);
        }
        for pin in &census.pins {
            nodes.entry(&pin.pipeline).or_default().extend(nodes_of(&pin.stages, None, &history.reliances));
        }
        let reached: Vec<(&str, Reach<'_>)> = nodes
            .into_iter()
            .map(|(pipeline, nodes)| {
                let mut reach = Reach::new(&census);
                reach.from(0, nodes, &history.reliances);
                (pipeline, reach)
            })
            .collect();

        let mut usage = Usage::default();
        for (pipeline, _) in &reached {
            usage.pipelines.insert((*pipeline).to_owned(), Needs::default());
        }
        let seconds = seconds(&census);
        for (digest, found) in &census.objects {
            let part =
                Part { count: 1, bytes: found.length, seconds: seconds.get(digest).copied().unwrap_or_default() };
            let users: Vec<&str> = reached
                .iter()
                .filter(|(_, reach)| reach.objects.contains_key(digest))
                .map(|(pipeline, _)| *pipeline)
                .collect();
            for user in &users {
                let needs = usage.pipelines.entry((*user).to_owned()).or_default();
                needs.all.add(&part);
                if users.len() == 1 {
                    needs.alone.add(&part);
                }
            }
            if users.is_empty() {
                usage.garbage.add(&part);
            }
            usage.objects.add(&part);
            usage.roles.entry(role(&census, digest).to_owned()).or_default().add(&part);
        }
        for (folder, part) in [
            (self.layout().quarantine(), &mut usage.quarantine),
            (self.layout().works(), &mut usage.work),
            (self.layout().temporary(), &mut usage.temporary),
        ] {
            for found in files_in(&folder)?.iter().filter_map(found) {
                part.add(&Part { count: 1, bytes: found.length, seconds: 0.0 });
            }
        }
        let files = ["", "-wal", "-shm"].map(|suffix| self.root().join(format!("index.sqlite{suffix}")));
        usage.index = files.iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum();
        Ok(usage)
    }
}

/// What the records' times say of objects: each time at the record's first output.
fn seconds(census: &Census) -> HashMap<Digest, f64> {
    let mut seconds = HashMap::new();
    for entry in &census.records {
        if let Some(first) = entry.outputs().first() {
            *seconds.entry(first.digest).or_default() += entry.seconds;
        }
    }
    seconds
}

/// What an object is for, by the first record that names it.
fn role<'c>(census: &'c Census, digest: &Digest) -> &'c str {
    let naming = census.naming.get(digest).and_then(|naming| census.records.get(*naming.first()?));
    let output = naming.and_then(|entry| entry.outputs().iter().find(|output| output.digest == *digest));
    output.map_or("", |output| &output.role)
}
