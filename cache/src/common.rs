//! What many actions read alike, so that of a million keys each costs only what is its own.

use crate::encoding::{encode_entries, encode_length};
use crate::{Key, KeyError, Preimage};

/// What many actions of one kind read alike, encoded once.
#[derive(Debug)]
pub struct Common {
    preimage: Preimage,
    /// Each read as it is encoded, with its name, in the order of the names' bytes.
    encoded: Vec<(String, Vec<u8>)>,
}

impl Common {
    /// Of the reads of `preimage`, for actions of its kind and revision.
    pub fn new(preimage: Preimage) -> Common {
        let encoded = encode_entries(&preimage.reads);
        Common { preimage, encoded }
    }

    /// What an action reads beside this: nothing yet.
    pub fn own(&self) -> Preimage {
        Preimage::new(self.preimage.kind(), self.preimage.revision())
    }

    /// The key of the action that reads this and its `own`.
    ///
    /// # Errors
    /// [`KeyError::Twice`] for a name that both have.
    pub fn key(&self, own: &Preimage) -> Result<Key, KeyError> {
        let own = encode_entries(&own.reads);
        let mut reads: Vec<&(String, Vec<u8>)> = self.encoded.iter().chain(&own).collect();
        reads.sort_unstable_by_key(|(name, _)| name);
        if let Some(twice) = reads.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(KeyError::Twice { path: twice[0].0.clone() });
        }
        Ok(self.preimage.key_of(|bytes| {
            bytes.push(b'm');
            encode_length(reads.len(), bytes);
            reads.iter().for_each(|(_, read)| bytes.extend_from_slice(read));
        }))
    }

    /// All that the action reads which reads this and its `own`.
    pub fn with(&self, mut own: Preimage) -> Preimage {
        own.reads.extend(self.preimage.reads.clone());
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::sample;

    #[test]
    fn what_is_read_in_common_may_be_encoded_once() {
        let names = ["seed", "optimizer", "mask", "shuffle", "rate"];
        for mask in 0..1 << names.len() {
            let (mut common, mut own) = (Preimage::new("train", 3), Preimage::new("train", 3));
            for (at, name) in names.iter().enumerate() {
                let side = if mask >> at & 1 == 1 { &mut common } else { &mut own };
                side.read(name, &sample().reads()[*name]).unwrap();
            }
            let common = Common::new(common);
            assert_eq!(common.key(&own), Ok(sample().key()), "{mask:b}");
            assert_eq!(common.with(own), sample());
        }
        let (common, mut own) = (Common::new(sample()), Preimage::new("train", 3));
        assert_eq!(common.own(), own);
        own.read("seed", &7).unwrap();
        assert_eq!(common.key(&own), Err(KeyError::Twice { path: "seed".to_owned() }));
    }
}
