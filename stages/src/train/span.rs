//! A stretch of a training: so many steps, or a share of all.

use serde::{Deserialize, Serialize, Serializer};

/// A number of optimizer steps, written as a plain number or as `Steps(100)`; or a share of all steps of the training, `Share(0.05)`, which
/// changes with the number of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(from = "Written")]
pub enum Span {
    /// So many steps.
    Steps(u64),
    /// From 0 to 1.
    Share(f64),
}

/// The spellings that are read.
#[derive(Deserialize)]
#[serde(expecting = "expected a number of steps, such as 100, or a share of all, such as Share(0.05)")]
enum Written {
    Steps(u64),
    Share(f64),
    #[serde(untagged)]
    Plain(u64),
}

impl From<Written> for Span {
    fn from(written: Written) -> Self {
        match written {
            Written::Steps(steps) | Written::Plain(steps) => Self::Steps(steps),
            Written::Share(share) => Self::Share(share),
        }
    }
}

/// Steps are a plain number, as they were before there were shares, so that keys stay what they are.
impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(steps) => serializer.serialize_u64(*steps),
            Self::Share(share) => serializer.serialize_newtype_variant("Span", 1, "Share", share),
        }
    }
}

impl Default for Span {
    fn default() -> Self {
        Self::Steps(0)
    }
}

impl Span {
    /// How many of `total` steps it is, to the nearest; never more than all of them when it's a share.
    pub fn steps(self, total: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Share(share) => (share * total as f64).round() as u64,
        }
    }

    /// Whether it can be: a share must be from 0 to 1.
    pub fn is_possible(self) -> bool {
        match self {
            Self::Steps(_) => true,
            Self::Share(share) => (0.0..=1.0).contains(&share),
        }
    }
}
