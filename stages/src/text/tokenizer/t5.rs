//! T5's tokenizer: SentencePiece's Unigram model, a length that the pipeline chooses.

use std::path::{Path, PathBuf};

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::precompiled::Precompiled;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::strip::Strip;
use tokenizers::normalizers::utils::Sequence;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use super::error::TokenizerError;
use super::file::{FileTokenizer, malformed, read};
use super::sentencepiece::SentencePieceModel;

const PAD: u32 = 0;
const END: u32 = 1;
const UNKNOWN: u32 = 2;
const FAMILY: &str = "T5";

/// The tokens that T5 was trained with, and their ids.
const FIXED: [(&str, u32); 3] = [("<pad>", PAD), ("</s>", END), ("<unk>", UNKNOWN)];

/// A text as T5 reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct T5Tokens {
    /// As many ids as were asked for: the text, its end (1), padding (0).
    pub ids: Vec<u32>,
    /// The length of the whole text with its end; what is above the length of `ids` was cut off before the end.
    pub length_before_truncation: usize,
    /// How many stretches of the whole text became `<unk>` (2), because T5 has no piece for their characters.
    /// Chinese is such a text: to T5 it says nothing.
    pub unknown: usize,
}

/// From a text to the ids that T5-XXL v1.1 reads. There is no built-in vocabulary.
///
/// The same ids as transformers' `T5TokenizerFast` gives, as sd-scripts uses it (`strategy_sd3.py`,
/// `Sd3TokenizeStrategy`), but for the sentinels `<extra_id_0>` to `<extra_id_99>`, which a `spiece.model` does not
/// name and which are here text like any other.
pub struct T5Tokenizer {
    file: FileTokenizer,
    vocabulary_size: usize,
    identity: Vec<u8>,
}

impl T5Tokenizer {
    /// Opens a `tokenizer.json`, a SentencePiece model (`spiece.model`), or a folder with either; of both, the former.
    /// Which of the two a file is, its content says.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged, or its `<pad>`, `</s>` and `<unk>` are not 0, 1 and 2.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        Self::open_file(&Self::file(path)?)
    }

    /// The file that [`T5Tokenizer::open`] reads for a path.
    ///
    /// # Errors
    /// If the path is a folder with neither in it.
    pub fn file(path: &Path) -> Result<PathBuf, TokenizerError> {
        if !path.is_dir() {
            return Ok(path.to_owned());
        }
        let names = ["tokenizer.json", "spiece.model"];
        let expected = "tokenizer.json or spiece.model";
        let file = names.map(|name| path.join(name)).into_iter().find(|file| file.is_file());
        file.ok_or_else(|| TokenizerError::EmptyFolder { path: path.to_owned(), expected })
    }

    fn open_file(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = read(path)?;
        let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let file = if is_json { FileTokenizer::from_json(path, &bytes)? } else { from_sentencepiece(path, &bytes)? };
        for (token, expected) in FIXED {
            let found = file.id_of(token, FAMILY)?;
            if found != expected {
                return Err(TokenizerError::WrongId { path: path.to_owned(), token, expected, found });
            }
        }
        let vocabulary_size = file.largest().map_or(0, |(_, id)| id as usize + 1);
        let kind: &[u8] = if is_json { b"tokenizer.json\0" } else { b"spiece.model\0" };
        Ok(Self { file, vocabulary_size, identity: [kind, &bytes].concat() })
    }

    /// Encodes a text into `length` ids: as much of the text as leaves room for its end, the end, padding.
    ///
    /// # Errors
    /// If `length` is 0, or the tokenizer's file turns out to be damaged.
    pub fn encode(&self, text: &str, length: usize) -> Result<T5Tokens, TokenizerError> {
        let room = length.checked_sub(1).ok_or(TokenizerError::NoRoom)?;
        let mut ids = self.file.ids(text)?;
        let length_before_truncation = ids.len() + 1;
        let unknown = ids.iter().filter(|&&id| id == UNKNOWN).count();
        ids.truncate(room);
        ids.push(END);
        ids.resize(length, PAD);
        Ok(T5Tokens { ids, length_before_truncation, unknown })
    }

    /// One more than the largest id; the text encoder's embedding needs at least as many rows.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// Bytes that determine every id that this tokenizer gives: the content of its file, never its name.
    pub fn identity(&self) -> Vec<u8> {
        self.identity.clone()
    }
}

/// A SentencePiece model as transformers converts it (`convert_slow_tokenizer.py`, `T5Converter`).
fn from_sentencepiece(path: &Path, bytes: &[u8]) -> Result<FileTokenizer, TokenizerError> {
    let model = SentencePieceModel::parse(bytes).map_err(|fault| malformed(path, fault))?;
    FileTokenizer::build(path, || {
        let markers = model.control.iter().chain([&model.unknown]);
        let markers = markers.filter_map(|&id| model.pieces.get(id as usize));
        let markers: Vec<_> = markers.map(|(token, _)| AddedToken::from(token.clone(), true)).collect();
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        if !model.charsmap.is_empty() {
            let characters = Precompiled::from(&model.charsmap).map_err(|error| error.to_string())?;
            normalizers.push(characters.into());
        }
        normalizers.push(Strip::new(false, true).into());
        normalizers.push(Replace::new(ReplacePattern::Regex(" {2,}".to_owned()), "\u{2581}")?.into());
        let mut tokenizer = Tokenizer::new(Unigram::from(model.pieces, Some(model.unknown as usize), false)?);
        tokenizer.with_normalizer(Some(Sequence::new(normalizers)));
        tokenizer.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', PrependScheme::Always, true)));
        tokenizer.add_special_tokens(&markers);
        Ok(tokenizer)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::super::sentencepiece::tests::small_model;
    use super::*;

    /// Ids of transformers' `T5TokenizerFast`, without padding.
    const VECTORS: &[(&str, &[u32])] = &[
        ("", &[1]),
        ("a photo of sks dog", &[3, 9, 1202, 13, 3, 7, 157, 7, 1782, 1]),
        (
            "a photo of a cat holding a sign that says hello world",
            &[3, 9, 1202, 13, 3, 9, 1712, 3609, 3, 9, 1320, 24, 845, 21820, 296, 1],
        ),
        ("sks style, 1girl, upper body, masterpiece", &[3, 7, 157, 7, 869, 6, 209, 18722, 6, 4548, 643, 6, 20975, 1]),
        ("水墨画 style, a mountain", &[3, 2, 869, 6, 3, 9, 4180, 1]),
    ];

    fn real() -> Option<T5Tokenizer> {
        let Some(folder) = std::env::var_os("SD3PIPE_TEST_TOKENIZERS").map(PathBuf::from) else {
            println!("skipped: SD3PIPE_TEST_TOKENIZERS is not set");
            return None;
        };
        Some(T5Tokenizer::open(&folder.join("t5_spiece.model")).unwrap())
    }

    fn opened(content: &[u8]) -> Result<T5Tokenizer, TokenizerError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spiece.model");
        fs::write(&path, content).unwrap();
        T5Tokenizer::open(&path)
    }

    fn words(tokenizer: &T5Tokenizer, text: &str) -> Vec<u32> {
        let tokens = tokenizer.encode(text, 77).unwrap();
        tokens.ids[..tokens.length_before_truncation.min(77)].to_vec()
    }

    #[test]
    fn the_real_vocabulary_gives_the_ids_of_t5() {
        let Some(tokenizer) = real() else { return };
        for (text, ids) in VECTORS {
            assert_eq!(words(&tokenizer, text), *ids, "{text}");
        }
        assert_eq!(tokenizer.vocabulary_size(), 32_000);
    }

    #[test]
    fn white_space_and_forms_are_normalised_as_sentencepiece_does() {
        let Some(tokenizer) = real() else { return };
        let plain = words(&tokenizer, "a photo of a cat");
        for same in ["  a photo  of a\tcat\n", "\u{3000}a photo\u{a0}of\u{200b} a cat", "ａ photo of a cat"] {
            assert_eq!(words(&tokenizer, same), plain, "{same:?}");
        }
        assert_eq!(words(&tokenizer, " \n\t"), [1]);
        assert_ne!(words(&tokenizer, "A photo of a cat"), plain);
    }

    #[test]
    fn unknown_characters_are_counted() {
        let Some(tokenizer) = real() else { return };
        assert_eq!(tokenizer.encode("水墨画 style, a 山 mountain", 77).unwrap().unknown, 2);
        assert_eq!(tokenizer.encode("style", 77).unwrap().unknown, 0);
    }

    #[test]
    fn the_demos_vocabulary_opens() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/model/t5_tokenizer.json");
        let tokenizer = T5Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.vocabulary_size(), 600);
        let tokens = tokenizer.encode(" a  photo of a lighthouse, 水墨画", 16).unwrap();
        // Six pieces, a space, what is unknown, the end.
        assert_eq!((tokens.length_before_truncation, tokens.unknown), (9, 1));
        assert_eq!(tokens.ids[7..], [2, 1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_small_model_is_split_at_its_best_pieces() {
        let tokenizer = opened(&small_model()).unwrap();
        assert_eq!(words(&tokenizer, "cat a z"), [5, 3, 4, 3, 2, 1]);
        assert_eq!(tokenizer.vocabulary_size(), 6);
        assert_eq!(tokenizer.identity(), opened(&small_model()).unwrap().identity());
    }

    #[test]
    fn a_text_is_padded_or_cut_to_the_length_and_says_so() {
        let tokenizer = opened(&small_model()).unwrap();
        let padded = tokenizer.encode("cat", 4).unwrap();
        assert_eq!((padded.ids, padded.length_before_truncation), (vec![5, 1, 0, 0], 2));
        let cut = tokenizer.encode("cat cat cat z", 3).unwrap();
        assert_eq!((cut.ids, cut.length_before_truncation, cut.unknown), (vec![5, 5, 1], 6, 1));
        assert_eq!(tokenizer.encode("cat", 1).unwrap().ids, [1]);
        assert!(matches!(tokenizer.encode("cat", 0), Err(TokenizerError::NoRoom)));
    }

    #[test]
    fn files_that_are_no_tokenizer_are_refused_by_name() {
        for content in [&b""[..], b"{}", b"{", b"\x0a\xff\xff\xff\xff\x0f", b"not a model", b"\xff"] {
            let error = opened(content).err().unwrap();
            assert!(matches!(error, TokenizerError::Malformed { .. }), "{error}");
            assert!(error.to_string().contains("spiece.model is not a usable tokenizer"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(T5Tokenizer::open(folder.path()), Err(TokenizerError::EmptyFolder { .. })));
    }

    #[test]
    fn another_networks_tokenizer_is_refused() {
        let clip = br#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
        assert!(matches!(opened(clip), Err(TokenizerError::MissingToken { token: "<pad>", .. })));
        let shifted = br#"{"version": "1.0", "model": {"type": "Unigram", "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["<pad>", 0.0], ["</s>", 0.0]]}}"#;
        assert!(matches!(opened(shifted), Err(TokenizerError::WrongId { token: "<pad>", found: 1, .. })));
    }

    #[test]
    fn a_damaged_real_model_never_panics() {
        let Some(folder) = std::env::var_os("SD3PIPE_TEST_TOKENIZERS").map(PathBuf::from) else { return };
        let whole = fs::read(folder.join("t5_spiece.model")).unwrap();
        for length in (0..whole.len()).step_by(whole.len() / 7) {
            assert!(opened(&whole[..length]).is_err(), "{length} bytes");
        }
        // The table of characters follows its name, with a tag and two lengths between them. A unit of its trie that
        // points outside is only found when a text leads there.
        let name = b"nmt_nfkc";
        let table = whole.windows(name.len()).rposition(|bytes| bytes == name).unwrap() + name.len() + 8;
        let mut damaged = whole.clone();
        for unit in damaged[table..table + 150_000].chunks_exact_mut(4) {
            unit.copy_from_slice(&[0x00, 0xff, 0xff, 0x7f]);
        }
        let tokenizer = opened(&damaged).unwrap();
        assert!(matches!(tokenizer.encode("ｆull", 16), Err(TokenizerError::Encode { .. })));
    }
}
