//! Locks between processes: a claim is the sole right to work on one key.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::is_link;
use crate::{Key, Store, StoreError};

/// The sole right to work on a key, among all processes and threads; given back when dropped, or when the process ends
/// in whichever way.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

impl Store {
    /// Claims `key`: waits until nobody else has it. `on_wait` is told once for each wait who that is, as in "process
    /// 4711: sd3pipe run lighthouses.ron".
    ///
    /// Who waited should look the key up again: the other has probably made the result.
    ///
    /// # Errors
    /// A lock file that cannot be written or locked, or a store opened for reading.
    pub fn claim(&self, key: &Key, on_wait: &mut dyn FnMut(&str)) -> Result<Claim, StoreError> {
        self.writable()?;
        let path = self.layout().key_lock(key);
        loop {
            let mut file = open_lock_file(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    on_wait(&holder(&mut file));
                    file.lock().map_err(StoreError::lock(&path))?;
                }
                Err(TryLockError::Error(reason)) => return Err(StoreError::Lock { path, reason }),
            }
            // The last holder removed its file before it let go. Who waited on that one holds a lock on nothing.
            if !is_at(&file, &path).map_err(StoreError::lock(&path))? {
                continue;
            }
            let own = format!("{}: {}", std::process::id(), command());
            file.set_len(0).and_then(|()| file.write_all(own.as_bytes())).map_err(StoreError::write(&path))?;
            return Ok(Claim { path, _file: file });
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked, so that the file that goes is this one. One that stays does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens a file to lock, without changing what is in it.
pub(crate) fn open_lock_file(path: &Path) -> Result<File, StoreError> {
    // Its holder is written into it, which must not go into somebody's file.
    if is_link(path) {
        fs::remove_file(path).map_err(StoreError::write(path))?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(StoreError::write(path))
}

fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok(there.dev() == own.dev() && there.ino() == own.ino()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(length) if length > 0 => format!("process {text}"),
        // It has locked the file and not yet signed it.
        _ => "another process".to_owned(),
    }
}

/// What the user typed, with the program by its name alone.
fn command() -> String {
    let mut words = std::env::args_os();
    let program = words.next().map(PathBuf::from).unwrap_or_default();
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for word in words {
        line.push(' ');
        line.push_str(&word.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preimage;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn one_waits_for_another_and_is_told_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        let key = Preimage::new("train", 1).key();
        let claim = one.claim(&key, &mut |_| panic!("nobody else is there")).unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let claimed = other.claim(&key, &mut |holder| sender.send(holder.to_owned()).unwrap()).unwrap();
                drop(claimed);
            });
            let holder = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            assert!(holder.starts_with(&format!("process {}: sd3pipe_cache", std::process::id())), "{holder}");
            assert!(!waiting.is_finished());
            drop(claim);
        });
        assert!(!one.layout().key_lock(&key).exists());
    }

    #[test]
    fn never_two_hold_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let stores = [Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap()];
        let key = Preimage::new("train", 1).key();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for worker in 0..6 {
                let (store, key, inside) = (&stores[worker % 2], &key, &inside);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let claim = store.claim(key, &mut |_| {}).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
    }
}
