//! The digests of a model's networks and tokenizers, each file being read only when it is not the one that was read before.

use super::PlanError;
use crate::pipeline::Resolved;
use sd3pipe_cache::{Digest, Fingerprint, Store};
use sd3pipe_stages::{
    checkpoint::{CheckpointError, Component, ComponentSource, MmditGeometry, TensorFile},
    facts::{Facts, Located, TokenizerFacts},
    text::tokenizer::{ClipTokenizer, T5Tokenizer},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

const ALL: [Component; 6] =
    [Component::Mmdit, Component::VaeEncoder, Component::VaeDecoder, Component::ClipL, Component::ClipG, Component::T5];

/// Looks at every file of the model. With no store each file is hashed anew.
pub fn facts(resolved: &Resolved, store: Option<&Store>) -> Result<Facts, PlanError> {
    let model = &resolved.pipeline.model;
    let mut files: BTreeMap<PathBuf, Arc<TensorFile>> = BTreeMap::new();
    let (mut components, mut geometry) = (BTreeMap::new(), None);
    for component in ALL {
        let (path, named) = model.file(component);
        let file = match files.get(path) {
            Some(file) => Arc::clone(file),
            None => Arc::clone(files.entry(path.to_owned()).or_insert(Arc::new(TensorFile::open(path)?))),
        };
        let source = match ComponentSource::find(file, component) {
            Ok(source) => source,
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
        let metadata = std::fs::metadata(path).map_err(|source| PlanError::File { path: path.to_owned(), source })?;
        let digest =
            remembered(path, &format!("tensors:{}", Facts::name(component)), store, || source.component_digest())?;
        components
            .insert(component, Located { path: path.to_owned(), digest, fingerprint: Fingerprint::of(&metadata) });
    }
    let path = &model.checkpoint;
    let geometry = geometry
        .ok_or_else(|| PlanError::File { path: path.clone(), source: std::io::ErrorKind::InvalidData.into() })?;
    let clip_tokenizer = match &model.tokenizers.clip {
        Some(path) => {
            TokenizerFacts { path: Some(path.clone()), identity: Digest::of(&ClipTokenizer::open(path)?.identity()) }
        }
        None => TokenizerFacts { path: None, identity: Digest::of(&ClipTokenizer::built_in_identity()) },
    };
    let t5_tokenizer = match &model.tokenizers.t5 {
        Some(path) => Some(TokenizerFacts {
            path: Some(path.clone()),
            identity: Digest::of(&T5Tokenizer::open(path)?.identity()),
        }),
        None => None,
    };
    Ok(Facts { components, geometry, clip_tokenizer, t5_tokenizer, device: resolved.pipeline.device.kind() })
}

fn remembered(
    path: &Path,
    aspect: &str,
    store: Option<&Store>,
    compute: impl FnOnce() -> std::io::Result<Digest>,
) -> Result<Digest, PlanError> {
    let fault = |source| PlanError::File { path: path.to_owned(), source };
    let Some(store) = store else { return compute().map_err(fault) };
    let mut digests = store.digests(aspect, path)?;
    let digest = digests.digest_with(path, |_| compute()).map_err(fault)?;
    digests.save()?;
    Ok(digest)
}
