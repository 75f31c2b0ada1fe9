//! Objects: immutable bytes, named by their digest and verified against it.
//!
//! An object is written under `tmp/`, synced, and renamed to its name; so whatever has a name is whole, unless the disk
//! damages it later. The folder entry becomes durable when a record that may name the object is published.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::files::{NewFile, Steps, of_bytes, step, sync_folder, write_new};
use crate::store::lock;
use crate::{Digest, Fingerprint, Store, StoreError};

/// An object in the store.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// The BLAKE3 digest of its bytes, which is its name.
    pub digest: Digest,
    /// How many bytes it has.
    pub length: u64,
}

const STEPS: Steps = Steps { create: "object.create", write: "object.write" };

/// Writes one object. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct ObjectWriter<'s> {
    store: &'s Store,
    path: PathBuf,
    file: BufWriter<NewFile>,
    hasher: blake3::Hasher,
    finished: bool,
}

impl Store {
    /// Stores `bytes`. What is there already, and sound, is not written again.
    ///
    /// # Errors
    /// A store that cannot be written, or that was opened for reading.
    pub fn put(&self, bytes: &[u8]) -> Result<Object, StoreError> {
        self.writable()?;
        let object = Object { digest: Digest::of(bytes), length: bytes.len() as u64 };
        if self.keep(&object)? {
            return Ok(object);
        }
        let path = self.temporary_path();
        let written = write_new(STEPS, &path, object.length, |file| {
            file.write_all(bytes)?;
            file.sync("object.sync")
        });
        let placed = written.map_err(StoreError::write(&path)).and_then(|()| self.place(&path, &object));
        self.tidy(&path, placed)?;
        Ok(object)
    }

    /// Begins to write an object of any length, which has its name when [`ObjectWriter::finish`] is called.
    ///
    /// # Errors
    /// A store that cannot be written, or that was opened for reading.
    pub fn writer(&self) -> Result<ObjectWriter<'_>, StoreError> {
        self.writable()?;
        let path = self.temporary_path();
        let file = step(STEPS.create, || File::create_new(&path)).map_err(StoreError::write(&path))?;
        let file = BufWriter::with_capacity(1 << 17, NewFile::new(file, STEPS.write));
        Ok(ObjectWriter { store: self, path, file, hasher: blake3::Hasher::new(), finished: false })
    }

    /// Takes over a finished file at a path that [`Store::temporary_path`] gave: hashes it, syncs it and gives it its
    /// name. The path is free afterwards, unless the file is none to adopt. No mapping and no open handle may write to the file any more.
    ///
    /// # Errors
    /// A file that lies elsewhere or is still being written; a store that cannot be written.
    pub fn adopt(&self, path: &Path) -> Result<Object, StoreError> {
        self.writable()?;
        if path.parent() != Some(self.layout().temporary().as_path()) {
            return Err(StoreError::Foreign { path: path.to_owned() });
        }
        let file = File::open(path).map_err(StoreError::read(path))?;
        let before = file.metadata().map_err(StoreError::read(path))?;
        let (digest, length) = Digest::of_reader(&file).map_err(StoreError::read(path))?;
        let synced = step("object.sync", || file.sync_data()).map_err(of_bytes(length));
        self.tidy(path, synced.map_err(StoreError::write(path)))?;
        let after = file.metadata().map_err(StoreError::read(path))?;
        if Fingerprint::of(&before) != Fingerprint::of(&after) || length != after.len() {
            return Err(StoreError::Unfinished { path: path.to_owned() });
        }
        let object = Object { digest, length };
        let placed = self.keep(&object).and_then(|kept| match kept {
            true => step("object.remove", || fs::remove_file(path)).map_err(StoreError::write(path)),
            false => self.place(path, &object),
        });
        self.tidy(path, placed)?;
        Ok(object)
    }

    /// The bytes of an object, verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none; [`StoreError::Damaged`] if its bytes are others, and then it has been
    /// moved to quarantine.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.layout().object(digest);
        let bytes = fs::read(&path).map_err(|reason| missing_or_unreadable(&path, digest, reason))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(self.damaged(digest)),
        }
    }

    /// The path of an object, for mapping a large one. Its bytes are verified when this process first asks for it, and
    /// again if the file has changed since.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn file(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.layout().object(digest);
        match self.is_sound(digest, &path)? {
            true => Ok(path),
            false => Err(self.damaged(digest)),
        }
    }

    /// Where an object lies if it's there, which is not looked at: for what is remembered of its file. Before it is read comes
    /// [`Store::file`].
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        self.layout().object(digest)
    }

    /// Whether an object of this name and length is there. Only looks, and does not read it.
    pub fn has(&self, digest: &Digest, length: u64) -> bool {
        fs::metadata(self.layout().object(digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == length)
    }

    /// Makes the folder entries of all objects written so far durable, each folder once.
    pub(crate) fn sync_objects(&self) -> Result<(), StoreError> {
        let shards = std::mem::take(&mut *lock(&self.unsynced));
        if shards.is_empty() {
            return Ok(());
        }
        let layout = self.layout();
        let synced = shards
            .iter()
            .map(|&shard| layout.shard(shard))
            .chain([layout.objects()])
            .try_for_each(|folder| sync_folder("object.folder", &folder).map_err(StoreError::write(folder)));
        if synced.is_err() {
            lock(&self.unsynced).extend(shards);
        }
        synced
    }

    /// Whether the object is there already and sound; then its folder entry is synced with the next publication all the
    /// same, because whoever wrote it may not have come to that. It is as young as a new one from then on, so that no
    /// collection takes it away before it is published. A damaged one goes to quarantine.
    fn keep(&self, object: &Object) -> Result<bool, StoreError> {
        let path = self.layout().object(&object.digest);
        match self.is_sound(&object.digest, &path) {
            Ok(true) => {
                // One that was collected since it was verified is written again, as is one of another user's.
                let young = self.renew(&object.digest, &path)?;
                if young {
                    lock(&self.unsynced).insert(object.digest.as_bytes()[0]);
                }
                Ok(young)
            }
            Ok(false) => {
                self.quarantine(&object.digest)?;
                Ok(false)
            }
            Err(StoreError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives an object the time of now. Nothing but its name is looked at, so this holds the gate for a moment only.
    fn renew(&self, digest: &Digest, path: &Path) -> Result<bool, StoreError> {
        let _gate = self.gate()?;
        let renewed = File::open(path).and_then(|file| {
            let before = Fingerprint::of(&file.metadata()?);
            file.set_modified(SystemTime::now())?;
            Ok((before, Fingerprint::of(&file.metadata()?)))
        });
        if let Ok((before, after)) = &renewed
            && let Some(verified) = lock(&self.verified).get_mut(digest).filter(|verified| *verified == before)
        {
            *verified = *after;
        }
        Ok(renewed.is_ok())
    }

    /// Gives a synced file its name.
    fn place(&self, temporary: &Path, object: &Object) -> Result<(), StoreError> {
        let path = self.layout().object(&object.digest);
        let first = object.digest.as_bytes()[0];
        let shard = self.layout().shard(first);
        // A courtesy to people with editors, and no proof of anything.
        let mut permissions = fs::metadata(temporary).map_err(StoreError::read(temporary))?.permissions();
        permissions.set_readonly(true);
        fs::set_permissions(temporary, permissions).map_err(StoreError::write(temporary))?;
        // A collection that has looked at a file of this name would take away the one that takes its place.
        let _gate = self.gate()?;
        match step("object.rename", || fs::rename(temporary, &path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                step("object.make", || fs::create_dir_all(&shard)).map_err(StoreError::write(&shard))?;
                step("object.rename", || fs::rename(temporary, &path)).map_err(StoreError::write(&path))?;
            }
            result => result.map_err(StoreError::write(&path))?,
        }
        // After the rename: a publication that syncs the folder before it would otherwise cross the entry off.
        lock(&self.unsynced).insert(first);
        let metadata = fs::metadata(&path).map_err(StoreError::read(&path))?;
        lock(&self.verified).insert(object.digest, Fingerprint::of(&metadata));
        Ok(())
    }

    /// Removes a temporary file if what was to be done with it has failed.
    fn tidy(&self, path: &Path, result: Result<(), StoreError>) -> Result<(), StoreError> {
        if result.is_err() {
            // The first error is the one to tell; a file that stays is swept up later.
            let _ = fs::remove_file(path);
        }
        result
    }

    /// Whether the file at `path` has the bytes that `digest` names.
    fn is_sound(&self, digest: &Digest, path: &Path) -> Result<bool, StoreError> {
        let unreadable = |reason| missing_or_unreadable(path, digest, reason);
        let file = File::open(path).map_err(unreadable)?;
        let fingerprint = Fingerprint::of(&file.metadata().map_err(unreadable)?);
        if lock(&self.verified).get(digest) == Some(&fingerprint) {
            return Ok(true);
        }
        let (found, _) = Digest::of_reader(&file).map_err(unreadable)?;
        if found == *digest {
            lock(&self.verified).insert(*digest, fingerprint);
        }
        Ok(found == *digest)
    }

    /// Moves a damaged object away, if this store may, and gives the error to return.
    fn damaged(&self, digest: &Digest) -> StoreError {
        if self.is_read_only() {
            self.notice(format!("object {} is damaged: the next run will make it again", digest.short()));
            return StoreError::Damaged { digest: *digest };
        }
        match self.quarantine(digest) {
            Ok(()) => StoreError::Damaged { digest: *digest },
            Err(error) => error,
        }
    }

    pub(crate) fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        lock(&self.verified).remove(digest);
        let path = self.layout().object(digest);
        // Another thread or process may have moved it away and made it again since it was looked at.
        if let Ok(true) = self.is_sound(digest, &path) {
            return Ok(());
        }
        let target = self.layout().quarantine_path(&digest.to_string())?;
        match step("quarantine.rename", || fs::rename(&path, target)) {
            Ok(()) => {
                let short = digest.short();
                self.notice(format!("object {short} was damaged: moved to quarantine, it will be made again"));
                Ok(())
            }
            // Somebody else was faster, and has said so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(reason) => Err(StoreError::Write { path, reason }),
        }
    }
}

impl ObjectWriter<'_> {
    /// The temporary file that is being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written so far, as the object that it would be.
    pub fn so_far(&self) -> Object {
        Object { digest: Digest::from_bytes(*self.hasher.finalize().as_bytes()), length: self.hasher.count() }
    }

    /// Syncs what was written and gives it its name.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn finish(mut self) -> Result<Object, StoreError> {
        let object = self.so_far();
        self.file.flush().map_err(StoreError::write(&self.path))?;
        if self.store.keep(&object)? {
            return Ok(object);
        }
        self.file.get_ref().sync("object.sync").map_err(StoreError::write(&self.path))?;
        self.store.place(&self.path, &object)?;
        self.finished = true;
        Ok(object)
    }
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for ObjectWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn missing_or_unreadable(path: &Path, digest: &Digest, reason: io::Error) -> StoreError {
    match reason.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { digest: *digest },
        _ => StoreError::Read { path: path.to_owned(), reason },
    }
}
