//! Who makes what: processes on one store tell each other the keys that they are working on, so that no two make the same.
//!
//! Each has a file of its own below `locks/` that lists its keys, and keeps it locked for as long as it works on them. A
//! file that nobody has locked is that of a process that was killed, and counts for nothing. One lock for each key would
//! be simpler, but a process may have only so many files open, and a stage works on thousands of keys at once.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::files::step;
use crate::layout::Layout;
use crate::lock::{open_lock_file, sign};
use crate::network::is_network;
use crate::{Key, Store, StoreError};

/// What the names of the lists begin with.
const PREFIX: &str = "making-";

/// The sole right to work on some keys, among all processes and threads; given back when dropped, or when the process ends
/// in whichever way.
#[derive(Debug)]
pub struct Making {
    /// Those of the keys asked for that nobody else works on.
    pub keys: HashSet<Key>,
    /// Who works on the others, as in "process 4711: sd3pipe run lighthouses.ron".
    pub others: BTreeSet<String>,
    /// The list; none when it would be empty.
    list: Option<(PathBuf, File)>,
}

impl Store {
    /// Takes the right to work on those of the keys that nobody else works on, and tells who works on the others.
    ///
    /// Look up each key that was granted before working on it: another may have made its result just before. Never wait for
    /// others while holding this: they may be waiting too.
    ///
    /// # Errors
    /// A lock file that cannot be written or locked, or a store opened for reading.
    pub fn making(&self, wanted: impl IntoIterator<Item = Key>) -> Result<Making, StoreError> {
        self.writable()?;
        let mut making = Making { keys: wanted.into_iter().collect(), others: BTreeSet::new(), list: None };
        // Held only while lists are read and written, so that each is read whole.
        let lock_path = self.layout().making_lock();
        let lock = open_lock_file(&lock_path)?;
        lock.lock().map_err(StoreError::lock(&lock_path))?;
        for path in lists(&lock_path)? {
            let Some(text) = read_if_held(&path)? else { continue };
            let mut lines = text.lines();
            let holder = lines.next().unwrap_or_default();
            let before = making.keys.len();
            for key in lines.filter_map(|line| line.parse().ok()) {
                making.keys.remove(&key);
            }
            if making.keys.len() < before {
                making.others.insert(format!("process {holder}"));
            }
        }
        if !making.keys.is_empty() {
            let temporary = self.temporary_path();
            let name = temporary.file_name().unwrap_or_default().to_string_lossy();
            let path = lock_path.with_file_name(format!("{PREFIX}{name}"));
            let file = open_lock_file(&path)?;
            file.try_lock().map_err(|error| StoreError::Lock { path: path.clone(), reason: error.into() })?;
            let keys: String = making.keys.iter().map(|key| format!("{key}\n")).collect();
            sign(&file, &keys).map_err(StoreError::write(&path))?;
            if is_network(&path) {
                // Other machines see what a file holds that stays open only once it has been sent.
                file.sync_data().map_err(StoreError::write(&path))?;
            }
            making.list = Some((path, file));
        }
        Ok(making)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some((path, _locked)) = &self.list {
            // While it is locked. One that stays does no harm.
            let _ = step("lock.remove", || fs::remove_file(path));
        }
    }
}

/// Removes the lists of processes that were killed. Only for who is alone in the store.
pub(crate) fn sweep_lists(layout: &Layout) {
    for path in lists(&layout.making_lock()).unwrap_or_default() {
        let _ = step("sweep.remove", || fs::remove_file(path));
    }
}

/// Every process's list: they lie beside the lock.
fn lists(lock_path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let folder = lock_path.parent().unwrap_or(lock_path);
    let entries = fs::read_dir(folder).map_err(StoreError::read(folder))?;
    let ours = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(PREFIX).then(|| entry.path());
    Ok(entries.filter_map(Result::ok).filter_map(ours).collect())
}

/// A list, if the process that wrote it is still at it; else it is removed. Only for who holds the lock on all lists.
fn read_if_held(path: &Path) -> Result<Option<String>, StoreError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Its owner was done since the folder was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(reason) => return Err(StoreError::Read { path: path.to_owned(), reason }),
    };
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = fs::remove_file(path);
            Ok(None)
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(StoreError::read(path))?;
            Ok(Some(text))
        }
        Err(TryLockError::Error(reason)) => Err(StoreError::Lock { path: path.to_owned(), reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preimage;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn keys(numbers: std::ops::Range<u32>) -> Vec<Key> {
        numbers.map(|number| Preimage::new("text", number).key()).collect()
    }

    #[test]
    fn what_one_makes_another_is_not_granted_and_hears_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        let first = one.making(keys(0..3000)).unwrap();
        assert_eq!((first.keys.len(), first.others.len()), (3000, 0));
        let second = other.making(keys(2999..3001)).unwrap();
        assert_eq!(second.keys, keys(3000..3001).into_iter().collect());
        let holder = second.others.first().unwrap();
        assert!(holder.starts_with(&format!("process {}: sd3pipe_cache", std::process::id())), "{holder}");
        drop(first);
        assert_eq!(other.making(keys(0..3000)).unwrap().keys.len(), 3000);
        drop(second);
        assert_eq!(lists(&one.layout().making_lock()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_list_of_a_process_that_was_killed_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let left = store.layout().making_lock().with_file_name("making-4711");
        fs::write(&left, format!("4711: sd3pipe run x.ron\n{}\n", keys(0..1)[0])).unwrap();
        assert_eq!(store.making(keys(0..1)).unwrap().keys.len(), 1);
        assert!(!left.exists());
    }

    #[test]
    fn never_two_hold_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let stores = [Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap()];
        let inside: [AtomicU32; 3] = Default::default();
        let held = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for worker in 0..6 {
                let (store, inside, held) = (&stores[worker % 2], &inside, &held);
                scope.spawn(move || {
                    for round in 0..50 {
                        // Each wants two of three keys.
                        let wanted = [(worker + round) % 3, (worker + round + 1) % 3];
                        let key = |number: usize| keys(number as u32..number as u32 + 1)[0];
                        let making = store.making(wanted.map(key)).unwrap();
                        let granted = || wanted.iter().filter(|number| making.keys.contains(&key(**number)));
                        for number in granted() {
                            assert_eq!(inside[*number].fetch_add(1, Ordering::SeqCst), 0);
                            held.fetch_add(1, Ordering::SeqCst);
                        }
                        std::thread::yield_now();
                        for number in granted() {
                            inside[*number].fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(held.into_inner() > 50);
    }
}
