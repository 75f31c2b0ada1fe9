//! The index: the SQLite file with records, runs and the digests of input files; how it is opened, and how damage to
//! it is healed.
//!
//! # What is durable when
//!
//! The index runs in WAL mode with `synchronous=FULL`. That a record is never durable before its objects does not come
//! from there: objects and their folders are synced before the transaction begins, so any setting would keep that
//! order. FULL is for the other direction. With NORMAL, commits reach the disk only with the next checkpoint, which a
//! long training that publishes a few rows an hour may never cause, and a power cut would then lose hours of published
//! epochs. One more sync a publish costs milliseconds.
//!
//! # Several machines
//!
//! In WAL mode processes share memory, which only those of one machine can. On a file system that others may use (network.rs)
//! the index has a rollback journal instead, which needs no more than locks on ranges of the file; there a commit takes
//! two syncs more, and readers wait while one is written. An index that was made elsewhere is changed when it is first
//! opened to write by somebody who is alone with it. A reader goes by what the file's header says.
//!
//! # Damage
//!
//! SQLite has no checksums in its pages. Damage to its structure is reported by SQLite; damage within a row's content
//! is found by a checksum in each row that matters (seal.rs). In the first case the file goes to quarantine and an
//! empty index takes its place, in the second the row counts as absent: both cost time, neither an answer.
//!
//! Moving a database away under a process that has it open would let that process delete or overwrite its successor's
//! journal. So everyone who has the index open holds `locks/index` shared, and only its exclusive holder creates or
//! moves it. A process that cannot get that (another run has the damaged file open) goes on with an index in memory,
//! and tries again whenever it publishes.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::files::{index_step, step, sync_folder};
use crate::layout::Layout;
use crate::lock::open_lock_file;
use crate::network::{is_half_written, is_network, journal_mode, leave_wal, rolls_back};
use crate::store::random;
use crate::{StoreError, schema};

/// What SQLite appends to the file's name for files beside it.
const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];
/// How long one process waits for another's transaction.
const BUSY: Duration = Duration::from_secs(60);
/// How long to wait until nobody else has a damaged index open.
const ALONE: Duration = Duration::from_secs(5);
/// How often a reader tries to open the index, in all for a fifth of a second.
const ATTEMPTS: u32 = 20;
/// What a reader tells its user who would have to take back what a killed run has half written.
const HALF_WRITTEN: &str =
    "a run was killed while it wrote to the index: nothing is known until the next run has put that right";
/// What a reader of a damaged index tells its user.
pub(crate) const UNKNOWN: &str = "the index is damaged: nothing is known until the next run makes it anew";

/// An open index.
pub(crate) struct Index {
    pub(crate) connection: Connection,
    /// Held shared for as long as the connection is open; none in memory, or where reading found no lock.
    _lock: Option<File>,
    /// Which file it is; none in memory.
    file: Option<FileIdentity>,
    /// The file that is known to be damaged, though opening it may not show that.
    damaged: Option<FileIdentity>,
}

/// Device and inode: the same for as long as a file exists, wherever it is moved.
type FileIdentity = (u64, u64);

/// What opening the file came to.
enum Opened {
    Sound(Connection, FileIdentity),
    /// Sound, but in WAL mode where several machines may come.
    OfOneMachine,
    Absent,
    Damaged,
}

impl Index {
    /// Opens the index of a store for reading and writing; creates it where there is none, heals it where it is damaged.
    pub(crate) fn open(layout: &Layout, notices: &mut Vec<String>) -> Result<Index, StoreError> {
        Index::open_other_than(None, layout, notices, ALONE)
    }

    /// Closes this index, whose file is damaged, and opens a sound one: the one that another process has put in its
    /// place, or else an empty one.
    pub(crate) fn replace(&mut self, layout: &Layout, notices: &mut Vec<String>) -> Result<(), StoreError> {
        let damaged = self.file.or(self.damaged);
        // First, because as long as this holds its lock nobody can move the file.
        *self = Index::in_memory(damaged).map_err(failed(&layout.index()))?;
        *self = Index::open_other_than(damaged, layout, notices, ALONE)?;
        Ok(())
    }

    /// Goes back to a file, if this index is in memory only because the damaged one was in use and it is free by now.
    pub(crate) fn leave_memory(&mut self, layout: &Layout) {
        if self.file.is_none() {
            // What there is to say was said when it went to memory; and if this fails, it can stay there.
            let opened = Index::open_other_than(self.damaged, layout, &mut Vec::new(), Duration::ZERO);
            if let Ok(index) = opened
                && index.file.is_some()
            {
                *self = index;
            }
        }
    }

    fn open_other_than(
        damaged: Option<FileIdentity>,
        layout: &Layout,
        notices: &mut Vec<String>,
        patience: Duration,
    ) -> Result<Index, StoreError> {
        let lock_path = layout.index_lock();
        let index_path = layout.index();
        let deadline = Instant::now() + patience;
        let open = || open_file(&index_path, damaged);
        loop {
            let lock = open_lock_file(&lock_path)?;
            lock.lock_shared().map_err(StoreError::lock(&lock_path))?;
            let of_one_machine = match open()? {
                Opened::Sound(connection, file) => {
                    return Ok(Index { connection, _lock: Some(lock), file: Some(file), damaged: None });
                }
                opened => matches!(opened, Opened::OfOneMachine),
            };
            lock.unlock().map_err(StoreError::lock(&lock_path))?;
            match lock.try_lock() {
                Ok(()) => {
                    // Another process may have been faster: look again, now that nobody else can.
                    if let Opened::Damaged = open()? {
                        quarantine(layout)?;
                        notices.push(
                            "the index was damaged: moved to quarantine; what it knew will be made again".to_owned(),
                        );
                    }
                    match open()? {
                        Opened::Absent => create(layout)?,
                        Opened::OfOneMachine => leave_wal(&index_path).map_err(failed(&index_path))?,
                        Opened::Sound(..) | Opened::Damaged => {}
                    }
                }
                Err(fs::TryLockError::WouldBlock) if !of_one_machine && Instant::now() >= deadline => {
                    notices.push(
                        "the index is damaged, and another run has it open: this run's results will not be remembered \
                         unless that one ends first"
                            .to_owned(),
                    );
                    return Index::in_memory(damaged).map_err(failed(&index_path));
                }
                Err(fs::TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(20)),
                Err(fs::TryLockError::Error(reason)) => return Err(StoreError::Lock { path: lock_path, reason }),
            }
        }
    }

    /// Opens the index for reading, without so much as a journal or a lock file coming into being. An index that is
    /// absent or damaged is an empty one.
    pub(crate) fn open_read_only(layout: &Layout, notices: &mut Vec<String>) -> Result<Index, StoreError> {
        let path = layout.index();
        // Taking a lock is no write. Without a lock file, nobody has ever opened the index to write.
        let lock = File::open(layout.index_lock()).ok();
        if let Some(lock) = &lock {
            lock.lock_shared().map_err(StoreError::lock(layout.index_lock()))?;
        }
        let Some(file) = identity(&path) else {
            return Index::in_memory(None).map_err(failed(&path));
        };
        // A writer that begins or ends makes or removes the journal just then: what fails is tried again.
        for attempt in 1.. {
            match open_file_read_only(&path) {
                Ok(Some(connection)) => return Ok(Index { connection, _lock: lock, file: Some(file), damaged: None }),
                Ok(None) | Err(_) if attempt < ATTEMPTS => thread::sleep(Duration::from_millis(10)),
                Ok(None) => break,
                Err(reason) if is_half_written(&reason) => {
                    notices.push(HALF_WRITTEN.to_owned());
                    return Index::in_memory(Some(file)).map_err(failed(&path));
                }
                Err(reason) => return Err(StoreError::Index { path, reason }),
            }
        }
        notices.push(UNKNOWN.to_owned());
        Index::in_memory(Some(file)).map_err(failed(&path))
    }

    /// Whether it lies only in memory, in the place of a damaged one.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.file.is_none()
    }

    /// An empty index that is forgotten with the process, in the place of a file.
    pub(crate) fn in_memory(damaged: Option<FileIdentity>) -> rusqlite::Result<Index> {
        let connection = Connection::open_in_memory()?;
        schema::create(&connection)?;
        Ok(Index { connection, _lock: None, file: None, damaged })
    }
}

fn failed(path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    move |reason| StoreError::Index { path, reason }
}

/// Whether an error says that the file is damaged. A file that ends within a page gives an I/O error, of its own kind. A violated constraint counts, as the statements cannot violate any on
/// tables that agree with their own indexes; and so does a value of another type than its column's.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..))
        || matches!(failure(error), Some(error) if error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ)
        || matches!(
            code(error),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation)
        )
}

/// The error that SQLite gives for damage, for damage that it does not see.
pub(crate) fn corrupt() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None)
}

/// SQLite's error, whether it came from running a statement or from preparing one.
pub(crate) fn failure(error: &rusqlite::Error) -> Option<&rusqlite::ffi::Error> {
    match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error),
        other => other.sqlite_error(),
    }
}

fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    failure(error).map(|error| error.code)
}

fn identity(path: &Path) -> Option<FileIdentity> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Opens the index to write, unless it is the `damaged` one. Only for who holds `locks/index`.
fn open_file(path: &Path, damaged: Option<FileIdentity>) -> Result<Opened, StoreError> {
    let Some(file) = identity(path) else {
        return Ok(Opened::Absent);
    };
    if damaged == Some(file) {
        return Ok(Opened::Damaged);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed(path))?;
    // SQLite makes do with reading where it may not write. Before it has looked into the file that is a matter of
    // permissions; if it comes to that view only later, the file's header is damaged.
    if connection.is_readonly("main").map_err(failed(path))? {
        return Err(StoreError::Write { path: path.to_owned(), reason: io::ErrorKind::PermissionDenied.into() });
    }
    let sound = probe(&connection).and_then(|sound| {
        let sound = sound && !connection.is_readonly("main")?;
        Ok(sound && unless_missing(schema::complete(&connection).map(|()| true))?)
    });
    match sound {
        Ok(true) if is_network(path) && rolls_back(path) == Some(false) => Ok(Opened::OfOneMachine),
        Ok(true) => Ok(Opened::Sound(connection, file)),
        Ok(false) => Ok(Opened::Damaged),
        Err(error) if is_damage(&error) => Ok(Opened::Damaged),
        Err(reason) => Err(StoreError::Index { path: path.to_owned(), reason }),
    }
}

/// A reader that writes nothing. Without a journal the file alone is the database, and SQLite is told that it does not
/// change, or else it would create a journal. With one (a run is at it, or was killed) SQLite reads both; it then gets
/// at the journal's index, the `-shm` file, for reading only, and makes one in memory where nobody keeps it current.
/// Nothing if the file is damaged. A file with a rollback journal is read under SQLite's own lock, which writes nothing.
fn open_file_read_only(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let journal = fs::metadata(with_suffix(path, "-wal")).is_ok_and(|metadata| metadata.len() > 0);
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(byte.into()),
            other => uri.push_str(&format!("%{other:02x}")),
        }
    }
    uri.push_str(match journal && identity(&with_suffix(path, "-shm")).is_some() {
        _ if rolls_back(path) == Some(true) => "?mode=ro",
        true => "?mode=ro&readonly_shm=1",
        false => "?immutable=1",
    });
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let opened =
        Connection::open_with_flags(uri, flags).and_then(|connection| Ok(probe(&connection)?.then_some(connection)));
    match opened {
        Err(error) if is_damage(&error) => Ok(None),
        result => result,
    }
}

/// Makes an empty index and then gives it its name, so that a kill leaves none that looks damaged. Only for who holds
/// `locks/index` exclusively.
fn create(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.index();
    let temporary = layout.temporary().join(format!("index-{:016x}", random()));
    let filled = index_step("index.create", || {
        let mut connection = Connection::open(&temporary)?;
        configure(&connection)?;
        connection.pragma_update(None, "journal_mode", journal_mode(&temporary))?;
        let transaction = connection.transaction()?;
        schema::create(&transaction)?;
        transaction.commit()?;
        // Takes the journal into the file, and syncs that.
        connection.close().map_err(|(_, error)| error)
    });
    filled.map_err(failed(&path))?;
    // The journal of a file that is gone would be taken for this one's.
    for suffix in SIDE_FILES {
        let _ = fs::remove_file(with_suffix(&path, suffix));
    }
    step("index.rename", || fs::rename(&temporary, &path)).map_err(StoreError::write(&path))?;
    sync_folder("index.folder", layout.root()).map_err(StoreError::write(layout.root()))
}

pub(crate) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "synchronous", "full")?;
    // Finds damaged pages when they are read, and not only when they have been used. Never mmap: a truncated file
    // would be a fatal signal instead of an error.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cache_size", -16_384)
}

/// Configures the connection, and tells whether this is an index of ours with all its tables.
fn probe(connection: &Connection) -> rusqlite::Result<bool> {
    unless_missing(configure(connection).and_then(|()| schema::is_ours(connection)))
}

/// "No such table", "unsupported file format": SQLite's plain error says that this is no index.
fn unless_missing(ours: rusqlite::Result<bool>) -> rusqlite::Result<bool> {
    match ours {
        Err(error) if code(&error) == Some(ErrorCode::Unknown) => Ok(false),
        result => result,
    }
}

/// Moves the index with its journal to quarantine. Only for who holds `locks/index` exclusively.
fn quarantine(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.index();
    let target = layout.quarantine_path("index.sqlite")?;
    for suffix in [""].into_iter().chain(SIDE_FILES) {
        let from = with_suffix(&path, suffix);
        match step("quarantine.index", || fs::rename(&from, with_suffix(&target, suffix))) {
            Ok(()) => {}
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => return Err(StoreError::Write { path: from, reason }),
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
