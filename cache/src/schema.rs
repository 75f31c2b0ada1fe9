//! The tables of the index: how they come into being, and whether all are there.

use rusqlite::Connection;

/// The version of the schema. A schema that older programs cannot use comes with a new FORMAT of the store, so within
/// one FORMAT any other number here is damage.
const VERSION: i64 = 1;

/// `records.outputs` and `files.entry` are sealed blobs; see record.rs and stat.rs for what is in them. `named` finds
/// the records that name an object. A record that was replaced or forgotten does not give its number to another.
const TABLES: &str = "
    CREATE TABLE records (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, outputs BLOB NOT NULL,
        label TEXT NOT NULL, seconds REAL NOT NULL, preimage TEXT NOT NULL
    ) STRICT;
    CREATE TABLE named (
        digest BLOB NOT NULL, record INTEGER NOT NULL, PRIMARY KEY (digest, record)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE files (
        aspect TEXT NOT NULL, path BLOB NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (aspect, path)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline TEXT NOT NULL, started INTEGER NOT NULL, finished INTEGER,
        outcome TEXT NOT NULL, document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX runs_by_pipeline ON runs (pipeline, id);
";

/// What came after the first program that wrote this FORMAT; an index of that one gets it when it is next opened to
/// write. `reliances.actions` is a sealed blob; see live.rs.
const LATER: &str = "
    CREATE TABLE IF NOT EXISTS reliances (
        run INTEGER NOT NULL, stage BLOB NOT NULL, actions BLOB NOT NULL, PRIMARY KEY (run, stage)
    ) STRICT, WITHOUT ROWID;
";

/// One query for each table, to see on opening that it is there.
const PROBES: [&str; 4] = [
    "SELECT id, key, outputs, label, seconds, preimage FROM records",
    "SELECT digest, record FROM named",
    "SELECT aspect, path, entry FROM files",
    "SELECT id, pipeline, started, finished, outcome, document FROM runs",
];

/// Makes the tables in an empty database.
pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)?;
    connection.execute_batch(LATER)?;
    connection.pragma_update(None, "user_version", VERSION)
}

/// Whether these are our tables; one that is missing is an error of SQLite's. Costs no reading beyond the first page or two.
pub(crate) fn is_ours(connection: &Connection) -> rusqlite::Result<bool> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    PROBES.iter().try_for_each(|query| connection.prepare(query).map(drop))?;
    Ok(version == VERSION)
}

/// Adds what an older program's index lacks. What is not there then is an error of SQLite's.
pub(crate) fn complete(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(LATER)?;
    connection.prepare("SELECT run, stage, actions FROM reliances").map(drop)
}
