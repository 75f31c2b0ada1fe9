//! Puts what a person wants to see into `out/`, under plain names.

use crate::{pipeline::Resolved, plan::PlanError};
use sd3pipe_cache::{Digest, Store};
use sd3pipe_stages::{
    action::Artifact,
    export::{LORA_DIFFUSERS, LORA_KOHYA},
    stage::Kind,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The folder of a pipeline's results.
pub fn folder(resolved: &Resolved) -> PathBuf {
    resolved.folder.join("out").join(&resolved.pipeline.name)
}

/// Makes the files of a stage be what its artifact says, and tells in lines what was written and what lies beside it from runs
/// before: those files are the user's to keep or to delete.
pub fn deliver(
    resolved: &Resolved,
    index: usize,
    artifact: &Artifact,
    store: &Store,
) -> Result<Vec<String>, PlanError> {
    let stage = &resolved.stages[index];
    let kind = stage.stage.kind();
    // Where several stages write the same kind of file, each has a folder of its own.
    let several = resolved.stages.iter().filter(|other| other.stage.kind() == kind).count() > 1;
    let root = if several { folder(resolved).join(&stage.name) } else { folder(resolved) };
    let checkpoint =
        |epoch: &str| root.join("checkpoints").join(format!("{}-epoch-{epoch:0>4}", resolved.pipeline.name));
    let lora = |epoch: &str, form: &str| {
        root.join("lora").join(format!("{}-epoch-{epoch:0>4}{form}.safetensors", resolved.pipeline.name))
    };
    // Where to, what, and what the run says of it: of a folder its name, and not each of its files.
    let mut wanted: Vec<(PathBuf, Digest, PathBuf)> = Vec::new();
    for entry in &artifact.entries {
        let mut shown = None;
        let path = match (kind, entry.role.as_str()) {
            (Kind::Export, "checkpoint") => checkpoint(&entry.item).with_extension("safetensors"),
            (Kind::Export, "file") => match entry.item.split_once('/') {
                Some((epoch, inside)) => shown.insert(checkpoint(epoch)).join(inside),
                None => continue,
            },
            (Kind::Export, LORA_KOHYA) => lora(&entry.item, ""),
            (Kind::Export, LORA_DIFFUSERS) => lora(&entry.item, "-diffusers"),
            (Kind::Sample, "image") => root.join("samples").join(&entry.item),
            (Kind::Sample, "sheet") => root.join(&entry.item),
            _ => continue,
        };
        let shown = shown.unwrap_or_else(|| path.clone());
        wanted.push((path, entry.digest, shown));
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    std::fs::create_dir_all(&root).map_err(|source| PlanError::File { path: root.clone(), source })?;
    let mut digests = store.digests("bytes", &root)?;
    let mut written: Vec<PathBuf> = Vec::new();
    let all: Vec<PathBuf> = wanted.iter().map(|(_, _, shown)| shown.clone()).collect();
    for (path, digest, shown) in wanted {
        let there = path.exists() && digests.digest(&path).is_ok_and(|found| found == digest);
        if !there {
            copy(&store.file(&digest)?, &path).map_err(|source| PlanError::File { path: path.clone(), source })?;
            if let Ok(metadata) = std::fs::metadata(&path) {
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

fn by_folder(paths: &[PathBuf]) -> BTreeMap<&Path, Vec<&Path>> {
    let mut folders: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for path in paths {
        folders.entry(path.parent().unwrap_or(Path::new(""))).or_default().push(path);
    }
    folders
}

/// The names in a folder that are not among `wanted`, sorted.
fn others(folder: &Path, wanted: &[PathBuf]) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let names = entries
        .filter(|entry| !wanted.contains(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// A reflink where the file system has them, so that a checkpoint lies on the disk once; else a copy. Renamed into place whole.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let result = reflink_copy::reflink_or_copy(from, &unfinished).and_then(|_| {
        let mut permissions = std::fs::metadata(&unfinished)?.permissions();
        // Objects are read-only; what lies in `out/` is the user's to change.
        #[allow(clippy::permissions_set_readonly_false)]
        permissions.set_readonly(false);
        std::fs::set_permissions(&unfinished, permissions)?;
        std::fs::rename(&unfinished, to)
    });
    if result.is_err() {
        drop(std::fs::remove_file(&unfinished));
    }
    result
}
