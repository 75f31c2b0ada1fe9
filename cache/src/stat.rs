//! The stat cache: digests of input files, so that a file that has not changed is not read again.
//!
//! A digest is trusted only if the file's device, inode, size, mtime and ctime are those of then. The ctime sees an edit
//! of equal size with the mtime put back, because no program can put the ctime back. What none of them sees is an edit
//! within the clock's grain of an earlier one: so times that were less than two seconds old when the file was looked at
//! are not trusted, and the file is read once more at the next run.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{TransactionBehavior, params};

use crate::files::index_step;
use crate::seal::{seal, unseal};
use crate::{Digest, Store, StoreError};

/// How old times must be to be trusted: the coarsest grain among file systems, that of FAT.
const RACY: i64 = 2_000_000_000;
/// How often a file is read again that changes while it is read.
const ATTEMPTS: u32 = 8;

/// What tells one state of a file from another without reading it.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// 0 where the number is drawn anew with each mount, as that of a network file system is on each machine: there the
    /// others have to do, and do, since the ctime is the server's.
    device: u64,
    inode: u64,
    size: u64,
    /// In nanoseconds since 1970, as all times here.
    modified: i64,
    changed: i64,
}

/// The digests of the files below one folder, in one aspect: of their bytes, of certain tensors in them, and so on.
///
/// Files are looked up by absolute paths, always spelled alike. [`FileDigests::save`] keeps what was learned.
#[derive(Debug)]
pub struct FileDigests<'s> {
    store: &'s Store,
    aspect: String,
    /// What was loaded, in the order of the paths, which lie one behind another in `paths`. A million files in a hash map would be
    /// a million allocations, and as many jumps through memory for who asks for one after another.
    loaded_rows: Vec<Loaded>,
    paths: Vec<u8>,
    /// Behind the row that was asked for last: files are mostly asked for in the order of their paths.
    next: AtomicUsize,
    /// What was not loaded but learned.
    learned: HashMap<Box<[u8]>, Row>,
    /// When this was loaded. Every look at a file comes later, so this is the time that rows are recorded with: the
    /// racy window then covers the time from the look to the reading too.
    loaded: i64,
}

#[derive(Debug)]
struct Loaded {
    /// Where its path ends in `paths`.
    end: usize,
    row: Row,
    /// Asked for since loading; what never is, is dropped.
    seen: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) fingerprint: Fingerprint,
    recorded: i64,
    digest: Digest,
}

impl Fingerprint {
    /// Of the file that the metadata is of.
    pub fn of(metadata: &Metadata) -> Fingerprint {
        // Beyond 292 years from 1970 it is the last that there is.
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Fingerprint {
            device: if rustix::fs::major(metadata.dev()) == 0 { 0 } else { metadata.dev() },
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The file's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Store {
    /// Loads what is known of the files at or below `root`, an absolute path, in one query. Call this before looking at
    /// the files: times are judged by when it was called.
    ///
    /// # Errors
    /// An index that cannot be read, for another reason than damage.
    pub fn digests(&self, aspect: &str, root: &Path) -> Result<FileDigests<'_>, StoreError> {
        let loaded = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let mut exact = root.as_os_str().as_bytes();
        while let Some(shorter) = exact.strip_suffix(b"/") {
            exact = shorter;
        }
        // All that begins with `root/` lies between that and `root0`: 0 is the character after the slash.
        let (from, below) = ([exact, b"/"].concat(), [exact, b"0"].concat());
        let ranges = [(exact, "path = ?2 AND ?3 IS NULL", None), (&from[..], "path >= ?2 AND path < ?3", Some(&below))];
        let (loaded_rows, paths) = self.with_index(|index| {
            let (mut found, mut paths) = (Vec::new(), Vec::new());
            for (from, range, below) in ranges {
                let query = format!("SELECT path, entry FROM files WHERE aspect = ?1 AND {range} ORDER BY path");
                let mut statement = index.prepare_cached(&query)?;
                let mut rows = statement.query(params![aspect, from, below])?;
                while let Some(row) = rows.next()? {
                    if let (Ok(path), Ok(entry)) = (row.get_ref(0)?.as_blob(), row.get_ref(1)?.as_blob())
                        && let Some(known) = unseal(&[aspect.as_bytes(), path], entry).and_then(Row::decode)
                    {
                        paths.extend_from_slice(path);
                        found.push(Loaded { end: paths.len(), row: known, seen: AtomicBool::new(false) });
                    }
                }
            }
            Ok((found, paths))
        })?;
        let (next, learned) = Default::default();
        Ok(FileDigests { store: self, aspect: aspect.to_owned(), loaded_rows, paths, next, learned, loaded })
    }
}

impl FileDigests<'_> {
    /// The digest of the file at `path`, if what it is `now` shows that it is still the file that was read.
    pub fn known(&self, path: &Path, now: &Fingerprint) -> Option<Digest> {
        let path = path.as_os_str().as_bytes();
        let row = match self.learned.get(path) {
            Some(row) => row,
            None => {
                let at = self.find(path)?;
                let found = &self.loaded_rows[at];
                found.seen.store(true, Ordering::Relaxed);
                &found.row
            }
        };
        row.trusts(now).then_some(row.digest)
    }

    /// The place of a path among what was loaded.
    fn find(&self, path: &[u8]) -> Option<usize> {
        let mut at = self.next.load(Ordering::Relaxed);
        if self.path(at) != Some(path) {
            let (mut from, mut to) = (0, self.loaded_rows.len());
            while from < to {
                let middle = from.midpoint(to);
                if self.path(middle) < Some(path) { from = middle + 1 } else { to = middle }
            }
            at = from;
        }
        self.next.store(at + 1, Ordering::Relaxed);
        (self.path(at) == Some(path)).then_some(at)
    }

    /// The path at a place of what was loaded.
    fn path(&self, at: usize) -> Option<&[u8]> {
        let end = self.loaded_rows.get(at)?.end;
        let start = at.checked_sub(1).map_or(0, |before| self.loaded_rows[before].end);
        self.paths.get(start..end)
    }

    /// The digest of the file's bytes: as known, or else by reading it. A file that changes meanwhile is read again.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not stop changing.
    pub fn digest(&mut self, path: &Path) -> io::Result<Digest> {
        self.digest_by(path, |file| Ok(Digest::of_reader(file)?.0))
    }

    /// As [`FileDigests::digest`], by `read`, which gives the digest of all that it finds in the open file, and may look at that too. Of a file
    /// that changes meanwhile it is called again.
    ///
    /// # Errors
    /// Those of `read`, and of [`FileDigests::digest`].
    pub fn digest_by(&mut self, path: &Path, mut read: impl FnMut(&File) -> io::Result<Digest>) -> io::Result<Digest> {
        if let Some(digest) = self.known(path, &Fingerprint::of(&fs::metadata(path)?)) {
            return Ok(digest);
        }
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                thread::sleep(Duration::from_millis(20 << attempt));
            }
            if let Some(digest) = self.read(path, &mut read)? {
                return Ok(digest);
            }
        }
        Err(changing(path))
    }

    /// As [`FileDigests::digest`], for another aspect than the bytes: `compute` reads the open file, once.
    ///
    /// # Errors
    /// Those of `compute`; a file that cannot be read, or that changed while it was.
    pub fn digest_with(
        &mut self,
        path: &Path,
        compute: impl FnOnce(&File) -> io::Result<Digest>,
    ) -> io::Result<Digest> {
        if let Some(digest) = self.known(path, &Fingerprint::of(&fs::metadata(path)?)) {
            return Ok(digest);
        }
        self.read(path, compute)?.ok_or_else(|| changing(path))
    }

    /// Remembers a digest that the caller computed. `before` is the metadata of the open file from before it was read,
    /// and from after this was loaded; the caller has seen that it was the same after reading.
    pub fn remember(&mut self, path: &Path, before: &Metadata, digest: Digest) {
        let row = Row { fingerprint: Fingerprint::of(before), recorded: self.loaded, digest };
        self.learned.insert(Box::from(path.as_os_str().as_bytes()), row);
    }

    /// Keeps what was learned, and drops what was loaded and never asked for. Without either nothing is written; a
    /// store that was opened for reading keeps nothing.
    ///
    /// # Errors
    /// An index that cannot be written.
    pub fn save(self) -> Result<(), StoreError> {
        let aspect = &self.aspect;
        let learned = self.learned.iter();
        let mut learned: Vec<(&[u8], Vec<u8>)> =
            learned.map(|(path, row)| (&**path, seal(&[aspect.as_bytes(), path], row.encode()))).collect();
        // In the order of the table, so that each of its pages is written once.
        learned.sort_unstable();
        let unseen = |at: &usize| !self.loaded_rows[*at].seen.load(Ordering::Relaxed);
        let dropped = (0..self.loaded_rows.len()).filter(unseen).filter_map(|at| self.path(at));
        let dropped: Vec<&[u8]> = dropped.filter(|path| !self.learned.contains_key(*path)).collect();
        if self.store.is_read_only() || (learned.is_empty() && dropped.is_empty()) {
            return Ok(());
        }
        self.store.with_index(|index| {
            let transaction = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO files VALUES (?1, ?2, ?3)")?;
                for (path, entry) in &learned {
                    insert.execute(params![aspect, path, entry])?;
                }
                let mut delete = transaction.prepare_cached("DELETE FROM files WHERE aspect = ?1 AND path = ?2")?;
                for path in &dropped {
                    delete.execute(params![aspect, path])?;
                }
            }
            index_step("digests.commit", || transaction.commit())
        })
    }

    /// Computes the digest through one open handle. Nothing if the file changed in between; it may then be of a mixture.
    fn read(&mut self, path: &Path, compute: impl FnOnce(&File) -> io::Result<Digest>) -> io::Result<Option<Digest>> {
        let file = File::open(path)?;
        let before = file.metadata()?;
        let digest = compute(&file)?;
        if Fingerprint::of(&file.metadata()?) != Fingerprint::of(&before) {
            return Ok(None);
        }
        self.remember(path, &before, digest);
        Ok(Some(digest))
    }
}

impl Row {
    pub(crate) fn trusts(&self, fingerprint: &Fingerprint) -> bool {
        let newest = self.fingerprint.modified.max(self.fingerprint.changed);
        self.fingerprint == *fingerprint && self.recorded.saturating_sub(newest) > RACY
    }

    /// Device, inode, size; mtime, ctime, time of recording; digest.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Fingerprint { device, inode, size, modified, changed } = self.fingerprint;
        let mut bytes = Vec::with_capacity(112);
        [device, inode, size].iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        let times = [modified, changed, self.recorded].map(i128::from);
        times.iter().for_each(|time| bytes.extend_from_slice(&time.to_le_bytes()));
        bytes.extend_from_slice(self.digest.as_bytes());
        bytes
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Row> {
        let mut number = || bytes.split_off(..8).and_then(|number| Some(u64::from_le_bytes(number.try_into().ok()?)));
        let (device, inode, size) = (number()?, number()?, number()?);
        let mut time = || {
            let time = i128::from_le_bytes(bytes.split_off(..16)?.try_into().ok()?);
            i64::try_from(time).ok()
        };
        let (modified, changed, recorded) = (time()?, time()?, time()?);
        let digest = Digest::from_bytes(bytes.try_into().ok()?);
        let fingerprint = Fingerprint { device, inode, size, modified, changed };
        Some(Row { fingerprint, recorded, digest })
    }
}

fn changing(path: &Path) -> io::Error {
    let path = path.display();
    io::Error::other(format!("{path} keeps changing while it is read: run again when nothing writes to it any more"))
}
