//! The store: one folder of objects, an index over them, and what keeps the two right.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use crate::files::{Steps, step, sync_folder, write_new};
use crate::index::{Index, UNKNOWN, is_damage};
use crate::layout::Layout;
use crate::live::sweep_locks;
use crate::lock::open_lock_file;
use crate::making::sweep_lists;
use crate::{Digest, Fingerprint, Key, StoreError};

/// What FORMAT says before the number, and the number that this program writes and the highest that it reads.
const FORMAT: (&str, u64) = ("sd3pipe-store ", 1);

/// Temporary files of this age are nobody's, even while others use the store.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// A store, open. Cheap to share by reference, across threads too; two in one process, or in two, get along.
pub struct Store {
    layout: Layout,
    read_only: bool,
    index: Mutex<Index>,
    /// The first bytes of the digests of objects whose folder entries may not be durable yet.
    pub(crate) unsynced: Mutex<BTreeSet<u8>>,
    /// Held while publishing, so that nobody's record overtakes the syncing of its object by another thread.
    pub(crate) publishing: Mutex<()>,
    /// Objects that this process has found to have the right bytes, as they were then.
    pub(crate) verified: Mutex<HashMap<Digest, Fingerprint>>,
    /// The runs that began in this store and have not ended, with their locked files.
    pub(crate) live: Mutex<Vec<(u64, File)>>,
    notices: Mutex<Vec<String>>,
    next_temporary: AtomicU64,
    temporary_prefix: String,
    _lock: Option<File>,
}

impl Store {
    /// Opens the store at `root` to read and write; makes one where there is none. Waits while the store is cleared up.
    ///
    /// # Errors
    /// A root that cannot be written, holds other things, or was made by a newer program. A damaged store opens.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let layout = Layout::at(root)?;
        let mut notices = Vec::new();
        let format = read_format(&layout)?;
        if format.is_none() {
            refuse_other_folders(&layout)?;
        }
        refuse_links(&layout)?;
        let missing: Vec<PathBuf> =
            Layout::FOLDERS.iter().map(|folder| layout.root().join(folder)).filter(|path| !path.is_dir()).collect();
        for path in &missing {
            step("store.make", || fs::create_dir_all(path)).map_err(StoreError::write(path))?;
        }
        if !missing.is_empty() {
            sync_folder("store.folder", layout.root()).map_err(StoreError::write(layout.root()))?;
        }
        let path = layout.store_lock();
        let lock = open_lock_file(&path)?;
        // Who comes first sweeps out what killed processes left.
        let alone = lock.try_lock().is_ok();
        if !alone {
            lock.lock_shared().map_err(StoreError::lock(&path))?;
        }
        if format.is_none() {
            write_format(&layout)?;
        }
        let index = Index::open(&layout, &mut notices)?;
        let mut store = Store::new(layout, false, index, notices, None);
        store.sweep(alone);
        if alone {
            lock.unlock().and_then(|()| lock.lock_shared()).map_err(StoreError::lock(&path))?;
        }
        store._lock = Some(lock);
        Ok(store)
    }

    /// Opens the store at `root` to read only, or gives nothing if there is none. Nothing is ever written anywhere, not
    /// even a lock or a journal; all writing methods refuse.
    ///
    /// # Errors
    /// A store that cannot be read, or that a newer program made.
    pub fn open_read_only(root: &Path) -> Result<Option<Store>, StoreError> {
        let layout = Layout::at(root)?;
        if read_format(&layout)?.is_none() {
            return Ok(None);
        }
        let mut notices = Vec::new();
        // Only to keep a clearing up from beginning. One that is under way is no reason to wait.
        let lock = File::open(layout.store_lock()).ok().filter(|lock| lock.try_lock_shared().is_ok());
        let index = Index::open_read_only(&layout, &mut notices)?;
        Ok(Some(Store::new(layout, true, index, notices, lock)))
    }

    fn new(layout: Layout, read_only: bool, index: Index, notices: Vec<String>, lock: Option<File>) -> Store {
        Store {
            layout,
            read_only,
            index: Mutex::new(index),
            unsynced: Mutex::default(),
            publishing: Mutex::default(),
            verified: Mutex::default(),
            live: Mutex::default(),
            notices: Mutex::new(notices),
            next_temporary: AtomicU64::new(0),
            temporary_prefix: format!("{}-{:016x}", std::process::id(), random()),
            _lock: lock,
        }
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// Takes what the user should be told, a line each, such as that a damaged object was moved away.
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.notices))
    }

    /// A path in the store's temporary folder that nobody else uses, for a file to be given to [`Store::adopt`].
    pub fn temporary_path(&self) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.layout.temporary().join(format!("{}-{number}", self.temporary_prefix))
    }

    /// The folder for the unfinished state of the action `key`, made if need be. Only for who has the right to
    /// work on it, see [`Store::making`].
    ///
    /// # Errors
    /// A folder that cannot be made, or a store opened for reading.
    pub fn work_dir(&self, key: &Key) -> Result<PathBuf, StoreError> {
        self.writable()?;
        let path = self.layout.work(key);
        if is_link(&path) {
            fs::remove_file(&path).map_err(StoreError::write(&path))?;
        }
        if !path.is_dir() {
            let folder = path.parent().unwrap_or(self.root());
            step("work.make", || fs::create_dir_all(&path)).map_err(StoreError::write(&path))?;
            sync_folder("work.folder", folder).map_err(StoreError::write(folder))?;
        }
        Ok(path)
    }

    /// Removes the folder that [`Store::work_dir`] gives, with all that is in it; none is fine too.
    ///
    /// # Errors
    /// A folder that cannot be removed, or a store opened for reading.
    pub fn remove_work_dir(&self, key: &Key) -> Result<(), StoreError> {
        self.writable()?;
        let path = self.layout.work(key);
        match step("work.remove", || fs::remove_dir_all(&path)) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(StoreError::Write { path, reason }),
            _ => Ok(()),
        }
    }

    /// Removes what killed processes left: half written files, and, if nobody else uses the store, their locks, the lists
    /// of what they were making and the working folders of actions that have their record. What cannot be removed is only
    /// in the way.
    fn sweep(&self, alone: bool) {
        let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries(self.layout.temporary()) {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            if alone || age.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > ABANDONED) {
                let path = entry.path();
                let _ = step("sweep.remove", || fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)));
            }
        }
        if !alone {
            return;
        }
        sweep_lists(&self.layout);
        sweep_locks(&self.layout);
        let key = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse::<Key>().ok());
        for key in entries(self.layout.works()).filter_map(|entry| key(&entry)) {
            if self.outputs(&key).is_ok_and(|outputs| outputs.is_some()) {
                let _ = step("sweep.remove", || fs::remove_dir_all(self.layout.work(&key)));
            }
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Refuses if the store was opened for reading.
    pub(crate) fn writable(&self) -> Result<(), StoreError> {
        match self.read_only {
            true => Err(StoreError::ReadOnly { path: self.layout.root().to_owned() }),
            false => Ok(()),
        }
    }

    pub(crate) fn notice(&self, line: String) {
        lock(&self.notices).push(line);
    }

    /// Does something with the index. If the index turns out to be damaged, it is replaced by an empty one and the same
    /// is done with that.
    pub(crate) fn with_index<T>(
        &self,
        action: impl Fn(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut index = lock(&self.index);
        let failed = |reason| StoreError::Index { path: self.layout.index(), reason };
        match action(&mut index.connection) {
            Err(error) if is_damage(&error) => {
                self.heal(&mut index)?;
                match action(&mut index.connection) {
                    // A reader looked at the file again, and it is no better.
                    Err(error) if self.read_only && is_damage(&error) => {
                        self.notice(UNKNOWN.to_owned());
                        *index = Index::in_memory(None).map_err(failed)?;
                        action(&mut index.connection).map_err(failed)
                    }
                    result => result.map_err(failed),
                }
            }
            result => result.map_err(failed),
        }
    }

    /// Refuses if what the store holds is not known.
    pub(crate) fn indexed(&self) -> Result<(), StoreError> {
        match lock(&self.index).is_in_memory() {
            true => Err(StoreError::NoIndex { path: self.layout.index() }),
            false => Ok(()),
        }
    }

    /// Puts an empty index in the place of one that is damaged.
    pub(crate) fn abandon_index(&self) -> Result<(), StoreError> {
        self.heal(&mut lock(&self.index))
    }

    /// Goes back to an index on disk, if there was only one in memory and the damaged file is free by now.
    pub(crate) fn leave_memory(&self) {
        lock(&self.index).leave_memory(&self.layout);
    }

    fn heal(&self, index: &mut Index) -> Result<(), StoreError> {
        if !self.read_only {
            return index.replace(&self.layout, &mut lock(&self.notices));
        }
        // Without a journal a reader takes the file to be at rest, and a run that has begun since may be writing to it.
        *index = Index::open_read_only(&self.layout, &mut lock(&self.notices))?;
        Ok(())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Store { layout, read_only, .. } = self;
        formatter
            .debug_struct("Store")
            .field("root", &layout.root())
            .field("read_only", read_only)
            .finish_non_exhaustive()
    }
}

/// Locks a mutex. What these guard is right at every moment, so a panic of another holder is no reason to give up.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no other process draws: for names of temporary files, never for a result.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// The store's format, if it has one that can be understood: a torn FORMAT is like none.
fn read_format(layout: &Layout) -> Result<Option<u64>, StoreError> {
    let path = layout.format();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(reason) => return Err(StoreError::Read { path, reason }),
    };
    let number = str::from_utf8(&bytes).ok().and_then(|text| text.strip_prefix(FORMAT.0)?.trim_end().parse().ok());
    match number {
        Some(found) if found > FORMAT.1 => Err(StoreError::Newer { path: layout.root().to_owned(), found }),
        other => Ok(other),
    }
}

fn write_format(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.format();
    let temporary = layout.temporary().join(format!("FORMAT-{:016x}", random()));
    let steps = Steps { create: "format.create", write: "format.write" };
    let text = format!("{}{}\n", FORMAT.0, FORMAT.1);
    let written = write_new(steps, &temporary, text.len() as u64, |file| {
        file.write_all(text.as_bytes())?;
        file.sync("format.sync")
    });
    written
        .and_then(|()| step("format.rename", || fs::rename(&temporary, &path)))
        .and_then(|()| sync_folder("format.folder", layout.root()))
        .map_err(StoreError::write(&path))
}

/// A folder without FORMAT becomes a store only if there is nothing in it that a store would not have: never write
/// into somebody's photos.
fn refuse_other_folders(layout: &Layout) -> Result<(), StoreError> {
    let entries = match fs::read_dir(layout.root()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(reason) => return Err(StoreError::Write { path: layout.root().to_owned(), reason }),
    };
    for entry in entries {
        let name = entry.map_err(StoreError::read(layout.root()))?.file_name();
        if !Layout::FOLDERS.iter().chain(&Layout::FILES).any(|own| name == **own) {
            let found = name.to_string_lossy().into_owned();
            return Err(StoreError::NotAStore { path: layout.root().to_owned(), found });
        }
    }
    Ok(())
}

/// Refuses a store with a link in the place of one of its folders. The store itself may be one, but no store has any inside, and
/// what is behind would be swept out or written over: a folder that came with somebody's project is not to be trusted with that.
fn refuse_links(layout: &Layout) -> Result<(), StoreError> {
    match Layout::FOLDERS.iter().find(|folder| is_link(&layout.root().join(folder))) {
        Some(folder) => {
            Err(StoreError::NotAStore { path: layout.root().to_owned(), found: format!("{folder}, which is a link") })
        }
        None => Ok(()),
    }
}

pub(crate) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_and_what_it_lends_are_shared_across_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Store>();
        shared::<StoreError>();
        shared::<crate::FileDigests<'_>>();
        shared::<crate::ObjectWriter<'_>>();
        shared::<crate::Making>();
        shared::<crate::Making>();
    }
}
