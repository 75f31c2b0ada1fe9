//! Looks at everything in a store, byte by byte, and mends what is wrong with it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rusqlite::{Connection, TransactionBehavior, params};

use crate::census::{Census, Entry, StagesOf, files_in, found};
use crate::files::step;
use crate::gc::Part;
use crate::index::is_damage;
use crate::pin::{pin_files, read};
use crate::record::{name_all, remove_row};
use crate::seal::unseal;
use crate::store::lock;
use crate::{Digest, Fault, Preimage, Store, StoreError};

/// What was found by looking at everything.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many objects there are.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many records there are.
    pub records: usize,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// The labels of actions that the next run carries out again, if it needs them, once [`Store::repair`] has mended
    /// the faults; with the seconds that they took.
    pub again: Vec<(String, f64)>,
    /// Files that were left half written, and their bytes: nothing wrong, and a collection removes them.
    pub left_over: Part,
    /// The rows of the records to drop.
    drop: Vec<i64>,
}

/// Hears how many bytes of how many were read.
pub type Reading<'f> = &'f (dyn Fn(u64, u64) + Sync);

impl Store {
    /// Reads all objects, on all cores, and looks at every row. Changes nothing.
    ///
    /// # Errors
    /// A store that cannot be read. Damage is no error.
    pub fn verify(&self, stages_of: StagesOf<'_>, reading: Reading<'_>) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        for path in pin_files(&self.layout().pins())? {
            if read(&path).is_err() {
                verified.faults.push(Fault::Pin { path });
            }
        }
        if let Some(reason) = self.index_damage()? {
            // Nothing that such an index says can be relied on.
            verified.faults.push(Fault::Index { reason });
            return Ok(verified);
        }
        // A pin that cannot be read keeps nothing from being looked at.
        let pins = self.pins().unwrap_or_default();
        let census = Census::take_with(self, stages_of, pins)?;
        verified.records = census.records.len();
        let rows = self.with_index(|index| rows(index, &census))?;
        if self.indexed().is_err() {
            // It came out only now, and a reader has gone on with an empty index.
            verified.faults.push(Fault::Index { reason: "its rows are of other types than its columns".to_owned() });
            return Ok(verified);
        }
        verified.faults.extend(rows);

        let bad = self.read_all(&census, &mut verified, reading)?;
        verified.faults.extend(census.strays.iter().map(|path| Fault::Stray { path: path.clone() }));

        if census.history.live.is_empty() {
            for found in files_in(&self.layout().temporary())?.iter().filter_map(found) {
                verified.left_over.add(&Part { count: 1, bytes: found.length, seconds: 0.0 });
            }
        }
        // Whatever promises a bad object, directly or in a list, goes.
        let wrong: HashSet<i64> = verified.faults.iter().filter_map(Fault::record).collect();
        for entry in &census.records {
            let listed = entry
                .outputs()
                .iter()
                .filter(|_| entry.is_list())
                .flat_map(|output| census.lists.get(&output.digest).into_iter().flatten());
            let promises = entry.outputs().iter().chain(listed).any(|output| bad.contains(&output.digest));
            if promises || wrong.contains(&entry.id) {
                verified.drop.push(entry.id);
                if !entry.is_list() {
                    verified.again.push((entry.label.clone(), entry.seconds));
                }
            }
        }
        Ok(verified)
    }

    /// Mends what [`Store::verify`] found: damaged files go to quarantine, and the records that promise them are dropped,
    /// so that the next run makes just that again.
    ///
    /// # Errors
    /// A store that cannot be written, or that was opened for reading.
    pub fn repair(&self, verified: &Verified) -> Result<(), StoreError> {
        self.writable()?;
        let aside = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let target = self.layout().quarantine_path(&name)?;
            match step("quarantine.rename", || fs::rename(path, target)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                result => result.map_err(StoreError::write(path)),
            }
        };
        for fault in &verified.faults {
            match fault {
                Fault::Damaged { digest, .. } => self.quarantine(digest)?,
                Fault::Pin { path } | Fault::Stray { path } => aside(path)?,
                // Opening the store to write may have healed it already.
                Fault::Index { .. } if self.index_damage()?.is_some() => self.abandon_index()?,
                _ => {}
            }
        }
        self.with_index(|index| {
            let transaction = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for id in &verified.drop {
                remove_row(&transaction, *id)?;
            }
            for fault in &verified.faults {
                match fault {
                    Fault::Names { .. } => name_all(&transaction)?,
                    Fault::Files { .. } => forget_files(&transaction)?,
                    Fault::Runs { runs } => {
                        let mut delete = transaction.prepare_cached("DELETE FROM runs WHERE id = ?1")?;
                        runs.iter().try_for_each(|id| delete.execute([id]).map(drop))?;
                    }
                    _ => {}
                }
            }
            transaction.commit()
        })
    }

    /// What is wrong with the index as a database, on one line.
    fn index_damage(&self) -> Result<Option<String>, StoreError> {
        if self.indexed().is_err() {
            return Ok(Some("it is missing, or no database".to_owned()));
        }
        // Damage is told here and not healed on the way.
        let check = "PRAGMA integrity_check(1)";
        let found = self.with_index(|index| match index.query_row(check, [], |row| row.get::<_, String>(0)) {
            Err(error) if is_damage(&error) => Ok(error.to_string()),
            result => result,
        })?;
        Ok((found != "ok").then(|| found.lines().next().unwrap_or_default().to_owned()))
    }

    /// Hashes every object. Gives those that cannot be relied on.
    fn read_all(
        &self,
        census: &Census,
        verified: &mut Verified,
        reading: Reading<'_>,
    ) -> Result<HashSet<Digest>, StoreError> {
        let mut bad = HashSet::new();
        let mut queue: Vec<(&Digest, u64)> =
            census.objects.iter().map(|(digest, found)| (digest, found.length)).collect();
        // The longest first, so that no core is left alone with one at the end.
        queue.sort_unstable_by_key(|(digest, length)| (std::cmp::Reverse(*length), **digest));
        verified.objects = queue.len();
        verified.bytes = queue.iter().map(|(_, length)| length).sum();
        let (next, done) = (AtomicUsize::new(0), Mutex::new((0, Vec::new(), None)));
        let work = || {
            while let Some((digest, length)) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                let path = self.layout().object(digest);
                let found = File::open(&path).and_then(Digest::of_reader);
                let mut done = lock(&done);
                match found {
                    Ok((found, _)) if found == **digest => {}
                    Ok(_) => done.1.push(**digest),
                    // Collected, or moved to quarantine by a run, a moment ago: what that leaves is looked at below.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(reason) if reason.kind() == std::io::ErrorKind::PermissionDenied => {
                        done.2.get_or_insert(StoreError::Read { path, reason });
                    }
                    // What the disk does not give back is as good as damaged.
                    Err(_) => done.1.push(**digest),
                }
                done.0 += length;
                reading(done.0, verified.bytes);
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let (_, mut damaged, failed) = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(error) = failed {
            return Err(error);
        }
        damaged.sort_unstable();
        for digest in damaged {
            verified.faults.push(Fault::Damaged { digest, of: purpose(census, &digest) });
            bad.insert(digest);
        }
        let listed = census.records.iter().filter(|entry| entry.is_list()).flat_map(Entry::outputs);
        let listed = listed.filter_map(|output| census.lists.get(&output.digest)).flatten();
        let mut promised: Vec<_> = census.records.iter().flat_map(Entry::outputs).chain(listed).collect();
        promised.sort_by_key(|output| output.digest);
        for output in promised {
            let digest = output.digest;
            if bad.contains(&digest) {
                continue;
            }
            let of = || purpose(census, &digest);
            let Ok(metadata) = fs::metadata(self.layout().object(&digest)) else {
                verified.faults.push(Fault::Missing { digest, of: of() });
                bad.insert(digest);
                continue;
            };
            let is_list = output.role != crate::census::LIST || census.lists.contains_key(&digest);
            if metadata.len() != output.length || !is_list {
                verified.faults.push(Fault::Unfit { digest, of: of() });
                bad.insert(digest);
            }
        }
        Ok(bad)
    }
}

/// What an object is for: its role and item as a record says it, with the record's label where there is no item.
fn purpose(census: &Census, digest: &Digest) -> String {
    let named = census.naming.get(digest).and_then(|naming| census.records.get(*naming.first()?));
    let Some(entry) = named else {
        let listed = census.lists.values().flatten().find(|output| output.digest == *digest);
        return listed.map_or("needed by nothing".to_owned(), |output| format!("{} of {}", output.role, output.item));
    };
    let output = entry.outputs().iter().find(|output| output.digest == *digest);
    let role = output.map_or("", |output| &output.role);
    let item = output.map(|output| output.item.as_str()).filter(|item| !item.is_empty()).unwrap_or(&entry.label);
    format!("{role} of {item}")
}

/// What is wrong with the rows of a sound database.
fn rows(index: &Connection, census: &Census) -> rusqlite::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let mut statement = index.prepare("SELECT preimage FROM records WHERE id = ?1")?;
    for entry in &census.records {
        let matches = |text: &str| Preimage::from_json(text).is_ok_and(|preimage| preimage.key() == entry.key);
        let row: Option<bool> = {
            let mut rows = statement.query([entry.id])?;
            rows.next()?.map(|row| Ok::<_, rusqlite::Error>(row.get_ref(0)?.as_str().is_ok_and(matches))).transpose()?
        };
        // One that has been collected or replaced meanwhile is no fault.
        if row.is_some_and(|matches| !matches || entry.outputs.is_none()) {
            faults.push(Fault::Record { id: entry.id, label: entry.label.clone() });
        }
    }
    let count = wrong_names(index, census)?;
    if count > 0 {
        faults.push(Fault::Names { count });
    }
    let files = damaged_files(index)?;
    if !files.is_empty() {
        faults.push(Fault::Files { count: files.len() });
    }
    let mut statement = index.prepare("SELECT id FROM runs WHERE NOT json_valid(document)")?;
    let runs: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if !runs.is_empty() {
        faults.push(Fault::Runs { runs });
    }
    Ok(faults)
}

/// Rows of `named` that are of no record's outputs, and outputs without a row.
fn wrong_names(index: &Connection, census: &Census) -> rusqlite::Result<usize> {
    let mut expected: HashSet<(Digest, i64)> = HashSet::new();
    let mut known: HashMap<i64, &Entry> = HashMap::new();
    for entry in &census.records {
        known.insert(entry.id, entry);
        expected.extend(entry.outputs().iter().map(|output| (output.digest, entry.id)));
    }
    let newest = census.records.last().map_or(0, |entry| entry.id);
    let mut wrong = 0;
    let mut statement = index.prepare("SELECT digest, record FROM named")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (digest, id) = (Digest::from_bytes(row.get(0)?), row.get(1)?);
        // What was published since is not looked at; and of a damaged record it is not known.
        let unknown = id > newest || known.get(&id).is_some_and(|entry| entry.outputs.is_none());
        wrong += usize::from(!expected.remove(&(digest, id)) && !unknown);
    }
    let mut there = index.prepare("SELECT 1 FROM records WHERE id = ?1")?;
    for (_, id) in expected {
        wrong += usize::from(there.exists([id])?);
    }
    Ok(wrong)
}

/// The rows of `files` whose checksum is wrong.
fn damaged_files(index: &Connection) -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
    let mut statement = index.prepare("SELECT aspect, path, entry FROM files")?;
    let mut rows = statement.query([])?;
    let mut damaged = Vec::new();
    while let Some(row) = rows.next()? {
        let (aspect, path): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if unseal(&[aspect.as_bytes(), &path], row.get_ref(2)?.as_blob()?).is_none() {
            damaged.push((aspect, path));
        }
    }
    Ok(damaged)
}

fn forget_files(transaction: &Connection) -> rusqlite::Result<()> {
    for (aspect, path) in damaged_files(transaction)? {
        transaction.execute("DELETE FROM files WHERE aspect = ?1 AND path = ?2", params![aspect, path])?;
    }
    Ok(())
}
