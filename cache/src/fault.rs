//! What can be wrong in a store, each with what a repair does about it.

use std::fmt;
use std::path::PathBuf;

use crate::Digest;

/// Something that is wrong in a store. Displayed as one line: what it is, what is wrong with it, and what a repair does.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// An object's bytes are not those of its name.
    Damaged {
        /// The object.
        digest: Digest,
        /// What it is for, as far as a record says that: `latents of wall-clock.jpg`.
        of: String,
    },
    /// An object is not there that a record, or a stage's list, promises.
    Missing {
        /// The object.
        digest: Digest,
        /// What it is for.
        of: String,
    },
    /// An object is whole and yet not what its record says: of another length, or no list where that should be one.
    Unfit {
        /// The object.
        digest: Digest,
        /// What it is for.
        of: String,
    },
    /// A record whose row is damaged, or whose preimage is not that of its key.
    Record {
        /// The row's number.
        id: i64,
        /// The record's label.
        label: String,
    },
    /// Rows of the index that say what no record does, or lack what one does.
    Names {
        /// How many.
        count: usize,
    },
    /// Remembered digests of input files that are damaged.
    Files {
        /// How many.
        count: usize,
    },
    /// Runs in the journal that are damaged.
    Runs {
        /// Their numbers.
        runs: Vec<i64>,
    },
    /// The index is damaged as a database.
    Index {
        /// What SQLite says.
        reason: String,
    },
    /// A pin that cannot be understood.
    Pin {
        /// Its file.
        path: PathBuf,
    },
    /// A file among the objects that is none.
    Stray {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Damaged { digest, of } => {
                write!(formatter, "object {} ({of}) is damaged: to quarantine, and made again", digest.short())
            }
            Fault::Missing { digest, of } => {
                write!(formatter, "object {} ({of}) is missing: made again", digest.short())
            }
            Fault::Unfit { digest, of } => {
                write!(formatter, "object {} ({of}) is not what its record says: made again", digest.short())
            }
            Fault::Record { label, .. } => {
                write!(formatter, "the record of `{label}` is damaged: dropped, and what it knew is made again")
            }
            Fault::Names { count } => {
                write!(formatter, "{count} names of objects do not agree with the records: written anew")
            }
            Fault::Files { count } => {
                write!(formatter, "{count} remembered digests of files are damaged: dropped, the files are read again")
            }
            Fault::Runs { runs } => write!(formatter, "{} runs in the journal are damaged: dropped", runs.len()),
            Fault::Index { reason } => {
                write!(formatter, "the index is damaged ({reason}): to quarantine; all that it knew is made again")
            }
            Fault::Pin { path } => {
                write!(formatter, "the pin {} cannot be read: to quarantine; pin its run again", path.display())
            }
            Fault::Stray { path } => write!(formatter, "{} is no object: to quarantine", path.display()),
        }
    }
}

impl Fault {
    /// The row of a damaged record.
    pub(crate) fn record(&self) -> Option<i64> {
        match self {
            Fault::Record { id, .. } => Some(*id),
            _ => None,
        }
    }
}
