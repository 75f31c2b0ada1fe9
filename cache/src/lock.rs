//! Locks between processes: a claim is the sole right to work on one key.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::files::step;
use crate::{Key, Store, StoreError};

/// Pauses between two looks at a claim that another has; each is twice the one before.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The sole right to work on a key, among all processes and threads; given back when dropped, or when the process ends
/// in whichever way.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    file: File,
}

impl Store {
    /// Claims `key`; while another has it, waits and looks again. At each look `wait` is told who that is, as in "process
    /// 4711: sd3pipe run lighthouses.ron", and says whether to go on: nothing is given if not.
    ///
    /// Who waited should look the key up again: the other has probably made the result.
    ///
    /// # Errors
    /// A lock file that cannot be written or locked, or a store opened for reading.
    pub fn claim(&self, key: &Key, wait: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Option<Claim>, StoreError> {
        self.writable()?;
        self.claim_file(self.layout().key_lock(key), wait)
    }

    /// Claims whatever a lock file stands for.
    pub(crate) fn claim_file(
        &self,
        path: PathBuf,
        wait: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Option<Claim>, StoreError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let mut file = open_lock_file(&path)?;
            match file.try_lock() {
                // The last holder removed its file before it let go: that would be a lock on nothing.
                Ok(()) if !is_at(&file, &path).map_err(StoreError::lock(&path))? => {}
                Ok(()) => {
                    let claim = Claim { path, file };
                    let signature = format!("{}: {}", std::process::id(), command());
                    claim.sign(&signature).map_err(StoreError::write(&claim.path))?;
                    return Ok(Some(claim));
                }
                Err(TryLockError::WouldBlock) => {
                    if wait(&holder(&mut file)).is_break() {
                        return Ok(None);
                    }
                    // A blocking lock would not see that the user wants to stop.
                    thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(TryLockError::Error(reason)) => return Err(StoreError::Lock { path, reason }),
            }
        }
    }
}

impl Claim {
    fn sign(&self, signature: &str) -> std::io::Result<()> {
        self.file.set_len(0)?;
        step("lock.sign", || (&self.file).write_all(signature.as_bytes()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked, so that the file that goes is this one. One that stays does no harm.
        let _ = step("lock.remove", || fs::remove_file(&self.path));
    }
}

/// Opens a file to lock, without changing what is in it.
pub(crate) fn open_lock_file(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    step("lock.open", || options.open(path)).map_err(StoreError::write(path))
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

    #[test]
    fn one_waits_for_another_and_is_told_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        let key = Preimage::new("train", 1).key();
        let claim = one.claim(&key, &mut |_| panic!("nobody else is there")).unwrap().unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let told = &mut |holder: &str| {
                    sender.send(holder.to_owned()).unwrap();
                    ControlFlow::Continue(())
                };
                assert!(other.claim(&key, told).unwrap().is_some());
            });
            let holder = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            assert!(holder.starts_with(&format!("process {}: sd3pipe_cache", std::process::id())), "{holder}");
            assert!(!waiting.is_finished());
            drop(claim);
        });
        assert!(!one.layout().key_lock(&key).exists());
    }

    #[test]
    fn who_does_not_want_to_wait_leaves_the_claim_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        let key = Preimage::new("train", 1).key();
        let claim = one.claim(&key, &mut |_| panic!("nobody else is there")).unwrap();
        let mut looks = 0;
        let third = &mut |_: &str| {
            looks += 1;
            if looks == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert!(other.claim(&key, third).unwrap().is_none());
        assert_eq!(looks, 3);
        assert!(claim.is_some() && one.layout().key_lock(&key).exists());
    }

    #[test]
    fn never_two_hold_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let stores = [Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap()];
        let key = Preimage::new("train", 1).key();
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for worker in 0..6 {
                let (store, key, inside) = (&stores[worker % 2], &key, &inside);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let claim = store.claim(key, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
    }
}
