//! CLIP's tokenizer: byte-pair encoding of lower-case words, 77 tokens a text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::cleaning;
use super::error::TokenizerError;
use super::file::{FileTokenizer, malformed, read};

/// The tokens that a CLIP text encoder reads, the start and the end of the text among them.
pub const CLIP_LENGTH: usize = 77;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const FAMILY: &str = "CLIP";

/// Words as CLIP's original tokenizer finds them (`SimpleTokenizer.pat`).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What follows the end of a text that is shorter than [`CLIP_LENGTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipPad {
    /// The end of the text again: CLIP-L.
    EndOfText,
    /// Id 0: CLIP-G.
    Zero,
}

/// A text as CLIP reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipTokens {
    /// [`CLIP_LENGTH`] ids: the start of the text, the text, its end, padding.
    pub ids: Vec<u32>,
    /// The length of the whole text with its start and end; what is above [`CLIP_LENGTH`] was cut off before the end.
    pub length_before_truncation: usize,
}

/// From a text to the ids that CLIP-L and CLIP-G read, which share one vocabulary.
///
/// The same ids as transformers' `CLIPTokenizer` with ftfy installed gives, as sd-scripts uses it
/// (`strategy_sd3.py`, `Sd3TokenizeStrategy`), apart from what ftfy does beyond these repairs: HTML entities,
/// characters of windows-1252, ligatures, widths, quotes, control characters, NFC.
pub struct ClipTokenizer {
    vocabulary: Vocabulary,
    start: u32,
    end: u32,
    identity: Vec<u8>,
}

/// The files that a CLIP tokenizer is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClipFiles {
    /// The two files of CLIP's own kind.
    Pair {
        /// `vocab.json`: ids by token.
        vocab: PathBuf,
        /// `merges.txt`: pairs in the order of merging.
        merges: PathBuf,
    },
    /// A `tokenizer.json`.
    Json(PathBuf),
}

impl ClipFiles {
    /// The files that [`ClipTokenizer::open`] reads for a path.
    ///
    /// # Errors
    /// If the path is a folder with neither in it.
    pub fn at(path: &Path) -> Result<Self, TokenizerError> {
        if path.is_dir() {
            let (vocab, merges, json) = (path.join("vocab.json"), path.join("merges.txt"), path.join("tokenizer.json"));
            return if vocab.is_file() && merges.is_file() {
                Ok(Self::Pair { vocab, merges })
            } else if json.is_file() {
                Ok(Self::Json(json))
            } else {
                let expected = "vocab.json with merges.txt, or tokenizer.json";
                Err(TokenizerError::EmptyFolder { path: path.to_owned(), expected })
            };
        }
        Ok(match path.file_name().and_then(|name| name.to_str()) {
            Some("vocab.json") => Self::Pair { vocab: path.to_owned(), merges: path.with_file_name("merges.txt") },
            Some("merges.txt") => Self::Pair { vocab: path.with_file_name("vocab.json"), merges: path.to_owned() },
            _ => Self::Json(path.to_owned()),
        })
    }
}

enum Vocabulary {
    BuiltIn(Box<instant_clip_tokenizer::Tokenizer>),
    /// The pair `vocab.json` and `merges.txt`: lower-casing is ours to do.
    Pair(FileTokenizer),
    /// A `tokenizer.json`: whether it lower-cases is its own to say.
    Json(FileTokenizer),
}

impl ClipTokenizer {
    /// The vocabulary of OpenAI's CLIP, which the CLIP-L and CLIP-G of every released SD3 use.
    /// It is parsed here: open it once and keep it.
    pub fn built_in() -> Self {
        let vocabulary = instant_clip_tokenizer::Tokenizer::new();
        let start = u32::from(vocabulary.start_of_text().to_u16());
        let end = u32::from(vocabulary.end_of_text().to_u16());
        let identity = Self::built_in_identity();
        Self { vocabulary: Vocabulary::BuiltIn(Box::new(vocabulary)), start, end, identity }
    }

    /// Opens a `tokenizer.json`, a `vocab.json` or `merges.txt` with the other beside it, or a folder with either;
    /// of both, the pair.
    ///
    /// # Errors
    /// If a file cannot be read or is damaged, lacks `<|startoftext|>` or `<|endoftext|>`, or has an id above the
    /// end's.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        match ClipFiles::at(path)? {
            ClipFiles::Pair { vocab, merges } => Self::open_pair(&vocab, &merges),
            ClipFiles::Json(json) => Self::open_json(&json),
        }
    }

    fn open_json(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = read(path)?;
        let file = FileTokenizer::from_json(path, &bytes)?;
        Self::with_ends(file, Vocabulary::Json, identity(b"tokenizer.json", &[&bytes]))
    }

    fn open_pair(vocab_path: &Path, merges_path: &Path) -> Result<Self, TokenizerError> {
        let (vocab_bytes, merges_bytes) = (read(vocab_path)?, read(merges_path)?);
        let vocab: HashMap<String, u32> =
            serde_json::from_slice(&vocab_bytes).map_err(|error| malformed(vocab_path, error))?;
        let merges = parse_merges(&merges_bytes).map_err(|reason| malformed(merges_path, reason))?;
        let special =
            [START, END].map(|token| vocab.contains_key(token).then(|| AddedToken::from(token.to_owned(), true)));
        // Merges and vocabulary can only contradict each other together; the merges are the ones that refer.
        let file = FileTokenizer::build(merges_path, || {
            let model = BPE::builder()
                .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
                .end_of_word_suffix("</w>".to_owned())
                // What the reference does with a byte that a vocabulary lacks; CLIP's lacks none.
                .unk_token(END.to_owned())
                .build()?;
            let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
            let mut tokenizer = Tokenizer::new(model);
            tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
                PreTokenizerWrapper::Split(words),
                PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)),
            ])));
            tokenizer.add_special_tokens(&special.into_iter().flatten().collect::<Vec<_>>());
            Ok(tokenizer)
        })?;
        let identity = identity(b"vocab.json merges.txt", &[&vocab_bytes, &merges_bytes]);
        Self::with_ends(file, Vocabulary::Pair, identity)
    }

    fn with_ends(
        file: FileTokenizer,
        kind: fn(FileTokenizer) -> Vocabulary,
        identity: Vec<u8>,
    ) -> Result<Self, TokenizerError> {
        let start = file.id_of(START, FAMILY)?;
        let end = file.id_of(END, FAMILY)?;
        match file.largest() {
            Some((token, largest)) if largest > end || start == end => {
                Err(TokenizerError::EndNotLargest { path: file.path().to_owned(), end, token, largest })
            }
            _ => Ok(Self { vocabulary: kind(file), start, end, identity }),
        }
    }

    /// Encodes a text: the start, as much of the text as leaves room for the end, the end, padding.
    ///
    /// # Errors
    /// If the tokenizer's file turns out to be damaged.
    pub fn encode(&self, text: &str, pad: ClipPad) -> Result<ClipTokens, TokenizerError> {
        let clean = cleaning::clean(text);
        let words = match &self.vocabulary {
            Vocabulary::BuiltIn(vocabulary) => self.built_in_ids(vocabulary, &clean.to_lowercase()),
            Vocabulary::Pair(file) => file.ids(&clean.to_lowercase())?,
            Vocabulary::Json(file) => file.ids(&clean)?,
        };
        let mut ids = Vec::with_capacity(CLIP_LENGTH);
        ids.push(self.start);
        ids.extend(words.iter().take(CLIP_LENGTH - 2));
        ids.push(self.end);
        ids.resize(
            CLIP_LENGTH,
            match pad {
                ClipPad::EndOfText => self.end,
                ClipPad::Zero => 0,
            },
        );
        Ok(ClipTokens { ids, length_before_truncation: words.len() + 2 })
    }

    /// One more than the largest id; the text encoder's embedding needs at least as many rows.
    pub fn vocabulary_size(&self) -> usize {
        self.end as usize + 1
    }

    /// [`identity`](Self::identity) of the built-in vocabulary, without setting it up.
    pub fn built_in_identity() -> Vec<u8> {
        identity(b"instant-clip-tokenizer 0.1.0", &[])
    }

    /// Bytes that determine every id that this tokenizer gives: the content of its files, never their names.
    pub fn identity(&self) -> Vec<u8> {
        self.identity.clone()
    }

    /// The ids of a clean, lower-case text in the built-in vocabulary.
    fn built_in_ids(&self, vocabulary: &instant_clip_tokenizer::Tokenizer, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut tokens = Vec::new();
        let mut encode = |part: &str, ids: &mut Vec<u32>| {
            // The crate takes `<start_of_text>` for the start itself, as CLIP's vocabulary never wrote it. Broken up
            // by a space it is the six words that the reference makes of it.
            let part = part.replace("<start_of_text>", "< start_of_text>").replace("<end_of_text>", "< end_of_text>");
            tokens.clear();
            vocabulary.encode(&part, &mut tokens);
            ids.extend(tokens.iter().map(|token| u32::from(token.to_u16())));
        };
        let mut rest = text;
        while let Some((at, special, id)) = [(START, self.start), (END, self.end)]
            .into_iter()
            .filter_map(|(special, id)| Some((rest.find(special)?, special, id)))
            .min()
        {
            encode(&rest[..at], &mut ids);
            ids.push(id);
            rest = &rest[at + special.len()..];
        }
        encode(rest, &mut ids);
        ids
    }
}

/// The pairs of a `merges.txt`, in order: two tokens a line, below a line with a version.
fn parse_merges(bytes: &[u8]) -> Result<Merges, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((first, second)) if !first.is_empty() && !second.is_empty() && !second.contains(' ') => {
                merges.push((first.to_owned(), second.to_owned()));
            }
            _ => return Err(format!("line {} is not two tokens with a space between them", number + 1)),
        }
    }
    Ok(merges)
}

fn identity(kind: &[u8], files: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [&[kind, cleaning::REVISION][..], files].concat() {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    }
    bytes
}

#[cfg(test)]
#[path = "clip_tests.rs"]
mod tests;
