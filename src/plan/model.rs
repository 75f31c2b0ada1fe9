//! The digests of a model's networks and tokenizers, each file being read only when it is not the one that was read before.

use super::PlanError;
use crate::pipeline::Resolved;
use sd3pipe_cache::{Digest, Fingerprint, Store};
use sd3pipe_stages::{
    adapter::{self, parameters::Method},
    checkpoint::{CheckpointError, Component, ComponentSource, MmditGeometry},
    error::StageError,
    export,
    facts::{Facts, Located, TokenizerFacts, component_fingerprints, fingerprint},
    stage::Stage,
    text::tokenizer::{ClipFiles, ClipTokenizer, T5Tokenizer},
    train::parameters::Train,
};
use std::{
    collections::BTreeMap,
    fs::Metadata,
    path::{Path, PathBuf},
};

const ALL: [Component; 6] =
    [Component::Mmdit, Component::VaeEncoder, Component::VaeDecoder, Component::ClipL, Component::ClipG, Component::T5];

/// Looks at every file of the model. With no store each file is hashed anew.
pub fn facts(resolved: &Resolved, store: Option<&Store>) -> Result<Facts, PlanError> {
    let model = &resolved.pipeline.model;
    let (mut components, mut geometry) = (BTreeMap::new(), None);
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
    let adapters = adapters(resolved, &geometry, store)?;
    let device = resolved.pipeline.device.kind();
    let facts = Facts { components, adapters, geometry, clip_tokenizer, t5_tokenizer, device };
    for stage in &resolved.stages {
        if let Stage::Export(parameters) = &stage.stage {
            export::check(parameters, &facts)?;
        }
    }
    Ok(facts)
}

/// The adapters that trainings go on from. What can't be right about an adapter and this model shows here too.
fn adapters(
    resolved: &Resolved,
    geometry: &MmditGeometry,
    store: Option<&Store>,
) -> Result<BTreeMap<PathBuf, Located>, PlanError> {
    let mut adapters = BTreeMap::new();
    for stage in &resolved.stages {
        let Stage::Train(Train { method: Method::LoRA(lora), .. }) = &stage.stage else { continue };
        adapter::places(lora, geometry).map_err(StageError::from)?;
        let Some(path) = &lora.from else { continue };
        let fault = |source| PlanError::File { path: path.clone(), source };
        let before = std::fs::metadata(path).map_err(fault)?;
        let mut digests = store.map(|store| store.digests("adapter", path)).transpose()?;
        let digest = match digests.as_ref().and_then(|digests| digests.known(path, &before)) {
            Some(digest) => digest,
            None => {
                let digest = adapter::file_digest(path)?;
                if let Some(digests) = &mut digests {
                    digests.remember(path, &before, digest);
                }
                digest
            }
        };
        digests.map(|digests| digests.save()).transpose()?;
        let files = vec![(path.clone(), Fingerprint::of(&before))];
        adapters.insert(path.clone(), Located { path: path.clone(), digest, files });
    }
    Ok(adapters)
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
    let mut known = files.iter().zip(&before).map(|((path, _), metadata)| digests.known(path, metadata));
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
