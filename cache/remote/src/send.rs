//! Whole results that go to a remote store: their objects, and then the records that name them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use sd3pipe_cache::{Digest, Object, Record, Store, StoreError};

use crate::health::is_refusal;
use crate::pool::each;
use crate::{Heard, READERS, Remote, lock};

/// How many objects go at the same time.
const WRITERS: usize = 8;

/// What is longer goes in parts of this size, or of a larger one where that would be too many parts; several at a time.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 5000;
const PARTS_AT_A_TIME: usize = 4;

/// What went to a remote store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Records that were not there.
    pub records: usize,
    /// Objects that were not there.
    pub objects: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// Whether all that was to be sent is there now.
    pub complete: bool,
}

impl Remote {
    /// Sends results: of those records that are not there yet first the objects, each that is not there, and then the records of which
    /// every object is. What the store does not have whole is not sent, nor anything where nothing is to be written.
    ///
    /// # Errors
    /// A store that can't be read. A remote store that fails is none.
    pub fn send(&self, records: &[Record], store: &Store, heard: Heard<'_>) -> Result<Sent, StoreError> {
        let Some(writing) = self.writing.as_deref() else { return Ok(Sent::default()) };
        let paths: Vec<Path> = records.iter().map(|record| self.record_path(&record.key())).collect();
        // A record whose objects did not come is as good as none: they are looked at once more.
        let promised = |record: &Record| !record.outputs.iter().any(|output| self.lacks(&output.digest));
        let pairs: Vec<(&Record, &Path)> = records.iter().zip(&paths).collect();
        let there = each(&pairs, READERS, |(record, path)| {
            self.length_of(path).map(|length| length.is_some() && promised(record))
        });
        let lacking = || pairs.iter().zip(&there).filter_map(|(pair, there)| (*there == Some(false)).then_some(*pair));

        let outputs = lacking().flat_map(|(record, _)| &record.outputs);
        let objects: HashMap<Digest, u64> = outputs.map(|output| (output.digest, output.length)).collect();
        let objects: Vec<Object> = objects.into_iter().map(|(digest, length)| Object { digest, length }).collect();
        let (new, bytes, failed) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::new(None));
        let sent = each(&objects, WRITERS, |object| {
            if lock(&failed).is_some() || self.health.is_closed() || !heard(0) {
                return None;
            }
            match self.send_object(object, store, writing, heard) {
                Ok(Some(is_new)) => {
                    lock(&self.lacking).remove(&object.digest);
                    new.fetch_add(usize::from(is_new), Ordering::Relaxed);
                    bytes.fetch_add(if is_new { object.length } else { 0 }, Ordering::Relaxed);
                    heard(object.length);
                    Some(object.digest)
                }
                Ok(None) => None,
                Err(error) => {
                    lock(&failed).get_or_insert(error);
                    None
                }
            }
        });
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }

        let sent: HashSet<Digest> = sent.into_iter().flatten().collect();
        let is_whole = |record: &Record| record.outputs.iter().all(|output| sent.contains(&output.digest));
        let ready: Vec<_> = lacking().filter(|(record, _)| is_whole(record)).collect();
        let put = each(&ready, WRITERS, |(record, path)| {
            self.write(path, async || writing.put(path, PutPayload::from(record.to_bytes())).await.map(drop)).is_some()
        });
        let put = put.into_iter().filter(|put| *put).count();
        let before = there.iter().filter(|there| **there == Some(true)).count();
        let complete = before + put == records.len();
        Ok(Sent { records: put, objects: new.into_inner(), bytes: bytes.into_inner(), complete })
    }

    /// Sees to it that an object is there, and tells whether it is new there; nothing if it did not get there.
    fn send_object(
        &self,
        object: &Object,
        store: &Store,
        writing: &dyn ObjectStore,
        heard: Heard<'_>,
    ) -> Result<Option<bool>, StoreError> {
        let path = self.object_path(&object.digest);
        match self.length_of(&path) {
            Some(Some(length)) if length == object.length => return Ok(Some(false)),
            Some(_) => {}
            None => return Ok(None),
        }
        // What is damaged here, or gone, is made again first.
        let not_whole = |error| match error {
            StoreError::Missing { .. } | StoreError::Damaged { .. } => Ok(None),
            error => Err(error),
        };
        let went = if object.length <= PART {
            let bytes = match store.read(&object.digest) {
                Ok(bytes) => bytes,
                Err(error) => return not_whole(error),
            };
            self.write(&path, async || writing.put(&path, PutPayload::from(bytes)).await.map(drop)).is_some()
        } else {
            let file = match store.file(&object.digest) {
                Ok(file) => file,
                Err(error) => return not_whole(error),
            };
            let opened = File::open(&file).map_err(|reason| StoreError::Read { path: file, reason })?;
            let part = PART.max(object.length.div_ceil(MOST_PARTS)) as usize;
            self.write(&path, async || send_parts(opened, part, object, &path, writing, heard).await) == Some(true)
        };
        Ok(went.then_some(true))
    }

    /// Writes something, and tells what came of it; nothing if it could not be written.
    fn write<T>(&self, path: &Path, question: impl AsyncFnOnce() -> object_store::Result<T>) -> Option<T> {
        let runtime = self.runtime.as_ref().filter(|_| !self.is_gone())?;
        match runtime.handle().block_on(question()) {
            Ok(answer) => {
                self.health.well();
                lock(&self.wrong).remove(path);
                Some(answer)
            }
            Err(error) => {
                match is_refusal(&error) {
                    true => self.health.closed(&error),
                    false => self.health.failed(&error),
                }
                None
            }
        }
    }
}

/// Sends a file in parts, which become an object all at once when the last of them is there. Tells whether they did: not if the file
/// has other bytes by now, or nobody wants to wait any longer.
async fn send_parts(
    mut file: File,
    part: usize,
    object: &Object,
    path: &Path,
    writing: &dyn ObjectStore,
    heard: Heard<'_>,
) -> object_store::Result<bool> {
    let mut upload = WriteMultipart::new_with_chunk_size(writing.put_multipart(path).await?, part);
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; part]);
    let fault = loop {
        let length = match file.read(&mut buffer) {
            Ok(0) if Digest::from_bytes(*hasher.finalize().as_bytes()) == object.digest => break None,
            Ok(length) if length > 0 && heard(0) => length,
            _ => break Some(Ok(false)),
        };
        hasher.update(&buffer[..length]);
        upload.write(&buffer[..length]);
        if let Err(error) = upload.wait_for_capacity(PARTS_AT_A_TIME).await {
            break Some(Err(error));
        }
    };
    match fault {
        None => upload.finish().await.map(|_| true),
        Some(fault) => {
            // What is left of it in the bucket is nothing that anybody sees.
            let _ = upload.abort().await;
            fault
        }
    }
}
