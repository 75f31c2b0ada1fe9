//! Writing a bundle.

use super::{BundleError, FORMAT, Manifest, PackedFolder, PackedStage, VERSION, folder};
use crate::plan::{Examined, PlanError, Planner, StageResult, State};
use sd3pipe_cache::{Key, Record, Store};
use sd3pipe_stages::{stage::Stage, work::Progress};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::Path,
};
use tar::{Builder, Header};

/// Packs what stages made, and the data that they were made of without its pictures. All that these read was examined. Gives the bytes.
///
/// # Errors
/// A stage that is not done, a store that has lost something, a file that can't be written.
pub fn pack(
    path: &Path,
    stages: &BTreeSet<usize>,
    planner: &mut Planner<'_>,
    examined: &[Option<Examined>],
    store: &Store,
    progress: &dyn Progress,
) -> Result<u64, BundleError> {
    let resolved = planner.resolved;
    let results: Vec<Option<StageResult>> =
        examined.iter().map(|examined| examined.as_ref()?.state.result().cloned()).collect();
    let mut manifest = Manifest {
        pipeline: resolved.pipeline.name.clone(),
        stages: Vec::new(),
        folders: Vec::new(),
        objects: BTreeMap::new(),
        records: BTreeSet::new(),
    };
    let mut records: BTreeMap<Key, Record> = BTreeMap::new();
    let captions = stages.iter().filter_map(|index| planner.captions_of(*index));
    for index in captions.chain(stages.iter().copied()).collect::<BTreeSet<_>>() {
        let (name, stage) = (&resolved.stages[index].name, &resolved.stages[index].stage);
        let fault = |error: PlanError| BundleError::Plan { stage: name.clone(), error: Box::new(error) };
        let not_done = || BundleError::NotDone { stage: name.clone() };
        let Some(Examined { preimage, state: State::Kept { result } }) = &examined[index] else {
            return Err(not_done());
        };
        let key = preimage.key();
        let own = store.record(&key)?.ok_or_else(not_done)?;
        let mut actions = Vec::new();
        if let Stage::Captions(captions) = stage {
            let listings = planner.data(index).and_then(|data| data.listings(captions, store)).map_err(fault)?;
            for (dataset, masks) in (0..captions.data.len()).flat_map(|dataset| [(dataset, false), (dataset, true)]) {
                if let Some(listing) = folder(captions, dataset, masks).and_then(|folder| listings.get(folder)) {
                    let (stage, listing) = (name.clone(), listing.clone());
                    manifest.folders.push(PackedFolder { stage, dataset, masks, listing });
                }
            }
        } else {
            actions = planner.keys_of(index, &results).map_err(fault)?;
            let mut made = HashSet::new();
            for key in &actions {
                if let Some(record) = store.record(key)? {
                    made.extend(record.outputs.iter().map(|output| output.digest));
                    records.insert(*key, record);
                }
            }
            let list = result.artifact(Some(store)).map_err(fault)?;
            if !list.entries.iter().all(|entry| made.contains(&entry.digest)) {
                return Err(not_done());
            }
        }
        records.insert(key, own);
        let (name, kind) = (name.clone(), stage.kind().to_string());
        manifest.stages.push(PackedStage { name, kind, key, result: result.digest, actions });
    }
    manifest.count(&records);

    // Nobody finds half of one under its name.
    let unfinished = path.with_added_extension("part");
    let fault = |source| BundleError::Write { path: path.to_owned(), source };
    let file = BufWriter::with_capacity(1 << 20, File::create(&unfinished).map_err(fault)?);
    let written = write(file, &manifest, &records, store, progress, &fault)
        .and_then(|bytes| fs::rename(&unfinished, path).map(|()| bytes).map_err(fault));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write(
    file: BufWriter<File>,
    manifest: &Manifest,
    records: &BTreeMap<Key, Record>,
    store: &Store,
    progress: &dyn Progress,
    fault: &dyn Fn(io::Error) -> BundleError,
) -> Result<u64, BundleError> {
    let mut tar = Builder::new(file);
    let format = format!("{FORMAT}{VERSION}\n");
    append(&mut tar, "FORMAT", format.len() as u64, format.as_bytes()).map_err(fault)?;
    let bytes = serde_json::to_vec(manifest).map_err(io::Error::from).map_err(fault)?;
    append(&mut tar, "manifest.json", bytes.len() as u64, bytes.as_slice()).map_err(fault)?;
    progress.begin("packing", manifest.objects.len() as u64, "objects");
    for (done, (digest, length)) in manifest.objects.iter().enumerate() {
        let path = store.file(digest)?;
        let object = File::open(&path).map_err(|source| BundleError::Read { path, source })?;
        append(&mut tar, &format!("objects/{digest}"), *length, object.take(*length)).map_err(fault)?;
        progress.advance(done as u64 + 1, "");
    }
    progress.end();
    for (key, record) in records {
        let bytes = record.to_bytes();
        append(&mut tar, &format!("records/{key}"), bytes.len() as u64, bytes.as_slice()).map_err(fault)?;
    }
    let mut file = tar.into_inner().map_err(fault)?;
    file.flush().map_err(fault)?;
    let file = file.get_ref();
    file.sync_all().and_then(|()| file.metadata()).map(|metadata| metadata.len()).map_err(fault)
}

/// Adds a file that says nothing of who packed it, where and when.
fn append(tar: &mut Builder<BufWriter<File>>, name: &str, length: u64, bytes: impl Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, bytes)
}
