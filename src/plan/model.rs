//! The digests of a model's networks and tokenizers, each file being read only when it is not the one that was read before.

use super::PlanError;
use crate::pipeline::Resolved;
use sd3pipe_cache::{Digest, Fingerprint, Store};
use sd3pipe_stages::{
    adapter::{self, Clips, parameters::Method},
    checkpoint::{CheckpointError, Component, ComponentSource, MmditGeometry},
    error::StageError,
    export,
    facts::{Facts, Located, TokenizerFacts, component_fingerprints, fingerprint},
    sample::parameters::{Sample, StartImage},
    stage::Stage,
    text::tokenizer::{ClipFiles, ClipTokenizer, T5Tokenizer},
    train::parameters::Train,
};
use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    path::{Path, PathBuf},
};

const ALL: [Component; 6] =
    [Component::Mmdit, Component::VaeEncoder, Component::VaeDecoder, Component::ClipL, Component::ClipG, Component::T5];

/// Looks at every file of the model. With no store each file is hashed anew.
pub fn facts(resolved: &Resolved, store: Option<&Store>) -> Result<Facts, PlanError> {
    let model = &resolved.pipeline.model;
    let (mut components, mut geometry, mut clips) = (BTreeMap::new(), None, Clips::new());
    for component in ALL {
        let (path, named) = model.file(component);
        let looked = component_fingerprints(path, component)
            .and_then(|files| Ok((files, ComponentSource::open(path, component)?)));
        let (files, source) = match looked {
            Ok(looked) => looked,
            // A checkpoint without text encoders is a usual one; a file that is named for a network must hold it.
            Err(CheckpointError::NoComponent { .. }) if !named => continue,
            Err(error) => return Err(error.into()),
        };
        if component == Component::Mmdit {
            let shapes = |name: &str| source.shape(name).map(<[usize]>::to_vec);
            geometry = Some(MmditGeometry::of(shapes).map_err(|source| CheckpointError::Geometry {
                path: path.into(),
                component,
                source,
            })?);
        }
        if matches!(component, Component::ClipL | Component::ClipG) {
            let shapes = source.tensors().map(|(name, view)| (name.to_owned(), view.shape));
            clips.insert(component, shapes.collect());
        }
        let digest = component_digest(path, &files, &source, store)?;
        components.insert(component, Located { path: path.to_owned(), digest, files });
    }
    let path = &model.checkpoint;
    let geometry = geometry
        .ok_or_else(|| PlanError::File { path: path.clone(), source: std::io::ErrorKind::InvalidData.into() })?;
    // Files are looked at before they are read: an edit in between then shows as one during the run.
    let clip_tokenizer = match model.clip_tokenizer() {
        Some(path) => {
            let files = match ClipFiles::at(&path)? {
                ClipFiles::Pair { vocab, merges } => vec![fingerprint(vocab)?, fingerprint(merges)?],
                ClipFiles::Json(json) => vec![fingerprint(json)?],
            };
            let identity = Digest::of(&ClipTokenizer::open(&path)?.identity());
            TokenizerFacts { identity, path: Some(path), files }
        }
        None => {
            let identity = Digest::of(&ClipTokenizer::built_in_identity());
            TokenizerFacts { path: None, identity, files: Vec::new() }
        }
    };
    let t5_tokenizer = match model.t5_tokenizer() {
        Some(path) => {
            let files = vec![fingerprint(T5Tokenizer::file(&path)?)?];
            let identity = Digest::of(&T5Tokenizer::open(&path)?.identity());
            Some(TokenizerFacts { identity, path: Some(path), files })
        }
        None => None,
    };
    let adapters = adapters(resolved, &geometry, &clips, store)?;
    let device = resolved.pipeline.device_kind();
    let pictures = pictures(resolved, store)?;
    let facts = Facts { components, adapters, pictures, geometry, clips, clip_tokenizer, t5_tokenizer, device };
    for stage in &resolved.stages {
        if let Stage::Export(parameters) = &stage.stage {
            export::check(parameters, &facts)?;
        }
    }
    Ok(facts)
}

/// The adapters that stages name by file. What can't be right about a training's adapter and this model shows here too.
fn adapters(
    resolved: &Resolved,
    geometry: &MmditGeometry,
    clips: &Clips,
    store: Option<&Store>,
) -> Result<BTreeMap<PathBuf, Located>, PlanError> {
    let mut adapters = BTreeMap::new();
    for stage in &resolved.stages {
        let path = match &stage.stage {
            Stage::Train(Train { method: Method::LoRA(lora), .. }) => {
                adapter::places(lora, geometry, clips).map_err(StageError::from)?;
                lora.from.as_ref()
            }
            Stage::Sample(Sample { lora: Some(lora), .. }) => Some(&lora.path),
            _ => None,
        };
        if let Some(path) = path {
            adapters.insert(path.clone(), file(path, "adapter", store, || Ok(adapter::file_digest(path)?))?);
        }
    }
    Ok(adapters)
}

/// The pictures that drawing starts from.
fn pictures(resolved: &Resolved, store: Option<&Store>) -> Result<BTreeMap<PathBuf, Located>, PlanError> {
    let images = resolved.stages.iter().filter_map(|stage| match &stage.stage {
        Stage::Sample(sample) => sample.image.as_ref(),
        _ => None,
    });
    let located = |StartImage { path, .. }: &StartImage| {
        let fault = |source| PlanError::File { path: path.clone(), source };
        let digest = || File::open(path).and_then(Digest::of_reader).map(|(digest, _)| digest).map_err(fault);
        Ok((path.clone(), file(path, "bytes", store, digest)?))
    };
    images.map(located).collect()
}

/// A file whose digest, of that aspect, is remembered while it is the same file.
fn file(
    path: &Path,
    aspect: &str,
    store: Option<&Store>,
    digest: impl FnOnce() -> Result<Digest, PlanError>,
) -> Result<Located, PlanError> {
    let fault = |source| PlanError::File { path: path.to_owned(), source };
    let before = std::fs::metadata(path).map_err(fault)?;
    let mut digests = store.map(|store| store.digests(aspect, path)).transpose()?;
    let digest = match digests.as_ref().and_then(|digests| digests.known(path, &Fingerprint::of(&before))) {
        Some(digest) => digest,
        None => {
            let digest = digest()?;
            if let Some(digests) = &mut digests {
                digests.remember(path, &before, digest);
            }
            digest
        }
    };
    digests.map(|digests| digests.save()).transpose()?;
    Ok(Located { path: path.to_owned(), digest, files: vec![(path.to_owned(), Fingerprint::of(&before))] })
}

/// The digest of a network's tensors: remembered for each of the files that it lies in, and trusted while all of them say the same.
pub(super) fn component_digest(
    path: &Path,
    files: &[(PathBuf, Fingerprint)],
    source: &ComponentSource,
    store: Option<&Store>,
) -> Result<Digest, PlanError> {
    let fault = |source| PlanError::File { path: path.to_owned(), source };
    let Some(store) = store else { return source.component_digest().map_err(fault) };
    let mut aspect = format!("tensors:{}", Facts::name(source.component()));
    if files.len() > 1 {
        // What is known of one shard holds for these shards together only.
        let names: Vec<_> = files.iter().map(|(path, _)| path.to_string_lossy()).collect();
        aspect = format!("{aspect}:{}", Digest::of(names.join("\n").as_bytes()));
    }
    let mut digests = store.digests(&aspect, path)?;
    let look = || {
        files.iter().map(|(path, _)| std::fs::metadata(path)).collect::<std::io::Result<Vec<Metadata>>>().map_err(fault)
    };
    let before = look()?;
    let mut known =
        files.iter().zip(&before).map(|((path, _), metadata)| digests.known(path, &Fingerprint::of(metadata)));
    let first = known.next().flatten();
    if let Some(digest) = first
        && known.all(|other| other == first)
    {
        return Ok(digest);
    }
    let digest = source.component_digest().map_err(fault)?;
    let same = |(metadata, (_, opened)): (&Metadata, &(PathBuf, Fingerprint))| Fingerprint::of(metadata) == *opened;
    if !look()?.iter().zip(files).all(same) || !before.iter().zip(files).all(same) {
        return Err(fault(std::io::Error::other(
            "it changed while it was read: run again when nothing writes to it any more",
        )));
    }
    for ((path, _), metadata) in files.iter().zip(&before) {
        digests.remember(path, metadata, digest);
    }
    digests.save()?;
    Ok(digest)
}
