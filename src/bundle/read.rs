//! Reading a bundle.

use super::{BundleError, FORMAT, Manifest, VERSION};
use sd3pipe_cache::{Digest, Key, Record, Store, StoreError};
use sd3pipe_stages::work::Progress;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};
use tar::{Archive, Entry};

/// Bytes at most of what is held in memory: a manifest, a record.
const LONGEST: u64 = 1 << 30;

/// So many records are published at a time.
const AT_A_TIME: usize = 512;

type Part<'a> = Entry<'a, BufReader<File>>;

/// What a bundle holds.
///
/// # Errors
/// A file that is none, or of a newer program.
pub fn manifest(path: &Path) -> Result<Manifest, BundleError> {
    let mut found = None;
    each(path, |name, part| {
        if name == "manifest.json" {
            found = Some(serde_json::from_slice(&whole(path, part)?).map_err(|error| damaged(path, error))?);
        }
        // It comes first.
        Ok(false)
    })?;
    found.ok_or_else(|| damaged(path, "its manifest is missing"))
}

/// Puts what a bundle holds into a store: its objects, each held to its digest, and when all of them are there its records.
///
/// # Errors
/// A bundle that is not what was written, a store that can't be written.
pub fn unpack(path: &Path, manifest: &Manifest, store: &Store, progress: &dyn Progress) -> Result<(), BundleError> {
    let (mut records, mut done) = (BTreeMap::new(), 0);
    progress.begin("unpacking", manifest.objects.len() as u64, "objects");
    let read = each(path, |name, mut part| {
        if let Some(digest) = name.strip_prefix("objects/").and_then(|name| name.parse::<Digest>().ok()) {
            let object =
                manifest.object(&digest).ok_or_else(|| damaged(path, format!("it has an unknown object {digest}")))?;
            if !store.has(&object.digest, object.length) {
                let mut writer = store.writer()?;
                let read = |error: io::Error| BundleError::Read { path: path.to_owned(), source: error };
                copy(&mut part, &mut writer, read)?;
                if writer.so_far() != object {
                    return Err(damaged(path, format!("object {} has other bytes", digest.short())));
                }
                writer.finish()?;
            }
            done += 1;
            progress.advance(done, "");
        } else if let Some(key) = name.strip_prefix("records/").and_then(|name| name.parse::<Key>().ok()) {
            let record = Record::from_bytes(&key, &whole(path, part)?).filter(|_| manifest.records.contains(&key));
            records.insert(
                key,
                record.ok_or_else(|| damaged(path, format!("record {} has other bytes", key.digest().short())))?,
            );
        }
        Ok(true)
    });
    progress.end();
    read?;
    if let Some(lacking) = manifest.records.iter().find(|key| !records.contains_key(*key)) {
        return Err(damaged(path, format!("record {} is missing", lacking.digest().short())));
    }
    let mut outputs = records.values().flat_map(|record| &record.outputs);
    if let Some(lacking) = outputs.find(|output| !store.has(&output.digest, output.length)) {
        return Err(damaged(path, format!("object {} is missing", lacking.digest.short())));
    }
    for stage in &manifest.stages {
        store.rely(&stage.key, &stage.actions)?;
    }
    let records: Vec<Record> = records.into_values().collect();
    Ok(records.chunks(AT_A_TIME).try_for_each(|records| store.publish(records))?)
}

/// Gives each part of a bundle with its name, for as long as `act` wants more.
fn each(path: &Path, mut act: impl FnMut(&str, Part<'_>) -> Result<bool, BundleError>) -> Result<(), BundleError> {
    let read = |source| BundleError::Read { path: path.to_owned(), source };
    let not_a_bundle = || BundleError::NotABundle { path: path.to_owned() };
    let mut archive = Archive::new(BufReader::with_capacity(1 << 20, File::open(path).map_err(read)?));
    for (index, part) in archive.entries().map_err(read)?.enumerate() {
        let part = match part {
            Ok(part) => part,
            Err(_) if index == 0 => return Err(not_a_bundle()),
            Err(error) => return Err(damaged(path, error)),
        };
        let name = String::from_utf8_lossy(&part.path_bytes()).into_owned();
        if index == 0 {
            if name != "FORMAT" {
                return Err(not_a_bundle());
            }
            let text = String::from_utf8_lossy(&whole(path, part)?).into_owned();
            match text.strip_prefix(FORMAT).and_then(|number| number.trim_end().parse::<u32>().ok()) {
                Some(found) if found > VERSION => return Err(BundleError::Newer { path: path.to_owned(), found }),
                Some(_) => continue,
                None => return Err(not_a_bundle()),
            }
        }
        if !act(&name, part)? {
            break;
        }
    }
    Ok(())
}

fn whole(path: &Path, part: Part<'_>) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    part.take(LONGEST).read_to_end(&mut bytes).map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Copies a part into the store, and tells errors of the two apart.
fn copy(
    part: &mut Part<'_>,
    writer: &mut sd3pipe_cache::ObjectWriter<'_>,
    read: impl FnOnce(io::Error) -> BundleError,
) -> Result<(), BundleError> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let length = match part.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) => return Err(read(error)),
        };
        io::Write::write_all(writer, &buffer[..length]).map_err(StoreError::write(writer.path()))?;
    }
}

fn damaged(path: &Path, what: impl ToString) -> BundleError {
    BundleError::Damaged { path: path.to_owned(), what: what.to_string() }
}
