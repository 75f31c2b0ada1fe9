//! What can go wrong in keys and in the store, each with what to do about it.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;
use thiserror::Error;

use crate::Digest;

/// What people can do when the place of the store is at fault.
const ELSEWHERE: &str = "choose another store with --store or SD3PIPE_STORE";

/// Why a value cannot be part of a key. Every `path` is dotted, as in `optimizer.weight_decay` or `prompts[2]`.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum KeyError {
    /// A float that is not a number, or infinite: it has no spelling in JSON, and no result should depend on it.
    #[error("`{path}` is {value}: give a finite number")]
    NotFinite {
        /// Where the float is.
        path: String,
        /// The float.
        value: f64,
    },
    /// An integer outside of the 64-bit range.
    #[error("`{path}` is {value}, which does not fit in 64 bits: give a smaller number")]
    TooLarge {
        /// Where the integer is.
        path: String,
        /// The integer in decimal.
        value: String,
    },
    /// One name for two values: the second would hide the first from the key.
    #[error("`{path}` is given twice: give each input a name of its own")]
    Twice {
        /// The name.
        path: String,
    },
    /// A map whose keys are no names.
    #[error("`{path}` is a map whose keys are neither texts, whole numbers nor booleans: use texts")]
    BadName {
        /// Where the map is.
        path: String,
    },
    /// The value's own serialisation failed.
    #[error("`{path}` cannot be part of a key: {reason}")]
    Unserializable {
        /// Where the value is.
        path: String,
        /// What the value says.
        reason: String,
    },
    /// A text that is no preimage.
    #[error(
        "this is not the preimage of a key: {reason}; it was changed by hand or by another program, so make it again"
    )]
    NotAPreimage {
        /// What the parser says.
        reason: String,
    },
}

/// Why the store cannot do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Something below the store's root cannot be written.
    #[error("cannot write {}: {reason}; {}", path.display(), remedy_for_writing(reason))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// Something below the store's root cannot be read.
    #[error("cannot read {}: {reason}; check its permissions and the disk, or {ELSEWHERE}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The file system refuses a lock.
    #[error("cannot lock {}: {reason}; the store needs a disk with file locks: {ELSEWHERE}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The store was made by a newer program.
    #[error("the store {} has format {found}, which a newer sd3pipe made: update sd3pipe, or {ELSEWHERE}", path.display())]
    Newer {
        /// The store's root.
        path: PathBuf,
        /// The format's number.
        found: u64,
    },
    /// The folder holds other things than a store.
    #[error("{} is not a store but a folder with other files in it ({found}): {ELSEWHERE}", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// One thing in it that a store does not have.
        found: String,
    },
    /// A write to a store that was opened for reading.
    #[error("the store {} was opened for reading only: open it with `Store::open` to write", path.display())]
    ReadOnly {
        /// The store's root.
        path: PathBuf,
    },
    /// The index refuses, for another reason than damage (damage is healed).
    #[error("cannot use the index {}: {reason}; {}", path.display(), remedy_for_index(reason))]
    Index {
        /// The index's file.
        path: PathBuf,
        /// What SQLite says.
        reason: rusqlite::Error,
    },
    /// An object's bytes are not those of its name. It has been moved to quarantine.
    #[error("object {digest} was damaged and is now in quarantine: run again and it will be made again")]
    Damaged {
        /// The object's name.
        digest: Digest,
    },
    /// There is no such object.
    #[error("object {digest} is not in the store: run again and it will be made again")]
    Missing {
        /// The object's name.
        digest: Digest,
    },
    /// The index is lost, so nobody knows what the objects are for.
    #[error(
        "the index {} is missing, or damaged and in use: run a pipeline, or this again when no run is under way",
        path.display()
    )]
    NoIndex {
        /// The index's file.
        path: PathBuf,
    },
    /// A pin that cannot be understood: what it keeps is not known.
    #[error("the pin {} cannot be read: {reason}; remove the file and pin its run again", path.display())]
    Pin {
        /// The pin's file.
        path: PathBuf,
        /// What the parser says.
        reason: serde_json::Error,
    },
    /// A file to adopt that does not lie in the store's temporary folder.
    #[error("{} cannot be adopted: write it to a path that `Store::temporary_path` gave", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file to adopt that was written while it was being adopted.
    #[error("{} changed while it was being adopted: finish writing before adopting it", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// The error of a write to `path` below the store's root.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        move |reason| StoreError::Write { path: path.into(), reason }
    }

    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        move |reason| StoreError::Read { path: path.into(), reason }
    }

    pub(crate) fn lock(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        move |reason| StoreError::Lock { path: path.into(), reason }
    }
}

fn remedy_for_writing(reason: &io::Error) -> String {
    match reason.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("make room on the disk and run again, what was finished is kept; or {ELSEWHERE}")
        }
        io::ErrorKind::FileTooLarge => {
            format!(
                "raise the limit on the size of files (ulimit -f) and run again, what was finished is kept; or {ELSEWHERE}"
            )
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("let this user write there, or {ELSEWHERE}")
        }
        _ => format!("check the disk, or {ELSEWHERE}"),
    }
}

fn remedy_for_index(reason: &rusqlite::Error) -> String {
    match reason.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another run keeps it busy: run again when that one is done".to_owned()
        }
        Some(ErrorCode::DiskFull) => {
            format!("make room on the disk and run again, what was finished is kept; or {ELSEWHERE}")
        }
        _ => format!("check its permissions and the disk, or {ELSEWHERE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_error_names_the_path_and_the_remedy() {
        let refused = StoreError::write("/store/tmp")(io::ErrorKind::PermissionDenied.into());
        assert_eq!(
            refused.to_string(),
            "cannot write /store/tmp: permission denied; let this user write there, or choose another store with --store or SD3PIPE_STORE"
        );
        let full = StoreError::write("/store/tmp")(io::ErrorKind::StorageFull.into());
        assert!(full.to_string().contains("make room on the disk"), "{full}");
    }
}
