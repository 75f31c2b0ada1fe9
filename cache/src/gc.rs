//! Garbage collection: what nobody relies on goes, the least recently used first.
//!
//! Roots are pins, live runs and the newest runs of each pipeline; all that they lead to stays (census.rs says what leads
//! to what). A thing's last use is the end of the newest run that leads to it, or its file's time if that is later.
//!
//! It works beside runs (live.rs). Everything long happens before the gate is closed; then what began in the meantime is
//! looked at, records go in one transaction, and objects that no record names are moved to `tmp/`; they are unlinked
//! after the gate is open again. Records go before objects, so a collection that is killed leaves objects without
//! records at worst, for the next one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::TransactionBehavior;

use crate::census::{Census, History, Node, Reach, StagesOf, files_in, found, nodes_of};
use crate::files::{index_step, step};
use crate::live::{drop_reliances, sweep_locks};
use crate::lock::lock_alone;
use crate::record::remove_row;
use crate::{Digest, Key, Pin, Run, Store, StoreError};

/// How far clocks may be apart: the system's and that of its files, the coarsest of which is FAT's.
const GRAIN: Duration = Duration::from_secs(2);

/// KiB of the index that a collection may keep in memory while it removes rows.
const CACHE: i64 = 262_144;

/// What is to stay. Without an age and a size, only what roots lead to does.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Roots: so many of the newest runs of each pipeline.
    pub keep_runs: usize,
    /// What was used since stays too.
    pub older_than: Option<Duration>,
    /// As much as fits in so many bytes stays too, the most recently used first. With an age as well, what is older goes
    /// even if it fits.
    pub max_size: Option<u64>,
}

/// A part of what is collected, of one pipeline and one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    /// How many objects.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took to make them.
    pub seconds: f64,
}

/// What a collection removes, or would remove.
#[derive(Debug, Default)]
pub struct Collection {
    /// By pipeline and role. Neither is known of an object that no record names.
    pub parts: BTreeMap<(String, String), Part>,
    /// Damaged files that were moved away.
    pub quarantine: Part,
    /// States of trainings that no root goes on with.
    pub work: Part,
    /// Files that were left half written.
    pub temporary: Part,
    /// Bytes of objects, of unfinished work and of the index that stay.
    pub stays: u64,
    /// Whether the roots alone are larger than was asked for.
    pub too_large: bool,
    records: Vec<usize>,
    objects: Vec<Digest>,
    paths: Vec<PathBuf>,
    works: Vec<PathBuf>,
}

impl Part {
    /// Adds another to this one.
    pub fn add(&mut self, other: &Part) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
}

impl Collection {
    /// Adds a record or an unnamed object, and what nothing else names then.
    fn add(&mut self, census: &Census, node: Node, pipeline: &str, named: &mut HashMap<Digest, usize>) {
        let mut part = |role: &str, part: Part| {
            self.stays = self.stays.saturating_sub(part.bytes);
            self.parts.entry((pipeline.to_owned(), role.to_owned())).or_default().add(&part);
        };
        let freed = |digest: &Digest| Part { count: 1, bytes: census.length(digest), seconds: 0.0 };
        match node {
            Node::Record(at) => {
                let entry = &census.records[at];
                for output in entry.outputs() {
                    let Some(left) = named.get_mut(&output.digest) else { continue };
                    *left = left.saturating_sub(1);
                    if *left == 0 && census.objects.contains_key(&output.digest) {
                        part(&output.role, freed(&output.digest));
                        self.objects.push(output.digest);
                    }
                }
                if let Some(first) = entry.outputs().first() {
                    part(&first.role, Part { seconds: entry.seconds, ..Part::default() });
                }
                self.records.push(at);
            }
            Node::Object(digest) => {
                part("", freed(&digest));
                self.objects.push(digest);
            }
            Node::Stage(_) | Node::List(_) => {}
        }
    }

    /// All of it together.
    pub fn total(&self) -> Part {
        let mut total = Part::default();
        self.parts.values().chain([&self.quarantine, &self.work, &self.temporary]).for_each(|part| total.add(part));
        total
    }
}

/// Whose use of things is looked at.
struct Source {
    pipeline: String,
    last_use: SystemTime,
    nodes: Vec<Node>,
}

impl Store {
    /// What [`Store::collect`] would remove. Writes nothing.
    ///
    /// # Errors
    /// An index that cannot be read, or is lost; a pin that cannot be understood.
    pub fn would_collect(&self, limits: &Limits, stages_of: StagesOf<'_>) -> Result<Collection, StoreError> {
        self.indexed()?;
        self.plan_collection(&Census::take(self, stages_of)?, limits, stages_of)
    }

    /// Removes what nobody relies on, as far as `limits` ask for it. `stages_of` tells what stages a run had. Waits for
    /// another collection, of which `on_wait` is told.
    ///
    /// # Errors
    /// As [`Store::would_collect`]; a store that cannot be written, or that was opened for reading.
    pub fn collect(
        &self,
        limits: &Limits,
        stages_of: StagesOf<'_>,
        on_wait: &mut dyn FnMut(&str),
    ) -> Result<Collection, StoreError> {
        self.writable()?;
        self.indexed()?;
        let _alone = lock_alone(&self.layout().collection_lock(), on_wait)?;
        let census = Census::take(self, stages_of)?;
        let collection = self.plan_collection(&census, limits, stages_of)?;
        self.clear(&census, &collection, limits, stages_of)?;
        Ok(collection)
    }

    fn plan_collection(
        &self,
        census: &Census,
        limits: &Limits,
        stages_of: StagesOf<'_>,
    ) -> Result<Collection, StoreError> {
        let mut sources = kept_sources(census, &census.history, &census.pins, limits.keep_runs, stages_of);
        let kept = sources.len();
        sources.extend(other_sources(census, stages_of));
        let reliances = &census.history.reliances;
        let mut reach = Reach::new(census);
        for (index, source) in sources[..kept].iter_mut().enumerate() {
            reach.from(index, std::mem::take(&mut source.nodes), reliances);
        }
        let working = reach.actions(reliances);
        for (index, source) in sources.iter_mut().enumerate().skip(kept) {
            reach.from(index, std::mem::take(&mut source.nodes), reliances);
        }

        let now = SystemTime::now();
        let old = |time: SystemTime| match limits.older_than {
            Some(age) => now.duration_since(time).is_ok_and(|passed| passed > age),
            None => limits.max_size.is_none(),
        };
        let mut collection = Collection::default();
        self.plan_sweeps(&mut collection, census, &working, |time| limits.older_than.is_none() || old(time))?;

        let all: u64 = census.objects.values().map(|found| found.length).sum();
        let work: u64 = files_in(&self.layout().works())?.iter().filter_map(found).map(|found| found.length).sum();
        collection.stays = all + (work - collection.work.bytes.min(work)) + index_size(self.layout().index());

        // From the least recently used. A list goes before what it lists, so that none ever lists what is gone.
        let mut order: Vec<(Reverse<usize>, bool, Node)> = Vec::new();
        for (at, source) in reach.records.iter().enumerate() {
            if let Some(source) = source.filter(|source| *source >= kept) {
                order.push((Reverse(source), !census.records[at].is_list(), Node::Record(at)));
            }
        }
        let unnamed = |digest: &&Digest| !census.naming.contains_key(*digest);
        for digest in census.objects.keys().filter(unnamed) {
            if let Some(source) = reach.objects.get(digest).filter(|source| **source >= kept) {
                order.push((Reverse(*source), true, Node::Object(*digest)));
            }
        }
        order.sort_unstable_by_key(|(source, second, _)| (*source, *second));
        let mut named: HashMap<Digest, usize> =
            census.naming.iter().map(|(digest, naming)| (*digest, naming.len())).collect();
        for (Reverse(source), _, node) in order {
            let (source, fits) = (&sources[source], limits.max_size.is_none_or(|most| collection.stays <= most));
            if !fits || old(source.last_use) {
                collection.add(census, node, &source.pipeline, &mut named);
            }
        }
        collection.too_large = limits.max_size.is_some_and(|most| collection.stays > most);
        Ok(collection)
    }

    /// What lies about beside objects.
    fn plan_sweeps(
        &self,
        collection: &mut Collection,
        census: &Census,
        working: &HashSet<Key>,
        old: impl Fn(SystemTime) -> bool,
    ) -> Result<(), StoreError> {
        let young = youngest_to_go(&census.history).unwrap_or_else(|| SystemTime::now() - GRAIN);
        let sweep = |entry: &DirEntry, part: &mut Part, paths: &mut Vec<PathBuf>, spared: bool| {
            if let Some(found) = found(entry).filter(|found| !spared && old(found.modified)) {
                part.add(&Part { count: 1, bytes: found.length, seconds: 0.0 });
                paths.push(entry.path());
            }
        };
        let used = |entry: &DirEntry| found(entry).is_none_or(|found| found.modified >= young);
        for entry in files_in(&self.layout().quarantine())? {
            sweep(&entry, &mut collection.quarantine, &mut collection.paths, false);
        }
        for entry in files_in(&self.layout().temporary())? {
            sweep(&entry, &mut collection.temporary, &mut collection.paths, used(&entry));
        }
        for entry in files_in(&self.layout().works())? {
            let rooted = key_of(&entry.path()).is_some_and(|key| working.contains(&key));
            let live = !census.history.live.is_empty() && used(&entry);
            sweep(&entry, &mut collection.work, &mut collection.works, rooted || live);
        }
        Ok(())
    }

    /// Removes what was planned, except what somebody has come to rely on since.
    fn clear(
        &self,
        census: &Census,
        planned: &Collection,
        limits: &Limits,
        stages_of: StagesOf<'_>,
    ) -> Result<(), StoreError> {
        let trash = self.temporary_path();
        step("gc.trash", || fs::create_dir(&trash)).map_err(StoreError::write(&trash))?;
        let away = |path: &Path, to: &Path| match step("gc.away", || fs::rename(path, to)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(StoreError::write(path)),
        };
        let gate = self.gate_alone()?;
        let pins = self.pins()?;
        // In the order of the table.
        let mut records = planned.records.clone();
        records.sort_unstable();
        let (free, history) = self.with_index(|index| {
            // Digests and keys lie anywhere in their trees, which are a tenth of a large index: without room for these each row costs pages
            // that are read and written anew.
            index.pragma_update(None, "cache_size", -CACHE)?;
            let transaction = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let history = History::read(&transaction, self.layout())?;
            let mut reach = Reach::new(census);
            for source in kept_sources(census, &history, &pins, limits.keep_runs, stages_of) {
                reach.from(0, source.nodes, &history.reliances);
            }
            // A stage that was recorded since lists what it relied on, even if its run is over already.
            reach.from(0, census.stages_since(&transaction)?, &history.reliances);
            for at in records.iter().filter(|at| reach.records[**at].is_none()) {
                remove_row(&transaction, census.records[*at].id)?;
            }
            drop_reliances(&transaction, history.kept(limits.keep_runs).iter().map(|run| run.id))?;
            let mut free = Vec::new();
            {
                let mut named = transaction.prepare_cached("SELECT 1 FROM named WHERE digest = ?1")?;
                for digest in planned.objects.iter().filter(|digest| !reach.objects.contains_key(digest)) {
                    if !named.exists([digest.as_bytes()])? {
                        free.push(*digest);
                    }
                }
            }
            // Before the transaction ends: who writes down that it relies on one of these from then on finds none.
            let working = reach.actions(&history.reliances);
            for path in planned.works.iter() {
                if let Some(key) = key_of(path).filter(|key| !working.contains(key)) {
                    // One that cannot be moved is only in the way.
                    let _ = away(path, &trash.join(format!("work-{key}")));
                }
            }
            index_step("gc.commit", || transaction.commit())?;
            free.sort_unstable();
            Ok((free, history))
        })?;
        let young = youngest_to_go(&history);
        // Folder by folder: one for all may be more than a file system can have in a folder.
        for free in free.chunk_by(|one, other| one.as_bytes()[0] == other.as_bytes()[0]) {
            let folder = trash.join(&free[0].to_string()[..2]);
            step("gc.trash", || fs::create_dir(&folder)).map_err(StoreError::write(&folder))?;
            for digest in free {
                let path = self.layout().object(digest);
                let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
                // Whoever stored it again since, or stores it for a run that goes on, is about to name it.
                let same = census.objects.get(digest).is_some_and(|found| found.modified == modified);
                if same && young.is_none_or(|young| modified < young) {
                    away(&path, &folder.join(digest.to_string()))?;
                }
            }
        }
        sweep_locks(self.layout());
        drop(gate);
        for path in planned.paths.iter().chain([&trash]) {
            // What somebody else removed, or what cannot be removed, is left at that.
            let _ = step("gc.unlink", || fs::remove_file(path).or_else(|_| fs::remove_dir_all(path)));
        }
        Ok(())
    }
}

impl Reach<'_> {
    /// The actions of the stages that were reached, whether they were carried out or not.
    fn actions(&self, reliances: &crate::live::Reliances) -> HashSet<Key> {
        self.stages().filter_map(|stage| reliances.of_stage.get(stage)).flatten().copied().collect()
    }
}

/// Of which age on nothing goes: whatever a live run makes is young.
fn youngest_to_go(history: &History) -> Option<SystemTime> {
    history.live.iter().map(|live| live.since).min().map(|since| since - GRAIN)
}

fn key_of(path: &Path) -> Option<Key> {
    path.file_name()?.to_str()?.parse().ok()
}

fn index_size(path: PathBuf) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The journal knows whole seconds: it is the end of that second, so that nothing that a run made is later.
fn end_of(run: &Run) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(run.finished.unwrap_or(run.started).saturating_add(1))
}

/// What is a root for as long as it is one: runs, pins, and what live runs made that nothing leads to yet.
fn kept_sources(
    census: &Census,
    history: &History,
    pins: &[Pin],
    keep_runs: usize,
    stages_of: StagesOf<'_>,
) -> Vec<Source> {
    let runs = history.kept(keep_runs).into_iter().map(|run| of_run(run, history, stages_of));
    let pins = pins.iter().map(|pin| Source {
        pipeline: pin.pipeline.clone(),
        last_use: SystemTime::now(),
        nodes: nodes_of(&pin.stages, None, &history.reliances),
    });
    let young = youngest_to_go(history).map(|young| {
        let made = |digest: &&Digest| census.objects.get(*digest).is_some_and(|found| found.modified >= young);
        let nodes = census.objects.keys().filter(made).map(|digest| Node::Object(*digest)).collect();
        Source { pipeline: String::new(), last_use: SystemTime::now(), nodes }
    });
    runs.chain(pins).chain(young).collect()
}

fn of_run(run: &Run, history: &History, stages_of: StagesOf<'_>) -> Source {
    Source {
        pipeline: run.pipeline.clone(),
        last_use: end_of(run),
        nodes: nodes_of(&stages_of(run), Some(run.id), &history.reliances),
    }
}

/// Every other use of anything, the latest first: by a run, or else the making of it.
fn other_sources(census: &Census, stages_of: StagesOf<'_>) -> Vec<Source> {
    let history = &census.history;
    let mut sources: Vec<Source> = history.runs.iter().map(|run| of_run(run, history, stages_of)).collect();
    let modified = |digest: &Digest| census.objects.get(digest).map(|found| found.modified);
    let plain = |last_use, node| Source { pipeline: String::new(), last_use, nodes: vec![node] };
    for (at, entry) in census.records.iter().enumerate() {
        let made = entry.outputs().iter().filter_map(|output| modified(&output.digest)).max();
        sources.push(plain(made.unwrap_or(SystemTime::UNIX_EPOCH), Node::Record(at)));
    }
    sources.extend(census.objects.iter().map(|(digest, found)| plain(found.modified, Node::Object(*digest))));
    // At the same time a run comes first: it says whose it is.
    sources.sort_by_key(|source| (Reverse(source.last_use), source.pipeline.is_empty()));
    sources
}
