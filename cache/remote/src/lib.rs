//! A remote store: objects and records that several machines share, in a bucket or a folder.
//!
//! It is believed in nothing. Every object is held to its digest and every record to its own and to its key; what is not as it
//! should be counts as absent. Objects go there before the records that name them. A server that fails costs time: after a few
//! failures nothing more is asked of it. What there is to tell of all that is collected for [`Remote::notices`].
//!
//! Below the address:
//!
//! ```text
//! sd3pipe-1/objects/ab/cdef…    the bytes of an object
//! sd3pipe-1/records/ab/cdef…    what `Record::to_bytes` writes, by the record's key
//! ```

mod address;
mod bring;
mod health;
mod pool;
mod send;

pub use send::Sent;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sd3pipe_cache::{Digest, Key, Record};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use health::Health;
use pool::each;

/// The folder of this format below the address; another format will have another.
const FORMAT: &str = "sd3pipe-1";

/// How many questions are asked, and objects brought, at the same time.
const READERS: usize = 32;

/// More than any record has; so much is held in memory.
const LONGEST_RECORD: u64 = 16 << 20;

/// Hears of each object that has come or gone how many bytes it has, and says whether to go on.
pub type Heard<'h> = &'h (dyn Fn(u64) -> bool + Sync);

/// How a remote store is used.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// Whether anything is written there.
    pub writes: bool,
    /// How long a server may say nothing before that counts as a failure.
    pub patience: Duration,
}

/// Why an address can't be used. That nobody answers there is no error but a notice.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The address is of no kind that is known.
    #[error(
        "`{address}` is no remote store: write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or a folder"
    )]
    Address {
        /// The address.
        address: String,
    },
    /// What the environment says of the cloud makes no sense, or lacks something.
    #[error("{address} can't be used: {reason}; see the variables of its cloud in the guide")]
    Settings {
        /// The address.
        address: String,
        /// What its client says.
        reason: String,
    },
    /// The system gives no threads.
    #[error("no threads to wait for {address} with: {reason}")]
    Threads {
        /// The address.
        address: String,
        /// What the system says.
        reason: io::Error,
    },
}

/// A remote store. Cheap to share by reference, across threads too.
pub struct Remote {
    address: String,
    /// Asked for what is there; a server that says nothing for a while has failed.
    reading: Arc<dyn ObjectStore>,
    /// Given what is to be there; nothing if that is not wanted. It is given time: an answer comes when all bytes are there.
    writing: Option<Arc<dyn ObjectStore>>,
    prefix: Path,
    /// Gone when this is dropped.
    runtime: Option<Runtime>,
    health: Health,
    /// Objects that were asked for and are not there, or with other bytes.
    lacking: Mutex<HashSet<Digest>>,
    /// What was found to have other bytes: it is written anew.
    wrong: Mutex<HashSet<Path>>,
}

impl Remote {
    /// The remote store at an address: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder` or the path of
    /// a folder. What a cloud wants to know beyond that is taken from the environment, as its own programs do. Nothing is asked yet.
    ///
    /// # Errors
    /// An address that can't be understood, or settings that contradict each other.
    pub fn open(address: &str, usage: Use) -> Result<Remote, RemoteError> {
        let threads = |reason| RemoteError::Threads { address: address.to_owned(), reason };
        // Whoever installed one before has chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clients = address::clients(address, usage)?;
        let health = Health::default();
        clients.away.iter().for_each(|reason| health.give_up(reason.to_string()));
        Ok(Remote {
            address: address.to_owned(),
            reading: clients.reading,
            writing: clients.writing,
            prefix: clients.prefix,
            runtime: Some(Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(threads)?),
            health,
            lacking: Mutex::default(),
            wrong: Mutex::default(),
        })
    }

    /// The address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether anything is written there: not if that is not wanted, or was refused.
    pub fn writes(&self) -> bool {
        self.writing.is_some() && !self.health.is_closed()
    }

    /// Whether nothing more is asked, since it can't be reached.
    pub fn is_gone(&self) -> bool {
        self.health.is_gone()
    }

    /// Whether an object was asked for that is not there as it should be.
    pub fn lacks(&self, digest: &Digest) -> bool {
        lock(&self.lacking).contains(digest)
    }

    /// Whether that holds of any object.
    pub fn lacks_something(&self) -> bool {
        !lock(&self.lacking).is_empty()
    }

    /// Takes what the user should be told, a line each.
    pub fn notices(&self) -> Vec<String> {
        self.health.notices(&self.address)
    }

    /// The records of these keys, as far as they are there and sound. They may name objects that are not.
    pub fn records(&self, keys: &[Key]) -> Vec<Option<Record>> {
        each(keys, READERS, |key| self.record(key))
    }

    /// Whether these keys have records there, as far as that is known. They are not read.
    pub fn has_records(&self, keys: &[Key]) -> Vec<Option<bool>> {
        each(keys, READERS, |key| self.length_of(&self.record_path(key)).map(|length| length.is_some()))
    }

    fn record(&self, key: &Key) -> Option<Record> {
        let path = self.record_path(key);
        let bytes = self.ask(async || {
            let found = self.reading.get(&path).await?;
            match found.meta.size <= LONGEST_RECORD {
                true => found.bytes().await.map(Some),
                false => Ok(None),
            }
        })??;
        let record = bytes.and_then(|bytes| Record::from_bytes(key, &bytes));
        if record.is_none() {
            self.health.wrong(format!("the record {}", key.digest().short()));
            lock(&self.wrong).insert(path);
        }
        record
    }

    /// The length of what lies at a path, if anything does; nothing if there is no answer. What is known to be wrong is not there.
    fn length_of(&self, path: &Path) -> Option<Option<u64>> {
        if lock(&self.wrong).contains(path) {
            return Some(None);
        }
        self.ask(async || self.reading.head(path).await.map(|found| found.size))
    }

    /// Asks something: gives an answer, which may be that nothing is there, or no answer.
    fn ask<T>(&self, question: impl AsyncFnOnce() -> object_store::Result<T>) -> Option<Option<T>> {
        let runtime = self.runtime.as_ref().filter(|_| !self.is_gone())?;
        match runtime.handle().block_on(question()) {
            Ok(answer) => {
                self.health.well();
                Some(Some(answer))
            }
            Err(object_store::Error::NotFound { .. }) => {
                self.health.well();
                Some(None)
            }
            Err(error) => {
                self.health.failed(&error);
                None
            }
        }
    }

    fn object_path(&self, digest: &Digest) -> Path {
        self.path("objects", digest)
    }

    fn record_path(&self, key: &Key) -> Path {
        self.path("records", &key.digest())
    }

    fn path(&self, kind: &str, digest: &Digest) -> Path {
        let name = digest.to_string();
        let (shard, rest) = name.split_at(2);
        [FORMAT, kind, shard, rest].into_iter().fold(self.prefix.clone(), |path, part| path.join(part))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Not to wait for a name server that says nothing.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, writes) = (&self.address, self.writing.is_some());
        formatter.debug_struct("Remote").field("address", address).field("writes", &writes).finish_non_exhaustive()
    }
}

/// Locks a mutex. What these guard is right at every moment, so a panic of another holder is no reason to give up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
