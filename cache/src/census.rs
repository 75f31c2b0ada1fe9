//! All that a store holds, and what leads to what: runs to stages, stages to the objects that they list, objects to the
//! records that name them, and those to all of their objects.

use std::collections::{HashMap, HashSet, hash_map};
use std::fs::{self, DirEntry};
use std::time::SystemTime;

use rusqlite::Connection;
use serde::Deserialize;

use crate::layout::Layout;
use crate::live::{Live, Reliances, live_runs};
use crate::record::decode;
use crate::runs::runs_in;
use crate::seal::unseal;
use crate::{Digest, Key, Output, Pin, Run, RunStage, Store, StoreError};

/// The role of the output in which a stage lists what it made: an object like this in JSON, which other programs than
/// this crate write. What is listed is as little to be missed as the list.
pub(crate) const LIST: &str = "artifact";

#[derive(Deserialize)]
struct List {
    entries: Vec<Output>,
}

/// Tells what stages a run had, from the document that it wrote down.
pub type StagesOf<'f> = &'f dyn Fn(&Run) -> Vec<RunStage>;

/// A record, as far as who looks after the store must know it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) key: Key,
    pub(crate) label: String,
    pub(crate) seconds: f64,
    /// Nothing if the row is damaged.
    pub(crate) outputs: Option<Vec<Output>>,
}

impl Entry {
    pub(crate) fn outputs(&self) -> &[Output] {
        self.outputs.as_deref().unwrap_or_default()
    }

    /// Whether it is a stage's, and lists what other records made.
    pub(crate) fn is_list(&self) -> bool {
        self.outputs().iter().any(|output| output.role == LIST)
    }
}

/// A file of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) length: u64,
    pub(crate) modified: SystemTime,
}

/// What a store held when it was looked at.
pub(crate) struct Census {
    pub(crate) records: Vec<Entry>,
    pub(crate) by_key: HashMap<Key, usize>,
    /// The records that name an object.
    pub(crate) naming: HashMap<Digest, Vec<usize>>,
    pub(crate) objects: HashMap<Digest, Found>,
    /// Files among the objects that are none.
    pub(crate) strays: Vec<std::path::PathBuf>,
    /// What the lists of stages list, by their digest. One that is damaged or missing is not in here.
    pub(crate) lists: HashMap<Digest, Vec<Output>>,
    pub(crate) history: History,
    pub(crate) pins: Vec<Pin>,
}

/// What changes while a store is looked at: runs begin and end.
pub(crate) struct History {
    /// Newest first.
    pub(crate) runs: Vec<Run>,
    pub(crate) reliances: Reliances,
    pub(crate) live: Vec<Live>,
}

impl History {
    pub(crate) fn read(index: &Connection, layout: &Layout) -> rusqlite::Result<History> {
        // Who begins in between is seen as live without a row, or as a row that is not live yet: either is found again
        // by the look that decides, which nobody can begin beside.
        let live = live_runs(layout);
        Ok(History { runs: runs_in(index, usize::MAX)?, reliances: Reliances::read(index)?, live })
    }

    pub(crate) fn is_live(&self, run: u64) -> bool {
        self.live.iter().any(|live| live.run == run)
    }

    /// The runs that are kept: live ones, and the newest of each pipeline.
    pub(crate) fn kept(&self, newest: usize) -> Vec<&Run> {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut kept = Vec::new();
        for run in &self.runs {
            let seen = seen.entry(&run.pipeline).or_default();
            *seen += 1;
            if *seen <= newest || self.is_live(run.id) {
                kept.push(run);
            }
        }
        kept
    }
}

impl Census {
    pub(crate) fn take(store: &Store, stages_of: StagesOf<'_>) -> Result<Census, StoreError> {
        Census::take_with(store, stages_of, store.pins()?)
    }

    pub(crate) fn take_with(store: &Store, stages_of: StagesOf<'_>, pins: Vec<Pin>) -> Result<Census, StoreError> {
        let (records, history) =
            store.with_index(|index| Ok((entries(index)?, History::read(index, store.layout())?)))?;
        let (objects, strays) = objects(store.layout())?;
        let mut census = Census {
            by_key: records.iter().enumerate().map(|(at, entry)| (entry.key, at)).collect(),
            naming: HashMap::with_capacity(objects.len()),
            records,
            objects,
            strays,
            lists: HashMap::new(),
            history,
            pins,
        };
        for (at, entry) in census.records.iter().enumerate() {
            for output in entry.outputs() {
                census.naming.entry(output.digest).or_default().push(at);
            }
        }
        let of_records = census.records.iter().flat_map(Entry::outputs).filter(|output| output.role == LIST);
        let of_runs = census.history.runs.iter().flat_map(stages_of);
        let of_pins = census.pins.iter().flat_map(|pin| pin.stages.iter().cloned());
        let results = of_runs.chain(of_pins).filter_map(|stage| stage.result);
        let lists: HashSet<Digest> = of_records.map(|output| output.digest).chain(results).collect();
        census.lists = lists.into_iter().filter_map(|digest| Some((digest, list(store.layout(), &digest)?))).collect();
        Ok(census)
    }

    /// The stages among the records that were published since.
    pub(crate) fn stages_since(&self, index: &Connection) -> rusqlite::Result<Vec<Node>> {
        let last = self.records.last().map_or(0, |entry| entry.id);
        let mut statement = index.prepare_cached("SELECT key FROM records WHERE id > ?1")?;
        statement.query_map([last], |row| Ok(Node::Stage(Key::from_bytes(row.get(0)?))))?.collect()
    }

    pub(crate) fn length(&self, digest: &Digest) -> u64 {
        self.objects.get(digest).map_or(0, |found| found.length)
    }
}

fn entries(index: &Connection) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = index.prepare_cached("SELECT id, key, label, seconds, outputs FROM records ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let key = Key::from_bytes(row.get(1)?);
        let outputs = unseal(&[key.as_bytes()], row.get_ref(4)?.as_blob()?).and_then(decode);
        entries.push(Entry { id: row.get(0)?, key, label: row.get(2)?, seconds: row.get(3)?, outputs });
    }
    Ok(entries)
}

/// Every object, and what lies among them and is none.
fn objects(layout: &Layout) -> Result<(HashMap<Digest, Found>, Vec<std::path::PathBuf>), StoreError> {
    let (mut objects, mut strays) = (HashMap::new(), Vec::new());
    for shard in files_in(&layout.objects())? {
        let name = shard.file_name();
        let Some(prefix) = name.to_str().filter(|name| name.len() == 2 && shard.path().is_dir()) else {
            strays.push(shard.path());
            continue;
        };
        for entry in files_in(&shard.path())? {
            let digest = entry.file_name().to_str().and_then(|rest| format!("{prefix}{rest}").parse::<Digest>().ok());
            match (digest, found(&entry)) {
                (Some(digest), Some(found)) if layout.object(&digest) == entry.path() => {
                    objects.insert(digest, found);
                }
                // It was there a moment ago: somebody moved it to quarantine.
                (Some(_), None) => {}
                _ => strays.push(entry.path()),
            }
        }
    }
    Ok((objects, strays))
}

/// The entries of a folder; none if there is none.
pub(crate) fn files_in(folder: &std::path::Path) -> Result<Vec<DirEntry>, StoreError> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect).map_err(StoreError::read(folder)),
    }
}

/// A file's length and age, or those of the files in a folder together, with the youngest's age.
pub(crate) fn found(entry: &DirEntry) -> Option<Found> {
    let metadata = entry.metadata().ok()?;
    let modified = metadata.modified().ok()?;
    if !metadata.is_dir() {
        return Some(Found { length: metadata.len(), modified });
    }
    let mut sum = Found { length: 0, modified };
    for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
        if let Some(found) = found(&inner) {
            sum = Found { length: sum.length + found.length, modified: sum.modified.max(found.modified) };
        }
    }
    Some(sum)
}

/// What an object lists, if it is whole and a list.
fn list(layout: &Layout, digest: &Digest) -> Option<Vec<Output>> {
    let bytes = fs::read(layout.object(digest)).ok()?;
    let list: List = (Digest::of(&bytes) == *digest).then(|| serde_json::from_slice(&bytes).ok())??;
    Some(list.entries)
}

/// Something that leads to others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node {
    /// A stage, by its key: to its record, and to the actions that runs wrote down for it.
    Stage(Key),
    Record(usize),
    /// An object that lists others.
    List(Digest),
    /// An object: to the records that name it.
    Object(Digest),
}

/// What was reached, and from which of several sources first.
pub(crate) struct Reach<'c> {
    census: &'c Census,
    pub(crate) records: Vec<Option<usize>>,
    pub(crate) objects: HashMap<Digest, usize>,
    lists: HashSet<Digest>,
    stages: HashSet<Key>,
}

impl<'c> Reach<'c> {
    pub(crate) fn new(census: &'c Census) -> Reach<'c> {
        let records = vec![None; census.records.len()];
        let objects = HashMap::with_capacity(census.objects.len());
        Reach { census, records, objects, lists: HashSet::new(), stages: HashSet::new() }
    }

    /// The keys of the stages that were reached by them.
    pub(crate) fn stages(&self) -> impl Iterator<Item = &Key> {
        self.stages.iter()
    }

    /// Goes as far as `nodes` lead, to whatever was not reached before.
    pub(crate) fn from(&mut self, source: usize, mut nodes: Vec<Node>, reliances: &Reliances) {
        let census = self.census;
        while let Some(node) = nodes.pop() {
            match node {
                Node::Stage(key) => {
                    if self.stages.insert(key) {
                        let actions = reliances.of_stage.get(&key).into_iter().flatten().chain([&key]);
                        nodes.extend(actions.filter_map(|key| Some(Node::Record(*census.by_key.get(key)?))));
                    }
                }
                Node::Record(at) => {
                    if self.records[at].is_none() {
                        self.records[at] = Some(source);
                        nodes.extend(census.records[at].outputs().iter().map(|output| match output.role.as_str() {
                            LIST => Node::List(output.digest),
                            _ => Node::Object(output.digest),
                        }));
                    }
                }
                Node::List(digest) => {
                    if self.lists.insert(digest) {
                        let listed = census.lists.get(&digest).into_iter().flatten();
                        nodes.extend(listed.map(|output| Node::Object(output.digest)));
                    }
                    nodes.push(Node::Object(digest));
                }
                Node::Object(digest) => {
                    if let hash_map::Entry::Vacant(new) = self.objects.entry(digest) {
                        new.insert(source);
                        let naming = census.naming.get(&digest).into_iter().flatten();
                        nodes.extend(naming.map(|at| Node::Record(*at)));
                    }
                }
            }
        }
    }
}

/// What a run leads to.
pub(crate) fn nodes_of(stages: &[RunStage], run: Option<u64>, reliances: &Reliances) -> Vec<Node> {
    let relied = run.and_then(|run| reliances.of_run.get(&run)).into_iter().flatten();
    let results = stages.iter().filter_map(|stage| stage.result).map(Node::List);
    let keys = stages.iter().map(|stage| &stage.key).chain(relied);
    keys.map(|key| Node::Stage(*key)).chain(results).collect()
}
