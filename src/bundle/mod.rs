//! Bundles: what stages made, in one file, for a machine that has not what it was made of.
//!
//! A bundle is a tar archive: `FORMAT`, `manifest.json`, `objects/<digest>` and, after them, `records/<key>`. Equal results in equal stores
//! make equal bytes. It holds captions' texts and images' digests and sizes, and no image.

mod error;
mod read;
mod write;

pub use error::BundleError;
pub use read::{manifest, unpack};
pub use write::pack;

use crate::{
    pipeline::Resolved,
    run::{Journal, StageEntry},
};
use sd3pipe_cache::{Digest, Key, Object, Record};
use sd3pipe_stages::{
    captions::{
        Captions,
        listing::{LISTING, Listing},
        parameters::Masks,
    },
    stage::Stage,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The first line of a bundle, before its number.
const FORMAT: &str = "sd3pipe-bundle ";
/// The number that is written, and the highest that is read.
const VERSION: u32 = 1;

/// What is in a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name of the pipeline that it was made with.
    pub pipeline: String,
    /// The stages, each after those that it reads from.
    pub stages: Vec<PackedStage>,
    /// The folders that the data came from.
    pub folders: Vec<PackedFolder>,
    /// Lengths of the objects, by their digests.
    pub objects: BTreeMap<Digest, u64>,
    /// The keys of the records.
    pub records: BTreeSet<Key>,
}

/// A stage in a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedStage {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: Key,
    /// What it made.
    pub result: Digest,
    /// The keys of its actions.
    pub actions: Vec<Key>,
}

/// A folder of the data, without its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedFolder {
    /// The `Captions` stage that reads it.
    pub stage: String,
    /// Which of its data sets it's of, from 0.
    pub dataset: usize,
    /// Whether it's the folder with that one's masks.
    pub masks: bool,
    /// What lies in it.
    pub listing: Listing,
}

/// A data set's folder, or that of its masks.
fn folder(captions: &Captions, dataset: usize, masks: bool) -> Option<&Path> {
    let dataset = captions.data.get(dataset)?;
    match &dataset.masks {
        Some(Masks::Folder(folder)) if masks => Some(folder),
        _ if masks => None,
        _ => Some(&dataset.path),
    }
}

impl Manifest {
    /// The objects of its records, which are given.
    fn count(&mut self, records: &BTreeMap<Key, Record>) {
        let outputs = records.values().flat_map(|record| &record.outputs);
        self.objects = outputs.map(|output| (output.digest, output.length)).collect();
        self.records = records.keys().copied().collect();
    }

    fn object(&self, digest: &Digest) -> Option<Object> {
        self.objects.get(digest).map(|length| Object { digest: *digest, length: *length })
    }

    /// The journal of what was unpacked for a pipeline: `why` and the next run go by it, and a collection keeps what it leads to.
    pub fn journal(&self, resolved: &Resolved) -> Journal {
        let mut journal = Journal::new(resolved, &BTreeMap::new());
        for stage in &self.stages {
            journal.add(StageEntry {
                name: stage.name.clone(),
                kind: stage.kind.clone(),
                key: stage.key.to_string(),
                result: Some(stage.result),
                executed: Vec::new(),
                actions: None,
                left: None,
                fetched: 0,
                seconds: 0.0,
            });
        }
        journal
    }

    /// Where a pipeline has the folders of the data, each with its listing.
    ///
    /// # Errors
    /// A folder that the pipeline has no place for.
    pub fn places(&self, resolved: &Resolved) -> Result<Vec<(PathBuf, &Listing)>, BundleError> {
        let mut places = Vec::new();
        for packed in &self.folders {
            let found = match resolved.index(&packed.stage).map(|index| &resolved.stages[index].stage) {
                Some(Stage::Captions(captions)) => folder(captions, packed.dataset, packed.masks),
                _ => None,
            };
            let other = || BundleError::OtherPipeline { stage: packed.stage.clone(), dataset: packed.dataset };
            places.push((found.ok_or_else(other)?.to_owned(), &packed.listing));
        }
        Ok(places)
    }
}

/// Puts a listing into a folder, which is made if it's not there. Where files are already, nothing is written: they count. Tells
/// whether the listing is there.
///
/// # Errors
/// A folder that can't be made or written.
pub fn stand_in(folder: &Path, listing: &Listing) -> Result<bool, BundleError> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source| BundleError::Write { path, source }
    };
    let is_hidden =
        |entry: &walkdir::DirEntry| entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_entry(|entry| !is_hidden(entry));
    if entries.filter_map(Result::ok).any(|entry| !entry.file_type().is_dir()) {
        return Ok(false);
    }
    fs::create_dir_all(folder).map_err(fault(folder))?;
    let (path, unfinished) = (folder.join(LISTING), folder.join(format!("{LISTING}.part")));
    let bytes = listing.to_json().map_err(std::io::Error::from).map_err(fault(&path))?;
    fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &path)).map_err(fault(&path))?;
    Ok(true)
}
