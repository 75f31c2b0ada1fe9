//! Puts what a person wants to see into `out/`, under plain names.

use crate::{
    pipeline::Resolved,
    plan::{
        PlanError,
        target::{self, Target},
    },
};
use sd3pipe_cache::{
    Store,
    files::{of_bytes, step},
};
use sd3pipe_stages::{action::Artifact, error::StageError};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

/// What the names of unfinished copies begin with; the number of the process follows.
const UNFINISHED: &str = ".sd3pipe-copy-";

/// Makes the files of a stage be what its artifact says, and tells in lines what was written and what lies beside it from runs
/// before: those files are the user's to keep or to delete.
pub fn deliver(
    resolved: &Resolved,
    index: usize,
    artifact: &Artifact,
    store: &Store,
) -> Result<Vec<String>, PlanError> {
    artifact.entries.iter().try_for_each(|entry| check_inside(&entry.item))?;
    let (root, wanted) = (target::root(resolved, index), target::targets(resolved, index, artifact));
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source| PlanError::Deliver { path, source }
    };
    step("deliver.make", || fs::create_dir_all(&root)).map_err(fault(&root))?;
    let mut digests = store.digests("bytes", &root)?;
    let mut written: Vec<PathBuf> = Vec::new();
    let all: Vec<PathBuf> = wanted.iter().map(|target| target.shown.clone()).collect();
    let mut held = None;
    for Target { path, shown, digest, length } in wanted {
        let mut there = || path.exists() && digests.digest(&path).is_ok_and(|found| found == digest);
        if there() {
            continue;
        }
        if held.is_none() {
            held = alone(&root);
        }
        // The other run may have put it there meanwhile.
        if !there() {
            let folder = path.parent().unwrap_or(&root);
            step("deliver.make", || fs::create_dir_all(folder)).map_err(fault(folder))?;
            if held.is_some() {
                sweep(folder);
            }
            copy(&store.file(&digest)?, folder, &path, length).map_err(fault(&path))?;
            if let Ok(metadata) = fs::metadata(&path) {
                digests.remember(&path, &metadata, digest);
            }
            if written.last() != Some(&shown) {
                written.push(shown);
            }
        }
    }
    digests.save()?;
    let shown = |path: &Path| path.strip_prefix(&resolved.folder).unwrap_or(path).display().to_string();
    let mut lines: Vec<String> = by_folder(&written)
        .into_iter()
        .map(|(folder, files)| match files[..] {
            [file] => format!("wrote {}", shown(file)),
            _ => format!("wrote {} files in {}", files.len(), shown(folder)),
        })
        .collect();
    if !written.is_empty() {
        for folder in by_folder(&all).into_keys().filter(|folder| **folder != *root) {
            let older = others(folder, &all);
            if let Some(first) = older.first() {
                lines.push(format!("{} of earlier runs lie in {} too: {first}, …", older.len(), shown(folder)));
            }
        }
    }
    Ok(lines)
}

/// Refuses a name out of the store that would lead out of the folder: no stage makes one, so somebody else did.
fn check_inside(item: &str) -> Result<(), PlanError> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if !item.is_empty() && !item.contains('\0') && Path::new(item).components().all(plain) {
        return Ok(());
    }
    let reason = format!("it has a file {item:?}, which does not lie in the folder of the results");
    Err(StageError::Unreadable { what: "list of files".to_owned(), reason }.into())
}

fn by_folder(paths: &[PathBuf]) -> BTreeMap<&Path, Vec<&Path>> {
    let mut folders: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for path in paths {
        folders.entry(path.parent().unwrap_or(Path::new(""))).or_default().push(path);
    }
    folders
}

/// The names in a folder that are not among `wanted`, sorted.
fn others(folder: &Path, wanted: &[PathBuf]) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let names = entries
        .filter(|entry| !wanted.contains(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// Removes the copies that killed runs left unfinished. What can't be removed is only in the way.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            drop(step("deliver.sweep", || fs::remove_file(entry.path())));
        }
    }
}

/// A reflink where the file system has them, so that a checkpoint lies on the disk once; else a copy.
fn copy(from: &Path, folder: &Path, to: &Path, length: u64) -> io::Result<()> {
    put_in_place(folder, to, length, |unfinished| {
        step("deliver.copy", || reflink_copy::reflink_or_copy(from, unfinished))?;
        let mut permissions = fs::metadata(unfinished)?.permissions();
        // Objects are read-only; what lies in `out/` is the user's to change.
        #[allow(clippy::permissions_set_readonly_false)]
        permissions.set_readonly(false);
        fs::set_permissions(unfinished, permissions)
    })
}

/// Makes a file be these bytes, which are in no store: whole or not at all. It is left alone if it has them.
///
/// # Errors
/// A folder that can't be written; then what was there is there still.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    step("deliver.make", || fs::create_dir_all(folder))?;
    let alone = alone(folder);
    if alone.is_some() {
        sweep(folder);
    }
    put_in_place(folder, path, bytes.len() as u64, |unfinished| step("deliver.copy", || fs::write(unfinished, bytes)))
}

/// Holds a folder until the file is closed: beside another run that delivers here, its unfinished copies could be taken for those
/// of a killed one.
fn alone(folder: &Path) -> Option<File> {
    File::open(folder).and_then(|folder| folder.lock().map(|()| folder)).ok()
}

/// Synced, because the stat cache will trust it, and renamed into place whole.
fn put_in_place(folder: &Path, to: &Path, length: u64, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let unfinished = folder.join(format!("{UNFINISHED}{}", std::process::id()));
    // Never into what lies there already: it may be a link to somebody's file.
    drop(fs::remove_file(&unfinished));
    let result = make(&unfinished)
        .and_then(|()| step("deliver.sync", || File::open(&unfinished)?.sync_data()))
        .map_err(of_bytes(length))
        .and_then(|()| step("deliver.rename", || fs::rename(&unfinished, to)));
    if result.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_out_of_the_store_stay_in_the_folder() {
        for item in ["1", "1/vae/config.json", "epoch-1-prompt-1-seed-2.png", "1/..a"] {
            assert!(check_inside(item).is_ok(), "{item}");
        }
        for item in ["", "/", "/etc/passwd", "..", "../x", "1/../../x", "1/..", "./x", "a\0b"] {
            let error = check_inside(item).unwrap_err().to_string();
            assert!(error.contains(&format!("{item:?}")) && error.contains("--force"), "{item}: {error}");
        }
    }
}
