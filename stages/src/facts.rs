//! What is known of a model without loading it: where its networks lie, and the digests of what they read.

use crate::{
    adapter::{
        Base, Clips,
        parameters::{Lora, Method},
    },
    checkpoint::{CheckpointError, Component, ComponentSource, MmditGeometry, component_files},
    device::DeviceKind,
    error::StageError,
};
use sd3pipe_cache::{Digest, Fingerprint};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// One network of the model.
#[derive(Clone, Debug)]
pub struct Located {
    /// The file or diffusers folder that the pipeline names for it.
    pub path: PathBuf,
    /// The digest of its tensors.
    pub digest: Digest,
    /// The files that it lies in, as they were when the digest was taken.
    pub files: Vec<(PathBuf, Fingerprint)>,
}

/// The files that a network lies in, as they are now.
///
/// # Errors
/// When one of them can't be looked at, or a folder doesn't hold the network.
pub fn component_fingerprints(
    path: &Path,
    component: Component,
) -> Result<Vec<(PathBuf, Fingerprint)>, CheckpointError> {
    component_files(path, component)?.into_iter().map(fingerprint).collect()
}

/// A file of a model, as it is now.
///
/// # Errors
/// When it can't be looked at.
pub fn fingerprint(path: PathBuf) -> Result<(PathBuf, Fingerprint), CheckpointError> {
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok((path, Fingerprint::of(&metadata))),
        Err(source) => Err(CheckpointError::Unreadable { path, source }),
    }
}

/// A tokenizer's file, or the built-in vocabulary.
#[derive(Clone, Debug)]
pub struct TokenizerFacts {
    /// The file or folder; the built-in vocabulary when absent.
    pub path: Option<PathBuf>,
    /// The digest of what determines its ids.
    pub identity: Digest,
    /// The files that it was read from, as they were.
    pub files: Vec<(PathBuf, Fingerprint)>,
}

impl TokenizerFacts {
    /// Makes sure that a tokenizer that was opened anew is still what the key says.
    ///
    /// # Errors
    /// When it's another.
    pub fn check(&self, identity: &[u8]) -> Result<(), StageError> {
        match Digest::of(identity) == self.identity {
            true => Ok(()),
            false => Err(StageError::Changed { paths: self.path.iter().cloned().collect() }),
        }
    }
}

/// The digest of a file that a stage names, as keys have it.
pub fn digest_of(located: &BTreeMap<PathBuf, Located>, path: &Path) -> Value {
    located.get(path).map_or(Value::Null, |located| located.digest.to_string().into())
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The networks that the model has.
    pub components: BTreeMap<Component, Located>,
    /// The adapters that stages name by file, by the paths that the pipeline names: their digests are of their tensors.
    pub adapters: BTreeMap<PathBuf, Located>,
    /// The pictures that drawing starts from, likewise: their digests are of their bytes.
    pub pictures: BTreeMap<PathBuf, Located>,
    /// The MMDiT's geometry.
    pub geometry: MmditGeometry,
    /// The tensors of the CLIPs that the model has.
    pub clips: Clips,
    /// CLIP's tokenizer.
    pub clip_tokenizer: TokenizerFacts,
    /// T5's tokenizer, if the model has a T5.
    pub t5_tokenizer: Option<TokenizerFacts>,
    /// The numeric class of what is computed.
    pub device: DeviceKind,
}

/// The text encoders, in the order in which SD3 lines them up.
pub const TEXT_ENCODERS: [Component; 3] = [Component::ClipL, Component::ClipG, Component::T5];

impl Facts {
    /// What a key calls a network.
    pub fn name(component: Component) -> &'static str {
        match component {
            Component::Mmdit => "mmdit",
            Component::VaeEncoder => "vae_encoder",
            Component::VaeDecoder => "vae_decoder",
            Component::ClipL => "clip_l",
            Component::ClipG => "clip_g",
            Component::T5 => "t5xxl",
        }
    }

    /// The part of a key that names networks by what is in them; absent ones are null.
    pub fn digests(&self, components: &[Component]) -> Value {
        let digest = |component: &Component| {
            self.components.get(component).map_or(Value::Null, |located| located.digest.to_string().into())
        };
        components
            .iter()
            .map(|component| (Self::name(*component).to_owned(), digest(component)))
            .collect::<Map<_, _>>()
            .into()
    }

    /// The part of a key that names the text encoders and their tokenizers.
    pub fn text_encoders(&self) -> Value {
        let mut value = self.digests(&TEXT_ENCODERS);
        if let Value::Object(map) = &mut value {
            map.insert("clip_tokenizer".to_owned(), self.clip_tokenizer.identity.to_string().into());
            let t5 = self.t5_tokenizer.as_ref().map_or(Value::Null, |tokenizer| tokenizer.identity.to_string().into());
            map.insert("t5_tokenizer".to_owned(), t5);
        }
        value
    }

    /// Opens a network, and makes sure that it lies in the files that the digest was taken of.
    ///
    /// # Errors
    /// When they are no model files any more, or were written to since.
    pub fn open(&self, component: Component) -> Result<Option<ComponentSource>, StageError> {
        let Some(located) = self.components.get(&component) else { return Ok(None) };
        self.check(component)?;
        Ok(Some(ComponentSource::open(&located.path, component)?))
    }

    /// Opens the networks that an adapter belongs to, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// As there, and when the model lacks one of them.
    pub fn base(&self, networks: &[Component]) -> Result<Base<'_>, StageError> {
        let open = |network: &Component| {
            self.open(*network)?.ok_or_else(|| StageError::Unfit(format!("the model has no {network}")))
        };
        let sources = networks.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Ok(Base::new(&self.geometry, &self.clips, sources))
    }

    /// The part of a training's key that names what it starts from. CLIPs with an adapter read the captions themselves.
    pub fn start(&self, method: &Method) -> Value {
        let Method::LoRA(lora) = method else { return self.digests(&[Component::Mmdit]) };
        let mut start = self.digests(&lora.networks());
        let Value::Object(fields) = &mut start else { return start };
        if lora.clips().next().is_some() {
            fields.insert("clip_tokenizer".to_owned(), self.clip_tokenizer.identity.to_string().into());
        }
        if let Lora { from: Some(path), .. } = lora {
            fields.insert("adapter".to_owned(), digest_of(&self.adapters, path));
        }
        start
    }

    /// Makes sure that a network's files were not written to since the digest was taken. Called again after loading: what was
    /// mapped may have changed underneath.
    pub fn check(&self, component: Component) -> Result<(), StageError> {
        let Some(located) = self.components.get(&component) else { return Ok(()) };
        match component_fingerprints(&located.path, component) {
            Ok(files) if files == located.files => Ok(()),
            _ => Err(StageError::Changed { paths: vec![located.path.clone()] }),
        }
    }

    /// The same for an adapter.
    pub fn check_adapter(&self, path: &Path) -> Result<(), StageError> {
        let known = |(file, before): &(PathBuf, Fingerprint)| {
            std::fs::metadata(file).is_ok_and(|now| Fingerprint::of(&now) == *before)
        };
        match self.adapters.get(path) {
            Some(located) if located.files.iter().all(known) => Ok(()),
            _ => Err(StageError::Changed { paths: vec![path.to_owned()] }),
        }
    }

    /// The networks, and the adapters and pictures.
    pub fn located(&self) -> impl Iterator<Item = &Located> {
        self.components.values().chain(self.adapters.values()).chain(self.pictures.values())
    }

    /// Every file of the model, with its state when the digests were taken.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Fingerprint)> {
        let tokenizers = self.t5_tokenizer.iter().chain([&self.clip_tokenizer]).flat_map(|tokenizer| &tokenizer.files);
        let weights = self.located().flat_map(|located| &located.files);
        weights.chain(tokenizers).map(|(path, fingerprint)| (path.as_path(), fingerprint))
    }
}
