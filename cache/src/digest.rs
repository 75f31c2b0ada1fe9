//! A digest: the 32 bytes of BLAKE3 that stand for some content.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// The BLAKE3 digest of some bytes. Displayed, parsed and serialised as 64 lower-case hexadecimal digits.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a digest: expected 64 hexadecimal digits, 0-9 and a-f")]
pub struct DigestError {
    /// The text as it was given.
    pub text: String,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of all that `reader` still gives, and how many bytes that was.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Digest, u64)> {
        let mut hasher = blake3::Hasher::new();
        // A caption is shorter than this, and clearing the 64 KiB that the hasher reads into takes longer than reading it.
        let mut short = Vec::with_capacity(4096);
        reader.by_ref().take(4095).read_to_end(&mut short)?;
        hasher.update(&short);
        if short.len() == 4095 {
            hasher.update_reader(reader)?;
        }
        Ok((Digest(*hasher.finalize().as_bytes()), hasher.count()))
    }

    /// The digest whose bytes these are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first six digits and an ellipsis, `9f2c41…`: enough for a person to tell two apart.
    pub fn short(&self) -> String {
        format!("{:02x}{:02x}{:02x}…", self.0[0], self.0[1], self.0[2])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.short())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let refuse = || DigestError { text: text.to_owned() };
        // One spelling for one digest: blake3's parser would take capitals too.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse());
        }
        let hash = blake3::Hash::from_hex(text).map_err(|_| refuse())?;
        Ok(Digest(*hash.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        struct Hexadecimal;
        impl de::Visitor<'_> for Hexadecimal {
            type Value = Digest;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a digest of 64 hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Hexadecimal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn the_empty_input_has_blake3s_published_digest() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(Digest::of_reader(io::empty()).unwrap(), (Digest::of(b""), 0));
    }

    #[test]
    fn a_reader_gives_the_same_digest_as_its_bytes() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
        assert_eq!(Digest::of_reader(bytes.as_slice()).unwrap(), (Digest::of(&bytes), 300_000));
    }

    #[test]
    fn what_is_displayed_parses_back_and_nothing_else_parses() {
        let digest = Digest::of(b"lighthouse");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(format!("{digest:?}"), digest.short());
        for bad in ["", "af13", &EMPTY.to_uppercase(), &EMPTY.replace('a', "g"), &format!("{EMPTY}0"), "…"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn it_is_a_string_in_json() {
        let digest = Digest::of(b"");
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{EMPTY}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert_eq!(serde_json::from_value::<Digest>(serde_json::json!(EMPTY)).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"af13\"").is_err());
    }
}
