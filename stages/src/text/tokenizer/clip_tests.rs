//! CLIP's ids of known texts, and files that are no tokenizers.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// Ids of transformers' `CLIPTokenizer` with ftfy, without padding.
const VECTORS: &[(&str, &[u32])] = &[
    ("", &[49406, 49407]),
    ("a photo of sks dog", &[49406, 320, 1125, 539, 48136, 1929, 49407]),
    (
        "a photo of a cat holding a sign that says hello world",
        &[49406, 320, 1125, 539, 320, 2368, 5050, 320, 2292, 682, 1563, 3306, 1002, 49407],
    ),
    (
        "sks style, 1girl, upper body, masterpiece",
        &[49406, 48136, 1844, 267, 272, 1611, 267, 7067, 1774, 267, 12066, 49407],
    ),
    ("水墨画 style, a mountain", &[49406, 162, 108, 112, 161, 95, 101, 20211, 375, 1844, 267, 320, 3965, 49407]),
];

/// A vocabulary of two letters, with the end of the text where `end` says.
fn small_vocabulary(end: u32) -> String {
    format!(r#"{{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": {end}}}"#)
}

fn pair(vocab: &str, merges: &str) -> (tempfile::TempDir, Result<ClipTokenizer, TokenizerError>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.json"), vocab).unwrap();
    fs::write(folder.path().join("merges.txt"), merges).unwrap();
    let opened = ClipTokenizer::open(folder.path());
    (folder, opened)
}

fn words(tokenizer: &ClipTokenizer, text: &str) -> Vec<u32> {
    let tokens = tokenizer.encode(text, ClipPad::Zero).unwrap();
    tokens.ids[..tokens.length_before_truncation.min(CLIP_LENGTH)].to_vec()
}

/// The public byte-pair merges of CLIP, as `vocab.json` and `merges.txt`, if the test data is there.
fn real_pair() -> Option<tempfile::TempDir> {
    let Some(folder) = std::env::var_os("SD3PIPE_TEST_TOKENIZERS").map(PathBuf::from) else {
        println!("skipped: SD3PIPE_TEST_TOKENIZERS is not set");
        return None;
    };
    let archive = folder.join("clip_bpe_simple_vocab_16e6.txt.gz");
    let text = Command::new("gzip").arg("-dc").arg(archive).output().unwrap();
    assert!(text.status.success());
    let text = String::from_utf8(text.stdout).unwrap();
    // OpenAI's file has more merges than CLIP was trained with (`SimpleTokenizer.__init__`).
    let merges: Vec<&str> = text.lines().skip(1).take(49152 - 256 - 2).collect();
    // Bytes in the order of `bytes_to_unicode`: the printable ones, then the others as characters from 256.
    let printable = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
    let letters: Vec<String> = printable.chain('\u{100}'..='\u{143}').map(String::from).collect();
    assert_eq!(letters.len(), 256);
    let mut tokens = letters.clone();
    tokens.extend(letters.iter().map(|letter| format!("{letter}</w>")));
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.extend([START.to_owned(), END.to_owned()]);
    let vocab: HashMap<String, usize> = tokens.into_iter().zip(0..).collect();
    assert_eq!(vocab.len(), 49408);
    let written = tempfile::tempdir().unwrap();
    fs::write(written.path().join("vocab.json"), serde_json::to_vec(&vocab).unwrap()).unwrap();
    fs::write(written.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    Some(written)
}

#[test]
fn the_built_in_vocabulary_gives_the_ids_of_clip() {
    let tokenizer = ClipTokenizer::built_in();
    for (text, ids) in VECTORS {
        assert_eq!(words(&tokenizer, text), *ids, "{text}");
    }
    assert_eq!(tokenizer.vocabulary_size(), 49408);
}

#[test]
fn the_built_in_vocabulary_and_the_same_from_files_agree() {
    let Some(folder) = real_pair() else { return };
    let (built_in, opened) = (ClipTokenizer::built_in(), ClipTokenizer::open(folder.path()).unwrap());
    let others = [
        "It’s a “ﬁne” day &amp; they're   done…!!! 2024 100% C:\\x",
        "Café ÅNGSTRÖM naïve İstanbul ΣΊΣΥΦΟΣ 🐱‍👤 日本語、テスト ｶﾞ",
        "one<|endoftext|>two <|STARTOFTEXT|> !<|endoftext|>! <start_of_text>x<end_of_text> !<start_of_text>",
        "don't won't 'tis ''s rock'n'roll x's-y_z #tag @user a/b (c) [d] {e} ~ ^ `f`",
    ];
    for text in VECTORS.iter().map(|(text, _)| *text).chain(others) {
        assert_eq!(words(&built_in, text), words(&opened, text), "{text}");
    }
    let by_file = ClipTokenizer::open(&folder.path().join("merges.txt")).unwrap();
    assert_eq!(opened.identity(), by_file.identity());
    assert_ne!(opened.identity(), built_in.identity());
}

#[test]
fn a_text_that_looks_like_a_marker_is_read_as_the_reference_reads_it() {
    let tokenizer = ClipTokenizer::built_in();
    assert_eq!(words(&tokenizer, "a<|endoftext|>a"), [49406, 320, 49407, 320, 49407]);
    assert_eq!(words(&tokenizer, "<start_of_text>"), words(&tokenizer, "< start_of_text >"));
}

#[test]
fn the_two_encoders_are_padded_differently() {
    let tokenizer = ClipTokenizer::built_in();
    let l = tokenizer.encode("a cat", ClipPad::EndOfText).unwrap().ids;
    let g = tokenizer.encode("a cat", ClipPad::Zero).unwrap().ids;
    assert_eq!((l.len(), g.len()), (CLIP_LENGTH, CLIP_LENGTH));
    assert_eq!(l[..4], g[..4]);
    assert!(l[4..].iter().all(|&id| id == 49407) && g[4..].iter().all(|&id| id == 0));
}

#[test]
fn a_long_text_is_cut_before_its_end_and_says_so() {
    let tokenizer = ClipTokenizer::built_in();
    let tokens = tokenizer.encode(&"cat ".repeat(75), ClipPad::Zero).unwrap();
    assert_eq!((tokens.length_before_truncation, tokens.ids[75], tokens.ids[76]), (77, 2368, 49407));
    let longer = tokenizer.encode(&"cat ".repeat(76), ClipPad::Zero).unwrap();
    assert_eq!((longer.length_before_truncation, longer.ids), (78, tokens.ids));
}

#[test]
fn a_small_vocabulary_brings_its_own_ends() {
    let (_folder, opened) = pair(&small_vocabulary(6), "#version: 0.2\na b</w>\n");
    let tokenizer = opened.unwrap();
    assert_eq!(words(&tokenizer, "AB ba"), [5, 4, 1, 2, 6]);
    assert_eq!(tokenizer.vocabulary_size(), 7);
    let (_folder, same) = pair(&small_vocabulary(6), "#version: 0.2\na b</w>\n");
    assert_eq!(same.unwrap().identity(), tokenizer.identity());
    let (_folder, other) = pair(&small_vocabulary(6), "");
    assert_ne!(other.unwrap().identity(), tokenizer.identity());
}

#[test]
fn an_id_above_the_end_of_the_text_is_refused() {
    let vocab = small_vocabulary(6).replace("\"a\": 0", "\"a\": 9");
    let error = pair(&vocab, "").1.err().unwrap();
    assert!(matches!(&error, TokenizerError::EndNotLargest { token, .. } if token == "a"), "{error}");
    assert!(matches!(pair(&small_vocabulary(5), "").1, Err(TokenizerError::EndNotLargest { .. })));
}

#[test]
fn files_that_are_no_tokenizer_are_refused_by_name() {
    let vocab = small_vocabulary(6);
    for (vocab, merges, culprit) in [
        (vocab.as_str(), "a", "merges.txt is not a usable tokenizer: line 1"),
        (vocab.as_str(), "a b c", "merges.txt is not a usable tokenizer: line 1"),
        (vocab.as_str(), "a c</w>", "merges.txt is not a usable tokenizer: Token `c</w>`"),
        ("{\"a\": -1}", "", "vocab.json is not a usable tokenizer"),
        ("{\"a\": 0}", "", "merges.txt has no token <|startoftext|>"),
    ] {
        let error = pair(vocab, merges).1.err().unwrap().to_string();
        assert!(error.contains(culprit) && error.contains("hint: "), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(ClipTokenizer::open(folder.path()), Err(TokenizerError::EmptyFolder { .. })));
    let json = folder.path().join("tokenizer.json");
    for content in ["", "{", "{}", "[1]", "\u{0}\u{1}"] {
        fs::write(&json, content).unwrap();
        assert!(matches!(ClipTokenizer::open(&json), Err(TokenizerError::Malformed { .. })), "{content}");
    }
}

#[test]
fn the_demos_vocabulary_leaves_nothing_out() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/model/clip_tokenizer.json");
    let tokenizer = ClipTokenizer::open(&path).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 768);
    assert_eq!(words(&tokenizer, "  A photo\nof 水 "), words(&tokenizer, "a photo of 水"));
    // Each letter of an unknown word, the three bytes of a Chinese character, the start and the end.
    assert_eq!(words(&tokenizer, "qxz").len(), 2 + 3);
    assert_eq!(words(&tokenizer, "水").len(), 2 + 3);
    assert_eq!(words(&tokenizer, "photo").len(), 2 + 1);
    let every = ('!'..='~').chain(['é', '€', '🐱', '\u{10fffd}']).map(|character| format!("{character} "));
    for text in every {
        assert!(!words(&tokenizer, &text)[1..].starts_with(&[767]), "{text} is lost");
    }
}
