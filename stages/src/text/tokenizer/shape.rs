//! What a tokenizer's file may not ask of the `tokenizers` crate, which does whatever it is told: to make a text thousands of times
//! longer, to set memory aside for a table that is not there, or to build a tree so deep that taking it down overflows the stack.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

/// What is wrong, in words.
type Fault = String;

/// Bytes of a Unigram piece at most. T5's have 16 characters; the tree of pieces is as deep as the longest is long.
const LONGEST_PIECE: usize = 256;

/// A text may become so many times longer at most. T5's table alone makes eighteen characters of one.
const MOST_GROWTH: usize = 4096;

/// Steps that are done to a text before its model sees it, with what they are made of. CLIP's and T5's have a handful.
const MOST_STEPS: usize = 64;

/// The parts of a `tokenizer.json` that are looked at. (Of a field that is there twice the crate would obey both.)
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Value,
}

/// Checks the content of a `tokenizer.json`.
pub(super) fn check_json(bytes: &[u8]) -> Result<(), Fault> {
    let parts: Parts = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut steps = Steps { count: 0, growth: 1 };
    steps.add(&parts.normalizer)?;
    steps.add(&parts.pre_tokenizer)?;
    // Only Unigram's vocabulary is a list: `[["piece", score], …]`.
    let pieces = parts.model["vocab"].as_array().into_iter().flatten().filter_map(|piece| piece[0].as_str());
    check_pieces(pieces)
}

/// Checks the pieces of a Unigram model.
pub(super) fn check_pieces<'p>(mut pieces: impl Iterator<Item = &'p str>) -> Result<(), Fault> {
    match pieces.find(|piece| piece.len() > LONGEST_PIECE) {
        Some(piece) => Err(format!("it has a piece of {} bytes, and {LONGEST_PIECE} are the most", piece.len())),
        None => Ok(()),
    }
}

/// Checks a table of characters, and gives how many times longer it can make a text.
///
/// It starts with the length of its trie. A trie longer than the table would be allocated before it is missed, and an empty one is
/// read past its end. Behind the trie lie the replacements, each to the next zero.
pub(super) fn check_charsmap(charsmap: &[u8]) -> Result<usize, Fault> {
    let damaged = || "its table of characters is damaged".to_owned();
    let (length, rest) = charsmap.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length < 4 || !length.is_multiple_of(4) {
        return Err(damaged());
    }
    let replacements = rest.get(length..).ok_or_else(damaged)?;
    let longest = replacements.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or_default();
    within(longest.max(1))
}

fn within(growth: usize) -> Result<usize, Fault> {
    match growth {
        0..=MOST_GROWTH => Ok(growth),
        _ => Err(format!("it would make a text more than {MOST_GROWTH} times longer")),
    }
}

/// The steps of a normalizer and a pre-tokenizer, in the order in which they act on a text.
struct Steps {
    count: usize,
    growth: usize,
}

impl Steps {
    fn add(&mut self, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.add(value)),
            Value::Object(fields) => {
                self.count += 1;
                if self.count > MOST_STEPS {
                    return Err(format!("it does more than {MOST_STEPS} things to a text"));
                }
                self.growth = within(self.growth.saturating_mul(growth(value)?))?;
                fields.values().try_for_each(|value| self.add(value))
            }
            _ => Ok(()),
        }
    }
}

/// How many times longer one step can make a text.
fn growth(step: &Value) -> Result<usize, Fault> {
    let length = |field: &str| step[field].as_str().map_or(0, str::len);
    if let Some(table) = step["precompiled_charsmap"].as_str() {
        return check_charsmap(&STANDARD.decode(table).map_err(|error| error.to_string())?);
    }
    // Byte-level steps write every byte as a character of one or two bytes. Old files leave out what kind a step is.
    let bytes = step["type"] == "ByteLevel" || !step["trim_offsets"].is_null();
    // A pattern may match nothing between any two characters.
    let inserted = ["content", "prepend", "replacement"].map(length).into_iter().max().unwrap_or_default();
    Ok(1 + inserted.max(usize::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fault(normalizer: Value, model: Value) -> Option<Fault> {
        check_json(json!({ "normalizer": normalizer, "model": model }).to_string().as_bytes()).err()
    }

    fn replace(content: &str) -> Value {
        json!({ "type": "Replace", "pattern": { "String": "a" }, "content": content })
    }

    #[test]
    fn what_tokenizers_have_is_taken() {
        for name in ["clip_tokenizer.json", "t5_tokenizer.json"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/model").join(name);
            assert_eq!(check_json(&std::fs::read(path).unwrap()), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_text_that_would_grow_without_end_is_refused() {
        assert_eq!(fault(json!([replace("aaaa"), replace("aaaa")]), json!({})), None);
        let steps = vec![replace("aa"); 13];
        assert!(fault(json!({ "type": "Sequence", "normalizers": steps }), json!({})).unwrap().contains("4096 times"));
        assert!(fault(replace(&"a".repeat(5000)), json!({})).is_some());
        assert!(fault(json!([{ "type": "ByteLevel" }]), json!({})).is_none());
        assert!(fault(json!(vec![json!({ "type": "ByteLevel" }); 13]), json!({})).is_some());
        assert!(fault(json!(vec![json!({ "add_prefix_space": true, "trim_offsets": true }); 13]), json!({})).is_some());
        assert!(fault(json!(vec![json!({ "type": "NFC" }); 65]), json!({})).unwrap().contains("64 things"));
    }

    #[test]
    fn a_table_that_is_shorter_than_it_says_is_refused() {
        let table = |bytes: &[u8]| json!({ "type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes) });
        assert_eq!(fault(table(&[4, 0, 0, 0, 0, 0, 0, 0, b'x', 0]), json!({})), None);
        for bytes in [&[0xff; 4][..], &[0; 4], &[8, 0, 0, 0, 0, 0, 0, 0], &[4, 0, 0], &[]] {
            assert!(fault(table(bytes), json!({})).unwrap().contains("damaged"), "{bytes:?}");
        }
        let long = [&[4, 0, 0, 0, 0, 0, 0, 0][..], &[b'x'; 5000]].concat();
        assert!(fault(table(&long), json!({})).unwrap().contains("longer"));
    }

    /// Its tree would be as deep, and taking that down overflows the stack.
    #[test]
    fn a_piece_longer_than_any_word_is_refused() {
        let vocab = |length: usize| json!({ "vocab": [["a", 0.0], ["b".repeat(length), -1.0]] });
        assert_eq!(fault(Value::Null, vocab(LONGEST_PIECE)), None);
        assert!(fault(Value::Null, vocab(1_000_000)).unwrap().contains("1000000 bytes"));
    }

    #[test]
    fn a_part_that_is_there_twice_is_refused() {
        let fault = check_json(br#"{"normalizer": null, "normalizer": {"type": "NFC"}, "model": {}}"#).unwrap_err();
        assert!(fault.contains("duplicate field"), "{fault}");
    }
}
