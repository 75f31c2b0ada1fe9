//! The tokenizers of a diffusers folder: the files that the pipeline names, and what transformers needs to know beside them.

use super::config;
use crate::{
    error::StageError,
    facts::Facts,
    text::tokenizer::{CLIP_LENGTH, ClipFiles, ClipTokenizer, T5Tokenizer},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The class that takes a `tokenizer.json` as it is; those of the models have rules of their own.
const PLAIN: &str = "PreTrainedTokenizerFast";

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// One tokenizer of the folder.
pub(super) struct Tokenizer {
    pub(super) folder: &'static str,
    /// The class of transformers that loads it.
    pub(super) class: &'static str,
    /// Names and contents.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

/// The tokenizers that have files.
pub(super) fn all(facts: &Facts) -> Result<Vec<Tokenizer>, StageError> {
    let mut all = Vec::new();
    if let Some(path) = &facts.clip_tokenizer.path {
        let read = clip(path)?;
        facts.clip_tokenizer.check(&ClipTokenizer::open(path)?.identity())?;
        all.extend(read);
    }
    if let Some(tokenizer) = &facts.t5_tokenizer
        && let Some(path) = &tokenizer.path
    {
        let read = t5(path)?;
        tokenizer.check(&T5Tokenizer::open(path)?.identity())?;
        all.push(read);
    }
    Ok(all)
}

/// Both CLIPs read the same ids; what follows a text's end differs.
fn clip(path: &Path) -> Result<[Tokenizer; 2], StageError> {
    let (class, files, vocabulary) = match ClipFiles::at(path)? {
        ClipFiles::Json(path) => {
            let json = read(&path)?;
            let vocabulary = serde_json::from_slice::<Value>(&json).unwrap_or_default()["model"]["vocab"].take();
            (PLAIN, vec![("tokenizer.json".to_owned(), json)], vocabulary)
        }
        ClipFiles::Pair { vocab, merges } => {
            let vocab = read(&vocab)?;
            let vocabulary = serde_json::from_slice(&vocab).unwrap_or_default();
            let files = vec![("vocab.json".to_owned(), vocab), ("merges.txt".to_owned(), read(&merges)?)];
            ("CLIPTokenizer", files, vocabulary)
        }
    };
    let first = vocabulary.as_object().and_then(|tokens| tokens.iter().find(|(_, id)| **id == json!(0)));
    let first = first.map_or(END, |(token, _)| token.as_str());
    Ok([("tokenizer", END), ("tokenizer_2", first)].map(|(folder, padding)| {
        let own = config::file([
            ("bos_token", json!(START)),
            ("eos_token", json!(END)),
            ("model_max_length", json!(CLIP_LENGTH)),
            ("pad_token", json!(padding)),
            ("tokenizer_class", json!(class)),
            ("unk_token", json!(END)),
        ]);
        let mut files = files.clone();
        files.push(("tokenizer_config.json".to_owned(), own));
        Tokenizer { folder, class, files }
    }))
}

fn t5(path: &Path) -> Result<Tokenizer, StageError> {
    let bytes = read(&T5Tokenizer::file(path)?)?;
    let (class, name) = match bytes.trim_ascii_start().starts_with(b"{") {
        true => (PLAIN, "tokenizer.json"),
        false => ("T5TokenizerFast", "spiece.model"),
    };
    let own = config::file([
        ("eos_token", json!("</s>")),
        ("model_max_length", json!(512)),
        ("pad_token", json!("<pad>")),
        ("tokenizer_class", json!(class)),
        ("unk_token", json!("<unk>")),
    ]);
    let files = vec![(name.to_owned(), bytes), ("tokenizer_config.json".to_owned(), own)];
    Ok(Tokenizer { folder: "tokenizer_3", class, files })
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StageError> {
    std::fs::read(path).map_err(|source| StageError::File { path: path.clone(), source })
}
