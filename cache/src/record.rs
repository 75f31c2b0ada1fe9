//! Records: what each action made, found by its key.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::files::index_step;
use crate::index::corrupt;
use crate::seal::{seal, unseal};
use crate::store::lock;
use crate::{Digest, Key, Preimage, Store, StoreError};

/// One part of what an action made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// What it is for, as `latents` or `checkpoint`.
    pub role: String,
    /// The item that it belongs to, as its path relative to the dataset; empty where there are no items.
    pub item: String,
    /// The object with its bytes.
    pub digest: Digest,
    /// The object's length in bytes.
    pub length: u64,
    /// The digest of what is in it, if that can be equal for different bytes: what comes downstream reads this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
}

/// What an action read and what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// All that it read; the key is made of this.
    pub preimage: Preimage,
    /// What a person calls the action.
    pub label: String,
    /// What it made.
    pub outputs: Vec<Output>,
    /// How long it took.
    pub seconds: f64,
}

impl Record {
    /// The key that the record is found by.
    pub fn key(&self) -> Key {
        self.preimage.key()
    }
}

impl Store {
    /// The record of `key`, if there is one. A damaged row counts as none.
    ///
    /// # Errors
    /// An index that cannot be read, for another reason than damage.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let query = "SELECT outputs, preimage, label, seconds FROM records WHERE key = ?1";
        let parse = |row: &Row<'_>| {
            let outputs = outputs_in(row, 0, key)?;
            let preimage = Preimage::from_json(row.get_ref(1).ok()?.as_str().ok()?).ok()?;
            (preimage.key() == *key).then_some(())?;
            Some(Record { preimage, label: row.get(2).ok()?, outputs, seconds: row.get(3).ok()? })
        };
        self.with_index(|index| {
            index
                .prepare_cached(query)?
                .query_row([key.as_bytes()], |row| Ok(parse(row)))
                .optional()
                .map(Option::flatten)
        })
    }

    /// What the action `key` made, if there is a record of it: takes a few microseconds.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn outputs(&self, key: &Key) -> Result<Option<Vec<Output>>, StoreError> {
        let query = "SELECT outputs FROM records WHERE key = ?1";
        self.with_index(|index| {
            let mut statement = index.prepare_cached(query)?;
            statement.query_row([key.as_bytes()], |row| Ok(outputs_in(row, 0, key))).optional().map(Option::flatten)
        })
    }

    /// What each of many actions made, as [`Store::outputs`], all at one moment.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn outputs_of(&self, keys: &[Key]) -> Result<Vec<Option<Vec<Output>>>, StoreError> {
        // In the order of the tree of keys, and then in that of the rows: in any other each look-up of a million is in another page.
        let mut sorted: Vec<(&Key, usize)> = keys.iter().enumerate().map(|(at, key)| (key, at)).collect();
        sorted.sort_unstable();
        self.with_index(|index| {
            let transaction = index.transaction()?;
            let (mut rows, mut found) = (Vec::new(), vec![None; keys.len()]);
            let mut statement = transaction.prepare_cached("SELECT id FROM records WHERE key = ?1")?;
            for (key, at) in &sorted {
                let id: Option<i64> = statement.query_row([key.as_bytes()], |row| row.get(0)).optional()?;
                rows.extend(id.map(|id| (id, *at)));
            }
            rows.sort_unstable();
            let mut statement = transaction.prepare_cached("SELECT outputs FROM records WHERE id = ?1")?;
            for (id, at) in rows {
                found[at] = statement
                    .query_row([id], |row| Ok(outputs_in(row, 0, &keys[at])))
                    .optional()
                    .map(Option::flatten)?;
            }
            Ok(found)
        })
    }

    /// Makes every object that was stored so far durable, and then, all together or not at all, the records. A record
    /// takes the place of an older one of its key.
    ///
    /// # Errors
    /// A store that cannot be written, or that was opened for reading.
    pub fn publish(&self, records: &[Record]) -> Result<(), StoreError> {
        self.writable()?;
        // Of all threads together: one could otherwise find nothing left to sync while another still syncs it.
        let _publishing = lock(&self.publishing);
        self.sync_objects()?;
        if records.is_empty() {
            return Ok(());
        }
        self.leave_memory();
        let rows: Vec<(Key, Vec<u8>, String, &Record)> = records
            .iter()
            .map(|record| {
                let key = record.key();
                (key, seal(&[key.as_bytes()], encode(&record.outputs)), record.preimage.to_json(), record)
            })
            .collect();
        self.with_index(|index| {
            let transaction = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (key, outputs, preimage, record) in &rows {
                remove(&transaction, key)?;
                // SQLite has no NaN. A time is no result, so that is nothing to fail for.
                let seconds = if record.seconds.is_nan() { 0.0 } else { record.seconds };
                let insert = "INSERT INTO records (key, outputs, label, seconds, preimage) VALUES (?1, ?2, ?3, ?4, ?5)";
                let id = transaction.prepare_cached(insert)?.insert(params![
                    key.as_bytes(),
                    outputs,
                    record.label,
                    seconds,
                    preimage
                ])?;
                let mut name = transaction.prepare_cached("INSERT OR IGNORE INTO named VALUES (?1, ?2)")?;
                for output in &record.outputs {
                    name.execute(params![output.digest.as_bytes(), id])?;
                }
                read_back(&transaction, key, id, outputs, &record.outputs)?;
            }
            index_step("record.commit", || transaction.commit())
        })
    }

    /// Drops every record that names the object, so that it is made again; gives how many those were.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub fn forget(&self, digest: &Digest) -> Result<usize, StoreError> {
        self.writable()?;
        let query = "SELECT record FROM named WHERE digest = ?1";
        self.with_index(|index| {
            let transaction = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let ids: Vec<i64> = transaction
                .prepare_cached(query)?
                .query_map([digest.as_bytes()], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut removed = 0;
            for id in ids {
                removed += usize::from(remove_row(&transaction, id)?);
            }
            index_step("record.forget", || transaction.commit())?;
            Ok(removed)
        })
    }

    /// Drops the record of `key`; gives whether there was one.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub fn forget_key(&self, key: &Key) -> Result<bool, StoreError> {
        self.writable()?;
        self.with_index(|index| {
            let transaction = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let removed = remove(&transaction, key)?;
            index_step("record.forget", || transaction.commit())?;
            Ok(removed)
        })
    }
}

/// Removes the record of a key, within the caller's transaction; gives whether there was one.
fn remove(transaction: &Connection, key: &Key) -> rusqlite::Result<bool> {
    let query = "SELECT id FROM records WHERE key = ?1";
    let id = transaction.prepare_cached(query)?.query_row([key.as_bytes()], |row| row.get(0)).optional()?;
    id.map_or(Ok(false), |id| remove_row(transaction, id))
}

/// Removes a record and its rows in `named`.
pub(crate) fn remove_row(transaction: &Connection, id: i64) -> rusqlite::Result<bool> {
    let query = "SELECT outputs, key FROM records WHERE id = ?1";
    let parse = |row: &Row<'_>| outputs_in(row, 0, &Key::from_bytes(row.get(1).ok()?));
    let outputs = transaction.prepare_cached(query)?.query_row([id], |row| Ok(parse(row))).optional()?.flatten();
    match outputs {
        Some(outputs) => {
            let mut unname = transaction.prepare_cached("DELETE FROM named WHERE digest = ?1 AND record = ?2")?;
            for output in &outputs {
                unname.execute(params![output.digest.as_bytes(), id])?;
            }
        }
        // A damaged row does not say what it named: look through them all.
        None => drop(transaction.execute("DELETE FROM named WHERE record = ?1", [id])?),
    }
    Ok(transaction.prepare_cached("DELETE FROM records WHERE id = ?1")?.execute([id])? > 0)
}

/// Writes anew which objects the records name.
pub(crate) fn name_all(transaction: &Connection) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM named", [])?;
    let mut name = transaction.prepare_cached("INSERT OR IGNORE INTO named VALUES (?1, ?2)")?;
    let mut statement = transaction.prepare("SELECT id, outputs, key FROM records")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        for output in outputs_in(row, 1, &Key::from_bytes(row.get(2)?)).unwrap_or_default() {
            name.execute(params![output.digest.as_bytes(), id])?;
        }
    }
    Ok(())
}

/// Sees that what was just written is found. In a tree whose order is damaged, SQLite may put a row where it does not
/// look for it; the record would then be made again at every run. Such an index is as good as none.
fn read_back(transaction: &Connection, key: &Key, id: i64, sealed: &[u8], outputs: &[Output]) -> rusqlite::Result<()> {
    let query = "SELECT id = ?2 AND outputs = ?3 FROM records WHERE key = ?1";
    let parameters = params![key.as_bytes(), id, sealed];
    let same: Option<bool> = transaction.prepare_cached(query)?.query_row(parameters, |row| row.get(0)).optional()?;
    let mut found = same == Some(true);
    let mut named = transaction.prepare_cached("SELECT 1 FROM named WHERE digest = ?1 AND record = ?2")?;
    for output in outputs {
        found = found && named.exists(params![output.digest.as_bytes(), id])?;
    }
    found.then_some(()).ok_or_else(corrupt)
}

/// The outputs in a column of a row, or nothing if they are damaged or belong to another key.
fn outputs_in(row: &Row<'_>, column: usize, key: &Key) -> Option<Vec<Output>> {
    decode(unseal(&[key.as_bytes()], row.get_ref(column).ok()?.as_blob().ok()?)?)
}

/// For each output: role and item, each after its length in 4 bytes; digest; length in 8 bytes; a byte 0, or a byte 1
/// and the content's digest. Numbers are little-endian.
pub(crate) fn encode(outputs: &[Output]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(outputs.len() * 128);
    for output in outputs {
        for text in [&output.role, &output.item] {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(output.digest.as_bytes());
        bytes.extend_from_slice(&output.length.to_le_bytes());
        bytes.push(output.content.is_some().into());
        bytes.extend(output.content.iter().flat_map(|content| content.as_bytes()));
    }
    bytes
}

pub(crate) fn decode(mut bytes: &[u8]) -> Option<Vec<Output>> {
    fn take<const LENGTH: usize>(bytes: &mut &[u8]) -> Option<[u8; LENGTH]> {
        bytes.split_off(..LENGTH)?.try_into().ok()
    }
    fn take_text(bytes: &mut &[u8]) -> Option<String> {
        let length = u32::from_le_bytes(take(bytes)?) as usize;
        str::from_utf8(bytes.split_off(..length)?).ok().map(str::to_owned)
    }
    let mut outputs = Vec::new();
    while !bytes.is_empty() {
        outputs.push(Output {
            role: take_text(&mut bytes)?,
            item: take_text(&mut bytes)?,
            digest: Digest::from_bytes(take(&mut bytes)?),
            length: u64::from_le_bytes(take(&mut bytes)?),
            content: match take(&mut bytes)? {
                [0] => None,
                [_] => Some(Digest::from_bytes(take(&mut bytes)?)),
            },
        });
    }
    Some(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Output> {
        let output = |item: &str, content: Option<Digest>| Output {
            role: "latents".to_owned(),
            item: item.to_owned(),
            digest: Digest::of(item.as_bytes()),
            length: 1 << 40,
            content,
        };
        vec![output("photos/0042.png", None), output("", Some(Digest::of(b"content")))]
    }

    #[test]
    fn outputs_come_back_as_they_were_and_no_part_of_them_does() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes), Some(sample()));
        assert_eq!(decode(&[]), Some(Vec::new()));
        let first = encode(&sample()[..1]).len();
        for cut in (1..bytes.len()).filter(|&cut| cut != first) {
            assert_eq!(decode(&bytes[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_row_with_one_bad_bit_or_under_another_key_is_none() {
        let key = Preimage::new("captions", 1).key();
        let sealed = seal(&[key.as_bytes()], encode(&sample()));
        assert!(unseal(&[key.as_bytes()], &sealed).is_some());
        assert!(unseal(&[Preimage::new("captions", 2).key().as_bytes()], &sealed).is_none());
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&[key.as_bytes()], &bad).is_none(), "{bit}");
        }
    }
}
