//! Where a stage's results lie in `out/`, under plain names.

use crate::pipeline::{Resolved, ResolvedStage};
use sd3pipe_cache::Digest;
use sd3pipe_stages::{
    action::Artifact,
    export::{LORA_DIFFUSERS, LORA_KOHYA},
    stage::Kind,
};
use std::path::PathBuf;

/// A file in `out/`.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it lies.
    pub path: PathBuf,
    /// What a run says of it: of a file its path, of one in a folder that belongs together that folder.
    pub shown: PathBuf,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub length: u64,
}

/// The folder of a stage's results: each point of a grid has one, and where several stages write the same kind of file, each of them.
pub fn root(resolved: &Resolved, index: usize) -> PathBuf {
    let stage = &resolved.stages[index];
    let (base, point) = stage.base_and_point();
    let beside = |other: &&ResolvedStage| other.stage.kind() == stage.stage.kind() && other.base_and_point().1 == point;
    let folder = resolved.results.join(point.unwrap_or_default());
    let several = resolved.stages.iter().filter(beside).count() > 1;
    if several { folder.join(base) } else { folder }
}

/// The files of a stage that made this, none for stages whose results are for other stages.
pub fn targets(resolved: &Resolved, index: usize, artifact: &Artifact) -> Vec<Target> {
    let (kind, root) = (resolved.stages[index].stage.kind(), root(resolved, index));
    let checkpoint =
        |epoch: &str| root.join("checkpoints").join(format!("{}-epoch-{epoch:0>4}", resolved.pipeline.name));
    let lora = |epoch: &str, form: &str| {
        root.join("lora").join(format!("{}-epoch-{epoch:0>4}{form}.safetensors", resolved.pipeline.name))
    };
    let mut targets = Vec::new();
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
        targets.push(Target { path, shown, digest: entry.digest, length: entry.length });
    }
    targets
}
