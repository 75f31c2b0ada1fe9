//! Whether the disk holds what a run will write.

use crate::plan::{Bytes, Size};
use sd3pipe_cache::Store;
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The disk can't hold what will be written.
#[derive(Debug, Error)]
#[error(
    "{folder} has no room: {needed} will be written there, and {free} are free\nhint: free some with `sd3pipe gc`; put the store \
     elsewhere with --store; export fewer epochs, with Export(epochs: Last), say; or go on all the same with --ignore-space",
    folder = folder.display(), needed = Size(*needed), free = Size(*free)
)]
pub struct NoRoom {
    /// The store, or the folder of the results.
    pub folder: PathBuf,
    /// Bytes that are needed on its file system.
    pub needed: u64,
    /// Bytes that are free there.
    pub free: u64,
}

/// Refuses what the file systems of the store and of `out/` can't hold together. A file system that does not say how much is free is
/// taken to have room.
pub fn check(growth: Bytes, store: &Store, out: &Path) -> Result<(), NoRoom> {
    let one = device(store.root()).is_some() && device(store.root()) == device(out);
    let mut needed = vec![(store.root(), growth.store)];
    if !one {
        needed.push((out, growth.out));
    } else if short(store.root(), growth.store + growth.out).is_some() && !has_reflinks(store) {
        needed[0].1 += growth.out;
    }
    match needed.into_iter().find_map(|(folder, bytes)| short(folder, bytes)) {
        Some(no_room) => Err(no_room),
        None => Ok(()),
    }
}

/// The bytes that are free for a folder, which need not be there yet, if its file system says.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let statistics = rustix::fs::statvfs(existing(&folder)?).ok()?;
    Some(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

fn short(folder: &Path, needed: u64) -> Option<NoRoom> {
    let free = free_bytes(folder)?;
    (needed > free).then(|| NoRoom { folder: folder.to_owned(), needed, free })
}

/// The folder itself, or the nearest above it that is there.
fn existing(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|above| above.exists())
}

fn device(folder: &Path) -> Option<u64> {
    std::fs::metadata(existing(folder)?).ok().map(|metadata| metadata.dev())
}

/// Whether files of the store's file system can share their blocks, so that what lies in `out/` takes no room of its own.
fn has_reflinks(store: &Store) -> bool {
    let paths = [store.temporary_path(), store.temporary_path()];
    let shared = std::fs::write(&paths[0], [1; 4096]).is_ok() && reflink_copy::reflink(&paths[0], &paths[1]).is_ok();
    for path in &paths {
        // What can't be removed is swept up with the store's other temporary files.
        drop(std::fs::remove_file(path));
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_refused_with_its_folder_and_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let out = folder.path().join("not/there/yet");
        assert!(check(Bytes { store: 1000, out: 1000 }, &store, &out).is_ok());
        let refused = check(Bytes { store: 1 << 60, out: 0 }, &store, &out).unwrap_err();
        assert_eq!((refused.folder.as_path(), refused.needed), (store.root(), 1 << 60));
        assert!(refused.free > 0 && refused.to_string().contains("1.0 EiB"), "{refused}");
        // Copies count unless the file system shares blocks.
        let copies = check(Bytes { store: 1000, out: 1 << 60 }, &store, &out);
        assert_eq!(copies.is_err(), !has_reflinks(&store));
        assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    }
}
