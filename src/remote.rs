//! The remote store of a pipeline, in builds that can reach one.

#[cfg(not(feature = "remote"))]
pub use absent::Remote;
#[cfg(feature = "remote")]
pub use sd3pipe_remote::Remote;

use crate::pipeline::{RemoteMode, StorePlaces};
use thiserror::Error;

/// Why the remote store that a pipeline names can't be used at all. That nobody answers there is no such thing.
#[derive(Debug, Error)]
pub enum RemoteFault {
    /// The address, or the environment, makes no sense.
    #[cfg(feature = "remote")]
    #[error(transparent)]
    Address(#[from] sd3pipe_remote::RemoteError),
    /// This build can't reach any.
    #[error(
        "{address} can't be used: this sd3pipe was built without the feature `remote`\nhint: build it with that, or give \
         --set store.remote=None for this once"
    )]
    NotBuilt {
        /// The address.
        address: String,
    },
    /// The pipeline names none.
    #[error(
        "the pipeline names no remote store\nhint: add store: (remote: \"s3://bucket/prefix\"), or a folder in the place of the address"
    )]
    NotNamed,
    /// The pipeline says that nothing is to be sent.
    #[error(
        "{address} is only read: the pipeline says `mode: ReadOnly`\nhint: --set store.mode=ReadWrite sends for this once"
    )]
    ReadOnly {
        /// The address.
        address: String,
    },
    /// Something did not come, or did not go.
    #[error("not everything went between here and {address}; what did is kept, and the same again goes on from there")]
    Unfinished {
        /// The address.
        address: String,
    },
}

/// The remote store that a pipeline names, if it names one.
///
/// # Errors
/// One that can't be used in this environment, or by this build.
pub fn open(places: &StorePlaces) -> Result<Option<Remote>, RemoteFault> {
    let Some(address) = &places.remote else { return Ok(None) };
    let writes = places.mode == RemoteMode::ReadWrite;
    #[cfg(feature = "remote")]
    {
        let usage = sd3pipe_remote::Use { writes, patience: std::time::Duration::from_secs(30) };
        Ok(Some(Remote::open(address, usage)?))
    }
    #[cfg(not(feature = "remote"))]
    {
        let _ = writes;
        Err(RemoteFault::NotBuilt { address: address.clone() })
    }
}

/// What stands for a remote store where there can be none.
#[cfg(not(feature = "remote"))]
mod absent {
    use sd3pipe_cache::{Digest, Key, Object, Record, Store, StoreError};

    /// A remote store, of which this build has none.
    #[derive(Debug)]
    pub enum Remote {}

    /// What went to one.
    pub struct Sent {
        /// Records.
        pub records: usize,
        /// Bytes of objects.
        pub bytes: u64,
        /// Whether all of it did.
        pub complete: bool,
    }

    impl Remote {
        /// The address.
        pub fn address(&self) -> &str {
            match *self {}
        }
        /// Whether anything is ever written there.
        pub fn writes(&self) -> bool {
            match *self {}
        }
        /// Whether nothing more is asked.
        pub fn is_gone(&self) -> bool {
            match *self {}
        }
        /// Whether an object is not there as it should be.
        pub fn lacks(&self, _: &Digest) -> bool {
            match *self {}
        }
        /// Whether anything is not.
        pub fn lacks_something(&self) -> bool {
            match *self {}
        }
        /// What the user should be told.
        pub fn notices(&self) -> Vec<String> {
            match *self {}
        }
        /// The records of these keys.
        pub fn records(&self, _: &[Key]) -> Vec<Option<Record>> {
            match *self {}
        }
        /// Whether these keys have records there.
        pub fn has_records(&self, _: &[Key]) -> Vec<Option<bool>> {
            match *self {}
        }
        /// Brings objects.
        pub fn bring(&self, _: &[Object], _: &Store, _: &(dyn Fn(u64) -> bool + Sync)) -> Result<(), StoreError> {
            match *self {}
        }
        /// Sends results.
        pub fn send(&self, _: &[Record], _: &Store, _: &(dyn Fn(u64) -> bool + Sync)) -> Result<Sent, StoreError> {
            match *self {}
        }
    }
}
