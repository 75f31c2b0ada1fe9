//! The journal of runs: what was carried out when, and how it ended. Rows are added and completed, never removed.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use crate::files::index_step;
use crate::{Store, StoreError};

/// The outcome of a run of which nothing else is known yet.
const RUNNING: &str = "running";

/// One run, as the journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its number in this store; later runs have higher ones.
    pub id: u64,
    /// The pipeline's name.
    pub pipeline: String,
    /// When it began, in seconds since 1970 UTC.
    pub started: u64,
    /// When it ended, likewise; nothing for one that has not, or was killed.
    pub finished: Option<u64>,
    /// `running`, or what the run said of its end.
    pub outcome: String,
    /// Whatever else the run wrote down.
    pub document: Value,
}

impl Store {
    /// Adds a run that begins now, and gives its number. Until it ends, or this store is closed, it counts as live.
    ///
    /// # Errors
    /// An index that cannot be written, or a store opened for reading.
    pub fn begin_run(&self, pipeline: &str, document: &Value) -> Result<u64, StoreError> {
        self.writable()?;
        let (now, document) = (now(), document.to_string());
        let insert = "INSERT INTO runs (pipeline, started, outcome, document) VALUES (?1, ?2, ?3, ?4)";
        let _gate = self.gate()?;
        let id = self.with_index(|index| {
            let mut insert = index.prepare_cached(insert)?;
            index_step("journal.begin", || insert.insert(params![pipeline, now, RUNNING, document]))
        })?;
        self.begin_live(id.unsigned_abs())?;
        Ok(id.unsigned_abs())
    }

    /// Writes down what has become of a run. Any outcome but `running` ends it now. A run that the index has lost
    /// through damage stays lost.
    ///
    /// # Errors
    /// As [`Store::begin_run`].
    pub fn update_run(&self, id: u64, outcome: &str, document: &Value) -> Result<(), StoreError> {
        self.writable()?;
        let finished = (outcome != RUNNING).then(now);
        let document = document.to_string();
        let update = "UPDATE runs SET outcome = ?2, document = ?3, finished = ?4 WHERE id = ?1";
        self.with_index(|index| {
            let mut update = index.prepare_cached(update)?;
            index_step("journal.update", || update.execute(params![signed(id), outcome, document, finished]).map(drop))
        })?;
        if finished.is_some() {
            self.end_live(id);
        }
        Ok(())
    }

    /// The last `limit` runs, newest first. Damaged rows are left out.
    ///
    /// # Errors
    /// An index that cannot be read, for another reason than damage.
    pub fn runs(&self, limit: usize) -> Result<Vec<Run>, StoreError> {
        self.with_index(|index| runs_in(index, limit))
    }

    /// The run with this number.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn run(&self, id: u64) -> Result<Option<Run>, StoreError> {
        let query = format!("{SELECT} WHERE id = ?1");
        self.with_index(|index| {
            index.prepare_cached(&query)?.query_row([signed(id)], |row| Ok(parse(row))).optional().map(Option::flatten)
        })
    }

    /// The newest run of a pipeline.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn last_run(&self, pipeline: &str) -> Result<Option<Run>, StoreError> {
        let query = format!("{SELECT} WHERE pipeline = ?1 ORDER BY id DESC LIMIT 1");
        self.with_index(|index| {
            index.prepare_cached(&query)?.query_row([pipeline], |row| Ok(parse(row))).optional().map(Option::flatten)
        })
    }
}

/// The last `limit` runs in an index, newest first.
pub(crate) fn runs_in(index: &Connection, limit: usize) -> rusqlite::Result<Vec<Run>> {
    let mut statement = index.prepare_cached(&format!("{SELECT} ORDER BY id DESC LIMIT ?1"))?;
    let runs = statement.query_map([signed(limit as u64)], |row| Ok(parse(row)))?;
    runs.filter_map(Result::transpose).collect()
}

const SELECT: &str = "SELECT id, pipeline, started, finished, outcome, document FROM runs";

fn parse(row: &Row<'_>) -> Option<Run> {
    let finished: Option<i64> = row.get(3).ok()?;
    Some(Run {
        id: u64::try_from(row.get::<_, i64>(0).ok()?).ok()?,
        pipeline: row.get(1).ok()?,
        started: u64::try_from(row.get::<_, i64>(2).ok()?).ok()?,
        finished: finished.and_then(|finished| u64::try_from(finished).ok()),
        outcome: row.get(4).ok()?,
        document: serde_json::from_str(row.get_ref(5).ok()?.as_str().ok()?).ok()?,
    })
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| signed(since.as_secs()))
}

/// SQLite's integers have a sign.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_journal_gives_runs_back_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = store.begin_run("lighthouses", &json!({"stages": ["captions"]})).unwrap();
        let second = store.begin_run("harbours", &json!(null)).unwrap();
        let third = store.begin_run("lighthouses", &json!(null)).unwrap();
        store.update_run(first, "done", &json!({"hits": 3})).unwrap();
        store.update_run(third, "running", &json!({"hits": 1})).unwrap();

        let ids = |runs: Vec<Run>| runs.iter().map(|run| run.id).collect::<Vec<_>>();
        assert_eq!(ids(store.runs(10).unwrap()), [third, second, first]);
        assert_eq!(ids(store.runs(2).unwrap()), [third, second]);
        let first = store.run(first).unwrap().unwrap();
        assert_eq!((first.outcome.as_str(), &first.document), ("done", &json!({"hits": 3})));
        assert!(first.finished.unwrap() >= first.started && first.started > 1_600_000_000);
        let last = store.last_run("lighthouses").unwrap().unwrap();
        assert_eq!((last.id, last.outcome.as_str(), last.finished), (third, "running", None));
        assert_eq!(last.document, json!({"hits": 1}));
        assert_eq!(store.last_run("mills").unwrap(), None);
        assert_eq!(store.run(99).unwrap(), None);
    }
}
