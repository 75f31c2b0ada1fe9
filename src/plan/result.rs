//! What a stage made, by its digest; its bytes are read only when somebody needs them.

use super::PlanError;
use sd3pipe_cache::{Digest, Store, StoreError};
use sd3pipe_stages::{action::Artifact, captions::Items, error::StageError};
use std::rc::Rc;

/// A stage's artifact: in the store, or so far only in memory.
#[derive(Clone, Debug)]
pub struct StageResult {
    /// The digest of its bytes: what downstream keys read, so that an equal result reruns nothing below.
    pub digest: Digest,
    /// Its bytes, when it is not read from the store.
    bytes: Option<Rc<Vec<u8>>>,
    /// Whether it stands for one that has yet to be made: then objects that it names are not there.
    pub foreseen: bool,
}

impl StageResult {
    /// One that lies in the store.
    pub fn stored(digest: Digest) -> Self {
        Self { digest, bytes: None, foreseen: false }
    }

    /// One that is only known here.
    pub fn in_memory(bytes: Vec<u8>) -> Self {
        Self { digest: Digest::of(&bytes), bytes: Some(Rc::new(bytes)), foreseen: false }
    }

    /// One that stands for what will be made.
    pub fn foreseen(bytes: Vec<u8>) -> Self {
        Self { foreseen: true, ..Self::in_memory(bytes) }
    }

    /// Its bytes.
    pub fn bytes(&self, store: Option<&Store>) -> Result<Rc<Vec<u8>>, StoreError> {
        match (&self.bytes, store) {
            (Some(bytes), _) => Ok(Rc::clone(bytes)),
            (None, Some(store)) => store.read(&self.digest).map(Rc::new),
            (None, None) => Err(StoreError::Missing { digest: self.digest }),
        }
    }

    /// The artifact of a stage other than captions.
    pub fn artifact(&self, store: Option<&Store>) -> Result<Artifact, PlanError> {
        let bytes = self.bytes(store)?;
        Artifact::from_bytes(&bytes).map_err(|error| self.unreadable("artifact", &error))
    }

    /// The items of a captions stage.
    pub fn items(&self, store: Option<&Store>) -> Result<Items, PlanError> {
        let bytes = self.bytes(store)?;
        Items::from_json(&bytes).map_err(|error| self.unreadable("list of items", &error))
    }

    fn unreadable(&self, what: &str, error: &serde_json::Error) -> PlanError {
        let what = format!("{what} {}", self.digest.short());
        PlanError::Stage(StageError::Unreadable { what, reason: error.to_string() })
    }
}
