//! Where things lie in a store.

use std::fs;
use std::path::{Path, PathBuf};

use crate::files::step;
use crate::store::random;
use crate::{Digest, Key, StoreError};

/// Where things lie below the root.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// What the root may hold.
    pub(crate) const FOLDERS: [&str; 6] = ["objects", "work", "tmp", "quarantine", "locks", "pins"];
    pub(crate) const FILES: [&str; 5] =
        ["FORMAT", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "index.sqlite-journal"];

    /// That of the store at `root`, whatever is there.
    pub(crate) fn at(root: &Path) -> Result<Layout, StoreError> {
        Ok(Layout { root: std::path::absolute(root).map_err(StoreError::read(root))? })
    }

    /// The store's folder, absolute.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("FORMAT")
    }
    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.sqlite")
    }
    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }
    /// The folder of the objects whose digests begin with this byte.
    pub(crate) fn shard(&self, first: u8) -> PathBuf {
        self.objects().join(format!("{first:02x}"))
    }
    pub(crate) fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let (shard, rest) = name.split_at(2);
        self.objects().join(shard).join(rest)
    }
    pub(crate) fn works(&self) -> PathBuf {
        self.root.join("work")
    }
    pub(crate) fn work(&self, key: &Key) -> PathBuf {
        self.works().join(key.to_string())
    }
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }
    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }
    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }
    /// Held shared by all who use the store; who gets it exclusively is alone and sweeps up.
    pub(crate) fn store_lock(&self) -> PathBuf {
        self.locks().join("store")
    }
    pub(crate) fn index_lock(&self) -> PathBuf {
        self.locks().join("index")
    }
    /// See live.rs.
    pub(crate) fn gate_lock(&self) -> PathBuf {
        self.locks().join("gate")
    }
    /// Held by who collects: one at a time.
    pub(crate) fn collection_lock(&self) -> PathBuf {
        self.locks().join("collection")
    }
    /// Held while the lists of who makes what are read and written; they lie beside it.
    pub(crate) fn making_lock(&self) -> PathBuf {
        self.locks().join("making")
    }
    /// A free name in quarantine, after what goes there.
    pub(crate) fn quarantine_path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let folder = self.quarantine();
        step("store.make", || fs::create_dir_all(&folder)).map_err(StoreError::write(&folder))?;
        Ok(folder.join(format!("{name}.{:016x}", random())))
    }
}
