//! The canonical encoding: the bytes that a key hashes, from JSON.

use serde_json::{Map, Number, Value};

/// Appends the canonical encoding of `value`: a tag for the type, then the content, with a length before all that has
/// one. No two values share an encoding, and it depends neither on the order of a map nor on anything but the value.
///
/// | tag | type | content |
/// |---|---|---|
/// | `0` | null | |
/// | `t`, `f` | true, false | |
/// | `u` | integer of at least zero | 8 bytes |
/// | `i` | integer below zero | 8 bytes, two's complement |
/// | `d` | float | the 8 bytes of its bits as a double |
/// | `s` | text | length in bytes, UTF-8 |
/// | `a` | list | count, each value |
/// | `m` | map | count, then by name in the order of its bytes: length, UTF-8, value |
///
/// Lengths and counts take 8 bytes; all numbers are little-endian.
pub(crate) fn encode(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Null => into.push(b'0'),
        Value::Bool(true) => into.push(b't'),
        Value::Bool(false) => into.push(b'f'),
        Value::Number(number) => encode_number(number, into),
        Value::String(text) => {
            into.push(b's');
            encode_text(text, into);
        }
        Value::Array(values) => {
            into.push(b'a');
            encode_length(values.len(), into);
            for value in values {
                encode(value, into);
            }
        }
        Value::Object(map) => encode_map(map, into),
    }
}

pub(crate) fn encode_map(map: &Map<String, Value>, into: &mut Vec<u8>) {
    into.push(b'm');
    encode_length(map.len(), into);
    // Sorted here, because serde_json keeps the order of insertion when some crate asks it to.
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    for (name, value) in entries {
        encode_text(name, into);
        encode(value, into);
    }
}

/// Each entry of a map as [`encode_map`] writes it, with its name.
pub(crate) fn encode_entries(map: &Map<String, Value>) -> Vec<(String, Vec<u8>)> {
    let mut entries: Vec<(String, Vec<u8>)> = Vec::with_capacity(map.len());
    for (name, value) in map {
        let mut entry = Vec::new();
        encode_text(name, &mut entry);
        encode(value, &mut entry);
        entries.push((name.clone(), entry));
    }
    entries.sort_unstable();
    entries
}

fn encode_number(number: &Number, into: &mut Vec<u8>) {
    if let Some(value) = number.as_u64() {
        into.push(b'u');
        into.extend_from_slice(&value.to_le_bytes());
    } else if let Some(value) = number.as_i64() {
        into.push(b'i');
        into.extend_from_slice(&value.to_le_bytes());
    } else {
        into.push(b'd');
        // A number that is no integer of 64 bits is a double; NaN stands for what cannot be, and is like no other.
        into.extend_from_slice(&number.as_f64().unwrap_or(f64::NAN).to_bits().to_le_bytes());
    }
}

pub(crate) fn encode_text(text: &str, into: &mut Vec<u8>) {
    encode_length(text.len(), into);
    into.extend_from_slice(text.as_bytes());
}

pub(crate) fn encode_length(length: usize, into: &mut Vec<u8>) {
    into.extend_from_slice(&(length as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_different_types_have_different_encodings() {
        let values = [
            json!(null),
            json!(false),
            json!(true),
            json!(0),
            json!(0.0),
            json!(-0.0),
            json!(1),
            json!(-1),
            json!(1.0),
            json!("1"),
            json!(""),
            json!([]),
            json!({}),
            json!([1]),
            json!([[1]]),
            json!(["a", "b"]),
            json!(["ab", ""]),
            json!({"a": "b"}),
            json!({"ab": ""}),
            json!({"a": null}),
            json!([null]),
        ];
        let mut encodings: Vec<Vec<u8>> = Vec::new();
        for value in &values {
            let mut bytes = Vec::new();
            encode(value, &mut bytes);
            assert!(!encodings.contains(&bytes), "{value}");
            encodings.push(bytes);
        }
    }
}
