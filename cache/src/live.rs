//! Live runs: what they rely on, and the gate between them and who clears the store up.
//!
//! # Clearing up beside runs
//!
//! A run holds a lock file of its own from its beginning to its end, so that a killed one does not count as live. Before
//! it looks up a stage's actions it writes their keys down, in one row: a collection either sees that row and leaves
//! them, or has dropped its records before the look-up, which then finds none. An object that is stored again gets a new
//! time of modification, under the gate held shared; the collection moves objects away under the gate held exclusively,
//! and none that is younger than the oldest live run.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::files::step;
use crate::layout::Layout;
use crate::lock::open_lock_file;
use crate::seal::{seal, unseal};
use crate::store::lock;
use crate::{Key, Store, StoreError};

/// The names of the lock files of runs: this and the run's number.
const PREFIX: &str = "run-";

/// A run that this process carries out, or that another one is found to carry out.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) run: u64,
    /// When it began, by the clock of the file system, which objects go by too.
    pub(crate) since: SystemTime,
}

/// What runs wrote down before they looked it up: by run and stage, the keys of the stage's actions.
#[derive(Debug, Default)]
pub(crate) struct Reliances {
    pub(crate) of_run: HashMap<u64, Vec<Key>>,
    pub(crate) of_stage: HashMap<Key, Vec<Key>>,
}

impl Store {
    /// Writes down that the run which began last in this store relies on a stage and on the actions that it is made of:
    /// from here on no collection takes away what is found of them. Look them up after this. Without a run that is under
    /// way, or in a store that was opened for reading, nothing is written.
    ///
    /// # Errors
    /// An index that cannot be written.
    pub fn rely(&self, stage: &Key, actions: &[Key]) -> Result<(), StoreError> {
        let Some(run) = lock(&self.live).last().map(|(run, _)| *run) else { return Ok(()) };
        let run = i64::try_from(run).unwrap_or(i64::MAX);
        let keys: Vec<u8> = actions.iter().flat_map(|key| *key.as_bytes()).collect();
        // A stage that is found whole after it was made says nothing new of its actions.
        let insert = match actions {
            [] => "INSERT OR IGNORE INTO reliances VALUES (?1, ?2, ?3)",
            _ => "INSERT OR REPLACE INTO reliances VALUES (?1, ?2, ?3)",
        };
        self.with_index(|index| {
            let transaction = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // What another run has written down of the stage holds for this one too: many that make a share each list a million once.
            let listed = !keys.is_empty() && is_listed(&transaction, stage, &keys)?;
            let keys = if listed { Vec::new() } else { keys.clone() };
            let sealed = seal(&[&run.to_le_bytes(), stage.as_bytes()], keys);
            transaction.prepare_cached(insert)?.execute(params![run, stage.as_bytes(), sealed])?;
            transaction.commit()
        })
    }

    /// Marks a run as live until [`Store::end_live`], or until this store or its process is gone. Under the gate.
    pub(crate) fn begin_live(&self, run: u64) -> Result<(), StoreError> {
        let path = self.layout().run_lock(run);
        let file = open_lock_file(&path)?;
        // An index that was lost numbers its runs anew; an older run may still hold this number's file.
        if file.try_lock().is_ok() {
            // What a killed run left keeps its time else.
            file.set_modified(SystemTime::now()).map_err(StoreError::lock(&path))?;
        }
        lock(&self.live).push((run, file));
        Ok(())
    }

    pub(crate) fn end_live(&self, run: u64) {
        let mut live = lock(&self.live);
        if live.iter().any(|(other, _)| *other == run) {
            // While it is locked. One that stays does no harm.
            let _ = fs::remove_file(self.layout().run_lock(run));
            live.retain(|(other, _)| *other != run);
        }
    }

    /// The gate, held together with all others who store objects.
    pub(crate) fn gate(&self) -> Result<File, StoreError> {
        let path = self.layout().gate_lock();
        let gate = open_lock_file(&path)?;
        gate.lock_shared().map_err(StoreError::lock(&path))?;
        Ok(gate)
    }

    /// The gate, held by nobody else.
    pub(crate) fn gate_alone(&self) -> Result<File, StoreError> {
        let path = self.layout().gate_lock();
        let gate = open_lock_file(&path)?;
        gate.lock().map_err(StoreError::lock(&path))?;
        Ok(gate)
    }
}

/// The runs that somebody is carrying out. What cannot be looked at counts as live.
pub(crate) fn live_runs(layout: &Layout) -> Vec<Live> {
    let mut live = Vec::new();
    for entry in fs::read_dir(layout.locks()).into_iter().flatten().flatten() {
        let Some(run) = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok()) else {
            continue;
        };
        let Ok(file) = File::open(entry.path()) else { continue };
        // Shared, so that two who look do not take each other for a run.
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            continue;
        }
        let since = file.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        live.push(Live { run, since });
    }
    live
}

/// Removes the lock files of runs that were killed. Only for who holds the gate, or the store, alone: nobody is about to
/// lock one.
pub(crate) fn sweep_locks(layout: &Layout) {
    for entry in fs::read_dir(layout.locks()).into_iter().flatten().flatten() {
        let of_run = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if of_run && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = step("sweep.remove", || fs::remove_file(entry.path()));
        }
    }
}

impl Layout {
    fn run_lock(&self, run: u64) -> std::path::PathBuf {
        self.locks().join(format!("{PREFIX}{run}"))
    }
}

impl Reliances {
    /// All that is written down; nothing from a store that an older program made and nobody wrote to since.
    pub(crate) fn read(index: &Connection) -> rusqlite::Result<Reliances> {
        let there = "SELECT 1 FROM sqlite_master WHERE name = 'reliances'";
        let mut found = Reliances::default();
        if index.query_row(there, [], |_| Ok(())).optional()?.is_none() {
            return Ok(found);
        }
        let mut statement = index.prepare_cached("SELECT run, stage, actions FROM reliances")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // A damaged row protects nothing; what it was for is made again if it comes to that.
            let Some((run, stage, actions)) = parse(row) else { continue };
            found.of_run.entry(run).or_default().push(stage);
            found.of_stage.entry(stage).or_default().extend(actions);
        }
        Ok(found)
    }
}

/// Whether a run has written down a stage with just these actions.
fn is_listed(index: &Connection, stage: &Key, keys: &[u8]) -> rusqlite::Result<bool> {
    let mut statement = index.prepare_cached("SELECT run, actions FROM reliances WHERE stage = ?1")?;
    let mut rows = statement.query([stage.as_bytes()])?;
    while let Some(row) = rows.next()? {
        let (run, sealed): (i64, _) = (row.get(0)?, row.get_ref(1)?.as_blob()?);
        if unseal(&[&run.to_le_bytes(), stage.as_bytes()], sealed) == Some(keys) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn parse(row: &Row<'_>) -> Option<(u64, Key, Vec<Key>)> {
    let run: i64 = row.get(0).ok()?;
    let stage = Key::from_bytes(row.get(1).ok()?);
    let sealed = row.get_ref(2).ok()?.as_blob().ok()?;
    let (keys, []) = unseal(&[&run.to_le_bytes(), stage.as_bytes()], sealed)?.as_chunks::<32>() else { return None };
    Some((run.unsigned_abs(), stage, keys.iter().map(|key| Key::from_bytes(*key)).collect()))
}

/// Drops what runs wrote down that are not in `kept`, unless the stage has a record still, or one that is kept relies on it too.
pub(crate) fn drop_reliances(index: &Connection, kept: impl Iterator<Item = u64>) -> rusqlite::Result<()> {
    let kept = kept.map(|run| run.to_string()).collect::<Vec<_>>().join(",");
    let delete = format!(
        "DELETE FROM reliances WHERE run NOT IN ({kept}) AND stage NOT IN (SELECT key FROM records)
            AND stage NOT IN (SELECT stage FROM reliances WHERE run IN ({kept}))"
    );
    index.execute(&delete, []).map(drop)
}
