//! Results that a remote store has: asked for before anything is computed, brought when something reads them, and sent when they are made.
//!
//! A stage that the remote store has as a whole costs one question and its list. What is listed comes when another stage is about to read
//! it, or when it is delivered; until then this store has no record of the stage, so that its records promise nothing that is not here.
//! Of a stage that the remote store has in part, or under another list, each action's record is asked for and what it made is brought.

use super::{PlanError, Planner, StageResult};
use crate::remote::Remote;
use sd3pipe_cache::{Digest, Key, Object, Output, Record, Store, StoreError};
use sd3pipe_stages::{
    error::StageError,
    stage::Stage,
    work::{Interrupt, Progress},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

/// The role of the output in which a stage lists what it made.
const LIST: &str = "artifact";

/// So many results come, or go, before they are recorded: what is cut off loses no more than that.
const AT_A_TIME: usize = 512;

/// The remote store that results are shared through, and who hears of it.
#[derive(Clone, Copy)]
pub struct Shared<'p> {
    /// The remote store.
    pub remote: &'p Remote,
    /// Who hears how far it is.
    pub progress: &'p dyn Progress,
    /// Whether to stop.
    pub interrupt: &'p Interrupt,
}

impl Shared<'_> {
    /// Carries out a transfer of so many objects, and shows how far it is.
    fn transfer<T>(&self, what: &str, count: usize, act: impl FnOnce(&(dyn Fn(u64) -> bool + Sync)) -> T) -> T {
        let done = AtomicU64::new(0);
        let shown = count > 1;
        if shown {
            self.progress.begin(what, count as u64, "objects");
        }
        let result = act(&|bytes| {
            if bytes > 0 && shown {
                self.progress.advance(done.fetch_add(1, Ordering::Relaxed) + 1, "");
            }
            !self.interrupt.asked()
        });
        if shown {
            self.progress.end();
        }
        result
    }

    /// Brings what is not here of these objects.
    fn bring(&self, name: &str, objects: impl Iterator<Item = Object>, store: &Store) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        let objects: Vec<Object> =
            objects.filter(|object| !store.has(&object.digest, object.length) && seen.insert(object.digest)).collect();
        let what = format!("{name}: from {}", self.remote.address());
        self.transfer(&what, objects.len(), |heard| self.remote.bring(&objects, store, heard))
    }
}

/// What went to a remote store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Records.
    pub results: usize,
    /// Bytes of objects.
    pub bytes: u64,
}

/// What lies in the remote store.
#[derive(Debug, Default)]
pub(super) struct Far {
    /// Records of stages whose results are not here yet, by the digests of their lists.
    lists: HashMap<Digest, Record>,
    /// What an earlier run found there, by keys of stages: whoever asks nothing goes by that.
    before: BTreeMap<Key, Digest>,
    /// How many results came from there, by stage.
    came: HashMap<usize, usize>,
    sent: Traffic,
}

fn object(output: &Output) -> Object {
    Object { digest: output.digest, length: output.length }
}

impl<'p> Planner<'p> {
    /// Looks for results in a remote store too from here on.
    pub fn share(&mut self, shared: Option<Shared<'p>>) {
        self.shared = shared;
    }

    /// Takes what earlier runs found in the remote store for being there still, without asking.
    pub fn take_as_far(&mut self, before: BTreeMap<Key, Digest>) {
        self.far.get_mut().before = before;
    }

    /// How many results of a stage came from the remote store.
    pub fn came(&self, index: usize) -> usize {
        self.far.borrow().came.get(&index).copied().unwrap_or_default()
    }

    /// Where results may come from and go to, unless nobody is there.
    fn reachable(&self) -> Option<(Shared<'p>, &'p Store)> {
        self.shared.filter(|shared| !shared.remote.is_gone()).zip(self.store)
    }

    /// A stage's result, if the remote store has it: its list comes, and nothing that it lists. Where nobody may be asked, what an earlier run
    /// found there.
    pub(super) fn far_result(&self, index: usize, key: &Key) -> Result<Option<StageResult>, PlanError> {
        let Some((shared, store)) = self.reachable() else {
            let before = self.far.borrow().before.get(key).copied().map(StageResult::stored);
            return Ok(before.filter(|result| result.artifact(self.store).is_ok()));
        };
        let Some(record) = shared.remote.records(&[*key]).pop().flatten() else { return Ok(None) };
        let Some(list) = record.outputs.first().filter(|output| output.role == LIST).map(object) else {
            return Ok(None);
        };
        shared.bring(&self.resolved.stages[index].name, [list].into_iter(), store)?;
        let result = StageResult::stored(list.digest);
        let Some(artifact) = store.has(&list.digest, list.length).then(|| result.artifact(Some(store))).transpose()?
        else {
            return Ok(None);
        };
        if artifact.entries.iter().any(|entry| shared.remote.lacks(&entry.digest)) {
            return Ok(None);
        }
        let mut far = self.far.borrow_mut();
        far.came.insert(index, artifact.entries.len());
        far.lists.insert(list.digest, record);
        Ok(Some(result))
    }

    /// Brings what a stage's result lists and is not here, of all roles or of these. A stage that the remote store has is recorded when all
    /// of it is here.
    ///
    /// # Errors
    /// [`StoreError::Missing`] for what did not come of such a stage, which must be examined anew.
    pub fn land(&self, index: usize, result: &StageResult, roles: Option<&[&str]>) -> Result<(), PlanError> {
        let is_data = matches!(self.resolved.stages[index].stage, Stage::Captions(_));
        let Some((shared, store)) = self.shared.zip(self.store).filter(|_| !result.foreseen && !is_data) else {
            return Ok(());
        };
        let record = self.far.borrow().lists.get(&result.digest).cloned();
        let artifact = result.artifact(Some(store))?;
        let wanted =
            || artifact.entries.iter().filter(|entry| roles.is_none_or(|roles| roles.contains(&entry.role.as_str())));
        let objects = wanted().map(|entry| Object { digest: entry.digest, length: entry.length });
        shared.bring(&self.resolved.stages[index].name, objects, store)?;
        if shared.interrupt.asked() {
            return Err(PlanError::Stage(StageError::Interrupted));
        }
        // What this store has recorded and lost is noticed by who reads it, if anybody does.
        let Some(record) = record else { return Ok(()) };
        if let Some(entry) = wanted().find(|entry| !store.has(&entry.digest, entry.length)) {
            return Err(StoreError::Missing { digest: entry.digest }.into());
        }
        if roles.is_none() {
            store.publish(&[record])?;
            self.far.borrow_mut().lists.remove(&result.digest);
        }
        Ok(())
    }

    /// Brings what the remote store has of a job's actions that are not recorded here, and records them.
    pub(super) fn fetch(&self, index: usize, actions: Vec<Key>) -> Result<(), PlanError> {
        let Some((shared, store)) = self.reachable() else { return Ok(()) };
        let mut keys = Vec::new();
        for key in actions {
            if store.outputs(&key)?.is_none() {
                keys.push(key);
            }
        }
        let (name, mut came) = (&self.resolved.stages[index].name, 0);
        for keys in keys.chunks(AT_A_TIME) {
            let records: Vec<Record> = shared.remote.records(keys).into_iter().flatten().collect();
            shared.bring(name, records.iter().flat_map(|record| &record.outputs).map(object), store)?;
            let is_here =
                |record: &Record| record.outputs.iter().all(|output| store.has(&output.digest, output.length));
            let here: Vec<Record> = records.into_iter().filter(is_here).collect();
            store.publish(&here)?;
            came += here.len();
            if shared.interrupt.asked() {
                return Err(PlanError::Stage(StageError::Interrupted));
            }
        }
        if came > 0 {
            *self.far.borrow_mut().came.entry(index).or_default() += came;
            shared.progress.line(&format!("{name}: {came} of {} results from {}", keys.len(), shared.remote.address()));
        }
        Ok(())
    }

    /// Brings all that the remote store has of a stage whose result is known: what that lists, and the records of its actions.
    pub fn fetch_all(&mut self, index: usize, results: &[Option<StageResult>]) -> Result<(), PlanError> {
        let Some(result) = &results[index] else { return Ok(()) };
        self.land(index, result, None)?;
        match self.resolved.stages[index].stage {
            Stage::Captions(_) => Ok(()),
            _ => self.keys_of(index, results).and_then(|keys| self.fetch(index, keys)),
        }
    }

    /// Sends what this store has of a stage to the remote one, if that is to have it and has not, and tells whether it has all of it then. The
    /// stage's own record goes last: where it is, everything is that it lists.
    pub fn offer(&mut self, index: usize, key: &Key, results: &[Option<StageResult>]) -> Result<bool, PlanError> {
        let resolved = self.resolved;
        let stage = &resolved.stages[index];
        let Some((shared, store)) = self.shared.zip(self.store).filter(|(shared, _)| shared.remote.writes()) else {
            return Ok(true);
        };
        // The data is read on each machine, and what came from there as a whole is there.
        let is_far = |result: &StageResult| self.far.borrow().lists.contains_key(&result.digest);
        if matches!(stage.stage, Stage::Captions(_)) || results[index].as_ref().is_some_and(is_far) {
            return Ok(true);
        }
        let own = store.record(key)?;
        if own.is_some() && !shared.remote.lacks_something() && shared.remote.has_records(&[*key]) == [Some(true)] {
            return Ok(true);
        }
        let keys = match self.keys_of(index, results) {
            // What it was made of is not here.
            Err(error) if error.lost_object().is_some() => return Ok(false),
            keys => keys?,
        };
        let (mut complete, mut there) = (true, HashSet::new());
        for keys in keys.chunks(AT_A_TIME) {
            let mut records = Vec::new();
            for key in keys {
                records.extend(store.record(key)?);
            }
            complete &= self.send(&stage.name, &records)?;
            there.extend(records.iter().flat_map(|record| &record.outputs).map(|output| output.digest));
        }
        let Some(own) = own.filter(|_| complete) else { return Ok(complete) };
        let list =
            own.outputs.first().map(|list| StageResult::stored(list.digest).artifact(Some(store))).transpose()?;
        let whole = list.is_some_and(|list| list.entries.iter().all(|entry| there.contains(&entry.digest)));
        Ok(whole && self.send(&stage.name, &[own])?)
    }

    /// What was sent to the remote store.
    pub fn sent(&self) -> Traffic {
        self.far.borrow().sent
    }

    /// Sends what is not there of these records, and tells whether all of it is there now.
    fn send(&self, name: &str, records: &[Record]) -> Result<bool, StoreError> {
        let Some((shared, store)) = self.reachable() else { return Ok(false) };
        let what = format!("{name}: to {}", shared.remote.address());
        let count = records.iter().map(|record| record.outputs.len()).sum();
        let sent = shared.transfer(&what, count, |heard| shared.remote.send(records, store, heard))?;
        let traffic = &mut self.far.borrow_mut().sent;
        traffic.results += sent.records;
        traffic.bytes += sent.bytes;
        Ok(sent.complete)
    }
}
