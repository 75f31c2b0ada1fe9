//! The model that a pipeline starts from: which files or folders hold which of its networks.

use crate::checkpoint::Component;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The files of a model, as a pipeline declares them once. For each network a diffusers folder, or the folder of that network
/// in one, will do as well as a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The single-file checkpoint: the MMDiT, nearly always the VAE, sometimes the text encoders. Or a diffusers folder, which
    /// has all of them, and the tokenizers. Here and in the place of every other file of a model may stand its address at Hugging Face,
    /// `hf://owner/repo/file` or `hf://owner/repo/file@revision`: `run` downloads it once, into the cache that all of its programs share.
    pub checkpoint: PathBuf,
    /// A VAE in a file of its own; the checkpoint's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<PathBuf>,
    /// CLIP-L in a file of its own; the checkpoint's when absent, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_l: Option<PathBuf>,
    /// CLIP-G in a file of its own; the checkpoint's when absent, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_g: Option<PathBuf>,
    /// The T5-XXL encoder in a file of its own; the checkpoint's when absent, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t5xxl: Option<PathBuf>,
    /// The tokenizers.
    #[serde(default)]
    pub tokenizers: Tokenizers,
}

/// The tokenizers' files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokenizers {
    /// CLIP's: a `tokenizer.json`, or a folder with `vocab.json` and `merges.txt`. When absent, that of the diffusers folder which
    /// the checkpoint is, or the vocabulary of OpenAI's CLIP, which is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<PathBuf>,
    /// T5's: a `tokenizer.json` or a `spiece.model`, or a folder with one of them. When absent, that of the diffusers folder which
    /// the checkpoint is; otherwise needed when the model has a T5 encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t5: Option<PathBuf>,
}

impl Model {
    /// The file or folder in which a component is to be found, and whether the pipeline names it for that.
    pub fn file(&self, component: Component) -> (&Path, bool) {
        let own = match component {
            Component::Mmdit => None,
            Component::VaeEncoder | Component::VaeDecoder => self.vae.as_deref(),
            Component::ClipL => self.clip_l.as_deref(),
            Component::ClipG => self.clip_g.as_deref(),
            Component::T5 => self.t5xxl.as_deref(),
        };
        match own {
            Some(path) => (path, true),
            None => (&self.checkpoint, matches!(component, Component::Mmdit)),
        }
    }

    /// CLIP's tokenizer, if it's not the built-in one.
    pub fn clip_tokenizer(&self) -> Option<PathBuf> {
        self.tokenizers.clip.clone().or_else(|| self.tokenizer_folder("tokenizer"))
    }

    /// T5's tokenizer, if there is one.
    pub fn t5_tokenizer(&self) -> Option<PathBuf> {
        self.tokenizers.t5.clone().or_else(|| self.tokenizer_folder("tokenizer_3"))
    }

    fn tokenizer_folder(&self, name: &str) -> Option<PathBuf> {
        Some(self.checkpoint.join(name)).filter(|path| path.is_dir())
    }

    /// Every path, with the name of its field, for making it absolute.
    pub fn paths_mut(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        let optional = [
            ("vae", &mut self.vae),
            ("clip_l", &mut self.clip_l),
            ("clip_g", &mut self.clip_g),
            ("t5xxl", &mut self.t5xxl),
            ("tokenizers.clip", &mut self.tokenizers.clip),
            ("tokenizers.t5", &mut self.tokenizers.t5),
        ];
        let optional = optional.into_iter().filter_map(|(name, path)| path.as_mut().map(|path| (name, path)));
        std::iter::once(("checkpoint", &mut self.checkpoint)).chain(optional).collect()
    }
}
