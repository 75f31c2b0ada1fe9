//! For `fuzz/` alone: what is read from rows of the index, once their checksums are passed.

use crate::{record, stat::Row};

/// The outputs of a record.
pub fn outputs(bytes: &[u8]) {
    if let Some(outputs) = record::decode(bytes) {
        assert_eq!(record::decode(&record::encode(&outputs)), Some(outputs));
    }
}

/// What is remembered of a file.
pub fn remembered_file(bytes: &[u8]) {
    if let Some(row) = Row::decode(bytes) {
        assert_eq!(row.encode(), bytes);
        row.trusts(&row.fingerprint);
    }
}
