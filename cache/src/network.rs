//! File systems that several machines use at once, and the journal that an index has there.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::files::index_step;
use crate::index::{configure, failure};

/// Those whose files are kept elsewhere, by the number that Linux gives them (statfs(2)). FUSE may be anything, and counts as one.
#[cfg(target_os = "linux")]
const KINDS: [(u32, &str); 14] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x00c3_6400, "Ceph"),
    (0x1983_0326, "BeeGFS"),
    (0xaad7_aaea, "PanFS"),
    (0x5346_414f, "AFS"),
    (0x0102_1997, "9P"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x6573_5546, "FUSE"),
];

/// Whether other machines may use the file system of this path at the same time.
#[cfg(target_os = "linux")]
pub(crate) fn is_network(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| KINDS.iter().any(|(kind, _)| *kind == found.f_type as u32))
}

/// Other systems do not say it alike: there it counts as one machine's own.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_network(_: &Path) -> bool {
    false
}

/// The journal mode in which every connection is that finds an index not to be in WAL mode.
const ROLLBACK: &str = "delete";

/// How an index is to keep its journal where it lies.
pub(crate) fn journal_mode(path: &Path) -> &'static str {
    if is_network(path) { ROLLBACK } else { "wal" }
}

/// Whether an index has a rollback journal, by its header; nothing of a file that has no such header.
pub(crate) fn rolls_back(path: &Path) -> Option<bool> {
    let mut header = [0; 20];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    // The versions of the file format that writers and readers must know: 1 with a rollback journal, 2 in WAL mode.
    match header[18..] {
        [1, 1] => Some(true),
        [2, 2] => Some(false),
        _ => None,
    }
}

/// Gives an index in WAL mode a rollback journal. Only for who holds `locks/index` exclusively.
pub(crate) fn leave_wal(path: &Path) -> rusqlite::Result<()> {
    index_step("index.journal", || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        configure(&connection)?;
        connection.pragma_update(None, "journal_mode", ROLLBACK)?;
        connection.close().map_err(|(_, error)| error)
    })
}

/// Whether a reader has found the journal of a commit that nobody completes any more.
pub(crate) fn is_half_written(error: &rusqlite::Error) -> bool {
    failure(error).is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_READONLY_ROLLBACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Preimage, Record, Store};
    use std::fs;

    fn record(number: u32) -> Record {
        Record { preimage: Preimage::new("text", number), label: String::new(), outputs: Vec::new(), seconds: 0.0 }
    }

    #[test]
    fn an_index_leaves_wal_with_all_that_it_knows_and_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("index.sqlite");
        Store::open(folder.path()).unwrap().publish(&[record(1)]).unwrap();
        assert_eq!(rolls_back(&index), Some(false));
        leave_wal(&index).unwrap();
        assert_eq!(rolls_back(&index), Some(true));
        let store = Store::open(folder.path()).unwrap();
        store.publish(&[record(2)]).unwrap();
        // Beside a writer too.
        let reader = Store::open_read_only(folder.path()).unwrap().unwrap();
        for number in [1, 2] {
            assert!(reader.record(&record(number).key()).unwrap().is_some(), "{number}");
        }
        assert_eq!((rolls_back(&index), folder.path().join("index.sqlite-wal").exists()), (Some(true), false));
        assert!(store.notices().is_empty() && reader.notices().is_empty());
    }

    #[test]
    fn what_a_killed_run_has_half_written_is_taken_back_by_the_next_and_told_by_readers() {
        let (folder, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let index = |root: &tempfile::TempDir| root.path().join("index.sqlite");
        Store::open(folder.path()).unwrap().publish(&[record(1)]).unwrap();
        leave_wal(&index(&folder)).unwrap();
        drop(Store::open(killed.path()).unwrap());
        let mut writer = Connection::open(index(&folder)).unwrap();
        configure(&writer).unwrap();
        writer.pragma_update(None, "cache_size", 1).unwrap();
        let transaction = writer.transaction().unwrap();
        // More than fits into memory: pages go to the file before the commit.
        transaction.execute("DELETE FROM records", []).unwrap();
        let insert = "INSERT INTO runs (pipeline, started, outcome, document) VALUES ('x', 0, 'x', ?1)";
        for _ in 0..100 {
            transaction.execute(insert, ["x".repeat(4000)]).unwrap();
        }
        for name in ["index.sqlite", "index.sqlite-journal"] {
            fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
        }
        let reader = Store::open_read_only(killed.path()).unwrap().unwrap();
        assert_eq!(reader.outputs(&record(1).key()).unwrap(), None);
        assert!(reader.notices()[0].contains("a run was killed while it wrote"));
        drop(reader);
        let store = Store::open(killed.path()).unwrap();
        assert!(store.outputs(&record(1).key()).unwrap().is_some());
        assert!(store.runs(1).unwrap().is_empty() && store.notices().is_empty());
    }
}
