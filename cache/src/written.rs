//! Records as bytes, for stores that are no folder of this machine: a remote one, a bundle.
//!
//! A line of JSON, and a line with the digest of the first. What another store has is believed as little as a row of the index:
//! bytes that are not those which were written, or that are of another key, are no record.

use crate::{Digest, Key, Record};

impl Record {
    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // JSON has no NaN. A time is no result, so that is nothing to fail for.
        let seconds = if self.seconds.is_finite() { self.seconds } else { 0.0 };
        // Writing maps of JSON values to memory has no way to fail.
        let line = serde_json::to_string(&Record { seconds, ..self.clone() }).unwrap_or_default();
        format!("{line}\n{}\n", Digest::of(line.as_bytes())).into_bytes()
    }

    /// What [`Record::to_bytes`] wrote, if it is the record of `key`.
    pub fn from_bytes(key: &Key, bytes: &[u8]) -> Option<Record> {
        let (line, digest) = str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once('\n')?;
        if digest.parse() != Ok(Digest::of(line.as_bytes())) {
            return None;
        }
        serde_json::from_str(line).ok().filter(|record: &Record| record.key() == *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Output, Preimage};

    fn sample() -> Record {
        let mut preimage = Preimage::new("encode text", 2);
        preimage.read("text", &"a lighthouse\nat \"dusk\"").unwrap();
        preimage.read("rate", &(1.0 / 3.0)).unwrap();
        let output = |content: Option<Digest>| Output {
            role: "text".to_owned(),
            item: "a/b.png".to_owned(),
            digest: Digest::of(b"object"),
            length: 1 << 40,
            content,
        };
        let outputs = vec![output(None), output(Some(Digest::of(b"content")))];
        Record { preimage, label: "é".to_owned(), outputs, seconds: 0.1 }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = sample();
        assert_eq!(Record::from_bytes(&record.key(), &record.to_bytes()), Some(record.clone()));
        let timeless = Record { seconds: f64::NAN, ..record };
        assert_eq!(Record::from_bytes(&timeless.key(), &timeless.to_bytes()).unwrap().seconds, 0.0);
    }

    #[test]
    fn one_bad_bit_a_cut_or_another_key_make_it_none() {
        let record = sample();
        let (key, bytes) = (record.key(), record.to_bytes());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::from_bytes(&key, &bad), None, "{bit}");
        }
        for cut in 0..bytes.len() {
            assert_eq!(Record::from_bytes(&key, &bytes[..cut]), None, "{cut}");
        }
        assert_eq!(Record::from_bytes(&Preimage::new("encode text", 3).key(), &bytes), None);
    }
}
