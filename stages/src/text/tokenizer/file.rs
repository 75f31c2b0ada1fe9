//! A tokenizer that was read from a file, with what it must not do kept out.

use std::cell::Cell;
use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::{ModelWrapper, PostProcessorWrapper, Tokenizer};

use super::error::TokenizerError;
use super::shape;

/// The largest file that is read as a tokenizer, in bytes. T5's is below 3 MiB.
const LARGEST_FILE: u64 = 32 << 20;

const FRESH_COPY: &str = "get a fresh copy of it";

/// Reads a tokenizer's file whole, unless it is too large to be one.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let failed = |source| TokenizerError::Read { path: path.to_owned(), source };
    // Asked before opening, because opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(malformed(path, "it is no file"));
    }
    let file = fs::File::open(path).map_err(failed)?;
    let too_large = |length| TokenizerError::TooLarge { path: path.to_owned(), length, limit: LARGEST_FILE };
    let length = file.metadata().map_err(failed)?.len();
    if length > LARGEST_FILE {
        return Err(too_large(length));
    }
    let mut bytes = Vec::new();
    // It may be growing, so the limit holds for what is read as well.
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// A file is no usable tokenizer, for this reason.
pub(super) fn malformed(path: &Path, reason: impl ToString) -> TokenizerError {
    TokenizerError::Malformed { path: path.to_owned(), reason: reason.to_string(), hint: FRESH_COPY }
}

/// A tokenizer of the `tokenizers` crate and the file that it came from.
pub(super) struct FileTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
}

impl FileTokenizer {
    /// Opens the content of a `tokenizer.json`. The padding and the truncation that it may ask for are not used, nor
    /// is its post-processor, which adds special tokens: the encoders' own rules decide on these.
    pub(super) fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, TokenizerError> {
        shape::check_json(bytes).map_err(|reason| malformed(path, reason))?;
        Self::build(path, || {
            let mut tokenizer = Tokenizer::from_bytes(bytes)?;
            tokenizer.with_padding(None).with_post_processor(None::<PostProcessorWrapper>).with_truncation(None)?;
            Ok(tokenizer)
        })
    }

    /// Builds a tokenizer from what was read from `path`.
    pub(super) fn build(
        path: &Path,
        make: impl FnOnce() -> tokenizers::Result<Tokenizer>,
    ) -> Result<Self, TokenizerError> {
        let tokenizer = guarded(make).map_err(|reason| malformed(path, reason))?;
        match tokenizer.get_model() {
            ModelWrapper::BPE(model) if model.dropout.is_some_and(|probability| probability > 0.0) => {
                return Err(TokenizerError::Random { path: path.to_owned() });
            }
            ModelWrapper::BPE(_) | ModelWrapper::Unigram(_) => {}
            // WordPiece takes time by the square of a word's length.
            _ => return Err(malformed(path, "its model is neither BPE, as CLIP's, nor Unigram, as T5's")),
        }
        Ok(Self { tokenizer, path: path.to_owned() })
    }

    /// The file that the tokenizer came from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of a text, without any that mark its start or end.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        guarded(|| Ok(self.tokenizer.encode_fast(text, false)?.get_ids().to_vec()))
            .map_err(|reason| TokenizerError::Encode { path: self.path.clone(), text: text.to_owned(), reason })
    }

    /// The id of a token that `family` needs.
    pub(super) fn id_of(&self, token: &'static str, family: &'static str) -> Result<u32, TokenizerError> {
        let missing = || TokenizerError::MissingToken { path: self.path.clone(), token, family };
        self.tokenizer.token_to_id(token).ok_or_else(missing)
    }

    /// The token with the largest id, and that id.
    pub(super) fn largest(&self) -> Option<(String, u32)> {
        // The name decides between two tokens of one id, so that the answer does not depend on a map's order.
        self.tokenizer.get_vocab(true).into_iter().max_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)))
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, right now, is one of the `tokenizers` crate that becomes an error: a hook need not tell of it.
pub fn panics_are_caught() -> bool {
    GUARDED.get()
}

/// Does what the `tokenizers` crate does with a file that was not checked: it indexes and unwraps by what the file
/// says (a `Precompiled` normalizer, a prefix longer than its token), so a damaged file makes it panic.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let outer = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("its tables contradict one another".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_charsmap_that_makes_no_sense_is_an_error() {
        let json = r#"{"version": "1.0", "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}}"#;
        let error = FileTokenizer::from_json(Path::new("bad.json"), json.as_bytes()).err().unwrap();
        assert!(error.to_string().starts_with("bad.json is not a usable tokenizer"), "{error}");
    }

    #[test]
    fn a_charsmap_that_points_nowhere_is_an_error_when_a_text_meets_it() {
        // A trie of one unit: looking up a letter reads far behind it.
        let json = r#"{"version": "1.0", "normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}}"#;
        let tokenizer = FileTokenizer::from_json(Path::new("bad.json"), json.as_bytes()).unwrap();
        assert!(matches!(tokenizer.ids("a"), Err(TokenizerError::Encode { .. })));
    }

    /// A template that repeats the text a thousand times, say; its special tokens are not asked for in any case.
    #[test]
    fn the_post_processor_is_not_used() {
        let json = |template: &str| {
            format!(
                r#"{{"version": "1.0", "model": {{"type": "BPE", "vocab": {{"a": 0}}, "merges": []}},
                    "post_processor": {{"type": "TemplateProcessing", "single": [{template}], "pair": [], "special_tokens": {{}}}}}}"#
            )
        };
        let text = r#"{"Sequence": {"id": "A", "type_id": 0}}"#;
        let json = json(&vec![text; 1000].join(","));
        let tokenizer = FileTokenizer::from_json(Path::new("t.json"), json.as_bytes()).unwrap();
        assert_eq!(tokenizer.ids("a").unwrap(), [0]);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        assert!(matches!(read(Path::new("/dev/zero")), Err(TokenizerError::Malformed { .. })));
    }

    #[test]
    fn merges_that_depend_on_chance_are_refused() {
        let json = r#"{"version": "1.0", "model": {"type": "BPE", "dropout": 0.1, "vocab": {"a": 0}, "merges": []}}"#;
        let error = FileTokenizer::from_json(Path::new("bad.json"), json.as_bytes()).err().unwrap();
        assert!(matches!(error, TokenizerError::Random { .. }), "{error}");
    }

    #[test]
    fn a_model_of_another_kind_is_refused() {
        let json = r#"{"version": "1.0", "model": {"type": "WordPiece", "unk_token": "a", "vocab": {"a": 0},
            "continuing_subword_prefix": "", "max_input_chars_per_word": 1000000000}}"#;
        let error = FileTokenizer::from_json(Path::new("bad.json"), json.as_bytes()).err().unwrap();
        assert!(error.to_string().contains("neither BPE"), "{error}");
    }

    #[test]
    fn a_file_as_large_as_a_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t5xxl.safetensors");
        fs::File::create(&path).unwrap().set_len(LARGEST_FILE + 1).unwrap();
        assert!(matches!(read(&path), Err(TokenizerError::TooLarge { .. })));
        assert!(matches!(read(&folder.path().join("none")), Err(TokenizerError::Read { .. })));
    }
}
