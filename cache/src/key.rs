//! A key: the digest of all that an action reads; its preimage, the readable form of the same; and what tells two
//! preimages apart.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::encoding::{encode, encode_length, encode_map, encode_text};
use crate::value::to_json;
use crate::{Digest, DigestError, KeyError};

/// All that an action reads, by name. What is named here is hashed into the key, stored beside the result and compared
/// by [`diff`]: one description, so that the key and its explanation cannot drift apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preimage {
    kind: String,
    revision: u32,
    pub(crate) reads: Map<String, Value>,
}

/// The name of an action by all that it reads: see [`Preimage::key`]. Displayed, parsed and serialised as a [`Digest`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Digest);

/// One thing that two preimages do not have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where it is, dotted: `train.optimizer.weight_decay`, `prompts[2]`, or `kind` or `revision`.
    pub path: String,
    /// What the old preimage has there.
    pub old: Option<Value>,
    /// What the new preimage has there.
    pub new: Option<Value>,
}

impl Preimage {
    /// Of an action of `kind` (as "encode text") in its hand-kept `revision`, which reads nothing yet.
    pub fn new(kind: &str, revision: u32) -> Preimage {
        Preimage { kind: kind.to_owned(), revision, reads: Map::new() }
    }

    /// Adds something that the action reads. Integers of every width are one type, floats another; single precision is
    /// widened exactly; enums go by their names. Byte strings become lists of numbers, so give long ones as a [`Digest`].
    ///
    /// # Errors
    /// A value with a float that is not finite, an integer beyond 64 bits or a map with unusable names; or a name that
    /// is taken. The preimage is then as it was.
    pub fn read(&mut self, name: &str, value: &impl Serialize) -> Result<(), KeyError> {
        if self.reads.contains_key(name) {
            return Err(KeyError::Twice { path: name.to_owned() });
        }
        let value = to_json(name, value)?;
        self.reads.insert(name.to_owned(), value);
        Ok(())
    }

    /// The kind of action.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The revision of the action's code.
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// All that is read, by name.
    pub fn reads(&self) -> &Map<String, Value> {
        &self.reads
    }

    /// `BLAKE3 derive_key("sd3pipe <kind> key v1", encoding)`, where the encoding is canonical: equal for equal reads in
    /// any order, and different for any two that differ in a value, in its type or in its name.
    pub fn key(&self) -> Key {
        self.key_of(|bytes| encode_map(&self.reads, bytes))
    }

    pub(crate) fn key_of(&self, reads: impl FnOnce(&mut Vec<u8>)) -> Key {
        let context = format!("sd3pipe {} key v1", self.kind);
        Key(Digest::from_bytes(blake3::derive_key(&context, &self.encoding(reads))))
    }

    /// The canonical encoding of the map of `kind`, `reads` and `revision`, of which `reads` encodes the reads.
    fn encoding(&self, reads: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        // As `encode` would do it, without building that map.
        bytes.push(b'm');
        encode_length(3, &mut bytes);
        encode_text("kind", &mut bytes);
        bytes.push(b's');
        encode_text(&self.kind, &mut bytes);
        encode_text("reads", &mut bytes);
        reads(&mut bytes);
        encode_text("revision", &mut bytes);
        encode(&Value::from(self.revision), &mut bytes);
        bytes
    }

    /// As one line of JSON, which [`Preimage::from_json`] reads back to the same key.
    pub fn to_json(&self) -> String {
        // Writing maps of JSON values to memory has no way to fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From what [`Preimage::to_json`] wrote.
    ///
    /// # Errors
    /// [`KeyError::NotAPreimage`] for any other text.
    pub fn from_json(text: &str) -> Result<Preimage, KeyError> {
        serde_json::from_str(text).map_err(|error| KeyError::NotAPreimage { reason: error.to_string() })
    }
}

impl Key {
    /// The digest that the key is.
    pub const fn digest(&self) -> Digest {
        self.0
    }

    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Key {
        Key(Digest::from_bytes(bytes))
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl FromStr for Key {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Key, DigestError> {
        text.parse().map(Key)
    }
}

/// What differs between two preimages, leaf by leaf, sorted by path (and list items by position). Empty exactly when
/// their keys are equal.
pub fn diff(old: &Preimage, new: &Preimage) -> Vec<Change> {
    let (old, new) = (old.leaves(), new.leaves());
    let mut changes: BTreeMap<&Path, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
    for (path, value) in &old {
        changes.entry(path).or_default().0 = Some(value);
    }
    for (path, value) in &new {
        changes.entry(path).or_default().1 = Some(value);
    }
    let differs = |(old, new): &(Option<&Value>, Option<&Value>)| match (old, new) {
        (Some(old), Some(new)) => bytes_of(old) != bytes_of(new),
        _ => true,
    };
    changes
        .into_iter()
        .filter(|(_, sides)| differs(sides))
        .map(|(path, (old, new))| Change { path: dotted(path), old: old.cloned(), new: new.cloned() })
        .collect()
}

/// Where a leaf is: the names and positions that lead to it.
type Path = Vec<Step>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Name(String),
    Position(usize),
}

impl Preimage {
    fn leaves(&self) -> BTreeMap<Path, Value> {
        let mut leaves = BTreeMap::new();
        // A read may itself be called `kind`: the first step tells them apart, and is not displayed.
        let own = |name: &str| vec![Step::Position(0), Step::Name(name.to_owned())];
        leaves.insert(own("kind"), Value::from(self.kind.as_str()));
        leaves.insert(own("revision"), Value::from(self.revision));
        for (name, value) in &self.reads {
            collect_leaves(vec![Step::Position(1), Step::Name(name.clone())], value, &mut leaves);
        }
        leaves
    }
}

fn collect_leaves(path: Path, value: &Value, leaves: &mut BTreeMap<Path, Value>) {
    let child = |step: Step| path.iter().cloned().chain([step]).collect();
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                collect_leaves(child(Step::Name(name.clone())), value, leaves);
            }
        }
        Value::Array(values) if !values.is_empty() => {
            for (position, value) in values.iter().enumerate() {
                collect_leaves(child(Step::Position(position)), value, leaves);
            }
        }
        leaf => {
            leaves.insert(path, leaf.clone());
        }
    }
}

fn dotted(path: &Path) -> String {
    let mut text = String::new();
    for step in path.iter().skip(1) {
        match step {
            Step::Name(name) if text.is_empty() => text.push_str(name),
            Step::Name(name) => text.extend([".", name]),
            Step::Position(position) => text.push_str(&format!("[{position}]")),
        }
    }
    text
}

/// By the encoding, as the key sees it: `==` takes 0.0 for -0.0.
fn bytes_of(leaf: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(leaf, &mut bytes);
    bytes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn sample() -> Preimage {
        let mut preimage = Preimage::new("train", 3);
        preimage.read("seed", &42_u64).unwrap();
        preimage
            .read("optimizer", &json!({"name": "AdamW", "weight_decay": 0.01, "betas": [0.9, 0.999], "offset": -1}))
            .unwrap();
        preimage.read("mask", &None::<u8>).unwrap();
        preimage.read("shuffle", &true).unwrap();
        preimage.read("rate", &1e-4_f32).unwrap();
        preimage
    }

    /// Changing these bytes loses every cache in the world: never edit the expectation.
    #[test]
    fn the_bytes_of_the_encoding_are_fixed_for_ever() {
        let mut preimage = Preimage::new("k", 1);
        preimage.read("b", &json!([null, true, false, -2])).unwrap();
        preimage.read("a", &json!({"y": "é", "x": 0.5})).unwrap();
        let mut expected: Vec<u8> = Vec::new();
        let length = |value: u8| [value, 0, 0, 0, 0, 0, 0, 0];
        let mut push = |parts: &[&[u8]]| parts.iter().for_each(|part| expected.extend_from_slice(part));
        push(&[b"m", &length(3)]);
        push(&[&length(4), b"kind", b"s", &length(1), b"k"]);
        push(&[&length(5), b"reads", b"m", &length(2)]);
        push(&[&length(1), b"a", b"m", &length(2)]);
        push(&[&length(1), b"x", b"d", &[0, 0, 0, 0, 0, 0, 0xe0, 0x3f]]);
        push(&[&length(1), b"y", b"s", &length(2), &[0xc3, 0xa9]]);
        push(&[&length(1), b"b", b"a", &length(4), b"0tfi", &[0xfe, 255, 255, 255, 255, 255, 255, 255]]);
        push(&[&length(8), b"revision", b"u", &length(1)]);
        assert_eq!(preimage.encoding(|bytes| encode_map(&preimage.reads, bytes)), expected);
        let mut whole = Vec::new();
        encode(&serde_json::to_value(&preimage).unwrap(), &mut whole);
        assert_eq!(whole, expected, "the encoding is that of the preimage as a map");
    }

    #[test]
    fn these_keys_are_fixed_for_ever() {
        assert_eq!(Preimage::new("captions", 1).key().to_string(), GOLDEN_EMPTY);
        assert_eq!(sample().key().to_string(), GOLDEN_SAMPLE);
    }
    const GOLDEN_EMPTY: &str = "e38470b68055fcc80cbcbe38796e23cdad9f8ce032efd47b99ba50554e06043a";
    const GOLDEN_SAMPLE: &str = "81f76b3408b69f475f21dc576a84cde7cf516c302fdfe5c9f3c94efce5c78bf4";

    #[test]
    fn the_order_of_reading_does_not_matter() {
        let mut forwards = Preimage::new("train", 1);
        forwards.read("a", &1).unwrap();
        forwards.read("b", &json!({"x": 1, "y": 2})).unwrap();
        let mut backwards = Preimage::new("train", 1);
        backwards.read("b", &json!({"y": 2, "x": 1})).unwrap();
        backwards.read("a", &1).unwrap();
        assert_eq!(forwards.key(), backwards.key());
        assert_eq!(diff(&forwards, &backwards), []);
    }

    #[test]
    fn each_part_of_a_preimage_is_in_its_key() {
        let with = |name: &str, value: Value| {
            let mut preimage = Preimage::new("train", 1);
            preimage.read(name, &value).unwrap();
            preimage
        };
        let base = with("seed", json!(1));
        let mut kind = base.clone();
        kind.kind = "trainer".to_owned();
        let mut revision = base.clone();
        revision.revision = 2;
        let mut more = base.clone();
        more.read("mask", &None::<u8>).unwrap();
        let others = [kind, revision, more, with("seed", json!(1.0)), with("seed", json!("1")), with("sead", json!(1))];
        for other in others {
            assert_ne!(other.key(), base.key(), "{other:?}");
            assert_ne!(diff(&base, &other), [], "{other:?}");
        }
    }

    #[test]
    fn two_values_swapped_between_two_names_are_a_change() {
        let mut one = Preimage::new("train", 1);
        one.read("image", &Digest::of(b"a")).unwrap();
        one.read("mask", &Digest::of(b"b")).unwrap();
        let mut other = Preimage::new("train", 1);
        other.read("image", &Digest::of(b"b")).unwrap();
        other.read("mask", &Digest::of(b"a")).unwrap();
        assert_ne!(one.key(), other.key());
    }

    #[test]
    fn a_name_is_given_once_and_a_refused_value_changes_nothing() {
        let mut preimage = sample();
        assert_eq!(preimage.read("seed", &1), Err(KeyError::Twice { path: "seed".to_owned() }));
        assert!(preimage.read("dropout", &json!([0.5]).as_array().map(|_| [0.5, f64::NAN])).is_err());
        assert_eq!(preimage.key(), sample().key());
    }

    #[test]
    fn json_gives_the_same_key_back() {
        let mut preimage = sample();
        let floats = [0.1, -0.0, 1.0, 1e300, 5e-324, f64::MAX, 1.0 / 3.0, f64::from(0.1_f32)];
        preimage.read("floats", &floats).unwrap();
        preimage.read("integers", &(u64::MAX, i64::MIN)).unwrap();
        preimage.read("\"odd\" näme\n", &"\u{0}\u{1f600}").unwrap();
        let back = Preimage::from_json(&preimage.to_json()).unwrap();
        assert_eq!(back.key(), preimage.key());
        assert_eq!(back, preimage);
        assert!(Preimage::from_json("{\"kind\":\"train\"").is_err());
        assert!(Preimage::from_json("null").is_err());
    }

    #[test]
    fn a_diff_names_each_leaf_that_changed() {
        let mut old = sample();
        old.read("prompts", &["a", "b", "c"]).unwrap();
        old.read("gone", &json!({"x": {"y": 1}})).unwrap();
        old.read("zero", &0.0).unwrap();
        let mut new = Preimage::new("train", 4);
        for (name, value) in sample().reads() {
            let mut value = value.clone();
            if name == "optimizer" {
                value["weight_decay"] = json!(0.02);
            }
            new.read(name, &value).unwrap();
        }
        new.read("prompts", &["a", "b2", "c", "d"]).unwrap();
        new.read("empty", &json!({})).unwrap();
        new.read("zero", &-0.0).unwrap();
        let change = |path: &str, old: Option<Value>, new: Option<Value>| Change { path: path.to_owned(), old, new };
        assert_eq!(
            diff(&old, &new),
            [
                change("revision", Some(json!(3)), Some(json!(4))),
                change("empty", None, Some(json!({}))),
                change("gone.x.y", Some(json!(1)), None),
                change("optimizer.weight_decay", Some(json!(0.01)), Some(json!(0.02))),
                change("prompts[1]", Some(json!("b")), Some(json!("b2"))),
                change("prompts[3]", None, Some(json!("d"))),
                change("zero", Some(json!(0.0)), Some(json!(-0.0))),
            ]
        );
    }
}
