//! A captions stage: the files as they lie there, and the items that they make.

use super::{
    PlanError, Planner, StageResult,
    memo::{CHANGED, Known, Memo, read_as},
};
use crate::pipeline::Resolved;
use sd3pipe_cache::{Digest, FileDigests, Fingerprint, Key, Output, Preimage, Record, Store, StoreError};
use sd3pipe_stages::{
    captions::{
        Captions, Items, caption,
        items::{self, ImageFacts, Made},
        listing::{ListedFile, Listing, Seen},
        parameters::{Dataset, Masks},
        report::DataReport,
        scan::{self, Found, Scan},
    },
    images::{self, decode},
    stage::Stage,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
};

/// What a captions stage found and made.
#[derive(Debug)]
pub struct Data {
    /// All that its result depends on.
    pub preimage: Preimage,
    /// The items.
    pub result: StageResult,
    /// Whether the store has them already.
    pub kept: bool,
    /// How many images there are.
    pub images: usize,
    /// What is worth saying of the data; only when the items were made anew.
    pub report: Option<DataReport>,
    scan: Scan,
    digests: Vec<Digests>,
    memo: Option<Vec<u8>>,
}

pub(super) const MEMO: &str = "memo";
const ITEMS: &str = "items";

impl Data {
    /// Walks the data and makes its items, from what was kept where nothing changed. Writes nothing but remembered digests, and
    /// those only if the store may be written.
    pub fn read(
        stage: &Captions,
        resolved: &Resolved,
        store: Option<&Store>,
        previous: Option<&Key>,
        lost: &BTreeSet<Digest>,
    ) -> Result<Self, PlanError> {
        Self::of(scan::walk(stage, &resolved.folder)?, stage, resolved, store, previous, lost)
    }

    /// As [`read`](Self::read), of what a walk has found.
    pub fn of(
        scan: Scan,
        stage: &Captions,
        resolved: &Resolved,
        store: Option<&Store>,
        previous: Option<&Key>,
        lost: &BTreeSet<Digest>,
    ) -> Result<Self, PlanError> {
        let mut remembered = load_digests(stage, resolved, store)?;
        // Without a store all of them are read.
        let mut read = Memo::with_room(if store.is_none() { scan.found.len() } else { 0 });
        let digests = digests_of(&scan, &mut remembered, Some(&mut read))?.unwrap_or_default();
        for (_, remembered) in remembered {
            remembered.save()?;
        }
        let preimage = preimage(stage, &scan, &digests)?;
        let images = scan.found.len();
        let key = preimage.key();
        let look_up = || match store {
            Some(store) => store.outputs(&key).map(Option::unwrap_or_default),
            None => Ok(Vec::new()),
        };
        let mut kept = look_up()?;
        if let Some(store) = store.filter(|_| !kept.is_empty() && previous != Some(&key)) {
            // As for every stage: see `Planner::kept`.
            store.rely(&key, &[])?;
            kept = look_up()?;
        }
        if let Some(output) = kept.iter().find(|output| output.role == ITEMS && !lost.contains(&output.digest)) {
            let result = StageResult::stored(output.digest);
            return Ok(Self { preimage, result, kept: true, images, report: None, scan, digests, memo: None });
        }
        let mut before = store.zip(previous).and_then(|(store, key)| Memo::read(store, key)).unwrap_or_default();
        before.add(read);
        scan.found.iter().zip(&digests).for_each(|(found, digests)| before.add_listed(found, digests));
        let (made, memo) = make(stage, &scan, &digests, before)?;
        let report = Some(DataReport::new(&made, &scan));
        let result = StageResult::in_memory(made.items.to_json()?);
        let memo = Some(serde_json::to_vec(&memo)?);
        Ok(Self { preimage, result, kept: false, images, report, scan, digests, memo })
    }

    /// Every file that was looked at, as it was.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Fingerprint)> {
        fn of(found: &Found) -> impl Iterator<Item = (&Path, &Fingerprint)> {
            let caption = found.caption.as_deref().zip(found.caption_state.as_ref());
            let mask = found.mask.as_deref().map(|(path, state)| (path.as_path(), state));
            let all = [Some((found.image.as_path(), &found.image_state)), caption, mask];
            all.into_iter().flatten().filter_map(|(path, state)| Some((path, state.here()?)))
        }
        let listings = self.scan.listings.iter().map(|(path, state)| (path.as_path(), state));
        self.scan.found.iter().flat_map(of).chain(listings)
    }

    /// The files of every item's picture.
    pub fn files_of_items(&self) -> BTreeMap<String, images::Files> {
        self.scan.found.iter().map(|found| (found.id.clone(), files(found))).collect()
    }

    /// Gives the files of an item's picture by its id. Items are mostly asked for in their order, and found without a search then.
    pub fn files_in_order(&self) -> impl FnMut(&str) -> images::Files {
        let (found, mut next) = (&self.scan.found, 0);
        move |id| {
            if found.get(next).is_none_or(|found| found.id != id) {
                next = found.partition_point(|found| found.id.as_str() < id);
            }
            next += 1;
            found.get(next - 1).filter(|found| found.id == id).map(files).unwrap_or_default()
        }
    }

    /// Those of an item's files that are elsewhere: its folder has a listing in their place.
    pub fn elsewhere(&self) -> impl Iterator<Item = &Path> {
        let pictures = self.scan.found.iter().flat_map(|found| {
            let mask = found.mask.as_deref().map(|(path, seen)| (path, seen));
            [Some((&found.image, &found.image_state)), mask]
        });
        pictures.flatten().filter(|(_, seen)| seen.listed().is_some()).map(|(path, _)| path.as_path())
    }

    /// The listing of each folder that items come from.
    ///
    /// # Errors
    /// When the store has no longer what was read from the files.
    pub fn listings(&self, stage: &Captions, store: &Store) -> Result<BTreeMap<PathBuf, Listing>, PlanError> {
        let key = self.preimage.key();
        let memo = Memo::read(store, &key).ok_or(StoreError::Missing { digest: key.digest() })?;
        let mut listings: BTreeMap<PathBuf, Listing> = BTreeMap::new();
        let mut add = |folder: &Path, path: &Path, file: ListedFile| {
            let below = path.strip_prefix(folder).unwrap_or(path).to_string_lossy();
            let below = below.replace(std::path::MAIN_SEPARATOR, "/");
            listings.entry(folder.to_owned()).or_default().files.insert(below, file);
        };
        let picture = |digest: &Digest| {
            let size = memo.sizes.get(digest).map(|known| *known.get());
            ListedFile { size, text: None, digest: digest.to_string() }
        };
        for (found, digests) in self.scan.found.iter().zip(&self.digests) {
            let Some(dataset) = stage.data.get(found.dataset) else { continue };
            add(&dataset.path, &found.image, picture(&digests.image));
            if let Some((path, digest)) = found.caption.as_ref().zip(digests.caption) {
                let text = memo.captions.get(&digest).map(|known| known.get().to_string());
                add(&dataset.path, path, ListedFile { size: None, text, digest: digest.to_string() });
            }
            if let (Some(Masks::Folder(masks)), Some((path, _)), Some(digest)) =
                (&dataset.masks, found.mask.as_deref(), &digests.mask)
            {
                add(masks, path, picture(digest));
            }
        }
        Ok(listings)
    }

    /// What the next run will know by digests, if it was read anew.
    pub(super) fn memo(&self) -> Option<&[u8]> {
        self.memo.as_deref()
    }

    /// Puts the items into the store.
    pub fn publish(&self, name: &str, store: &Store) -> Result<(), PlanError> {
        let bytes = self.result.bytes(Some(store))?;
        // A collection after a kill keeps it.
        store.rely(&self.preimage.key(), &[])?;
        let mut outputs = vec![output(ITEMS, store.put(&bytes)?)];
        if let Some(memo) = &self.memo {
            outputs.push(output(MEMO, store.put(memo)?));
        }
        store.publish(&[Record { preimage: self.preimage.clone(), label: name.to_owned(), outputs, seconds: 0.0 }])?;
        Ok(())
    }
}

impl Planner<'_> {
    /// What lies in the folders of a captions stage, by a walk unless there was one whose data has not been read since.
    pub(super) fn scan(&mut self, index: usize, stage: &Captions) -> Result<Scan, PlanError> {
        Ok(match self.scans.remove(&index) {
            Some(scan) => scan,
            None => scan::walk(stage, &self.resolved.folder)?,
        })
    }

    /// Whether the store has the items of a captions stage as its files are now, so that none of them need be read. What the walk for
    /// that has found is kept.
    pub fn is_read(&mut self, index: usize) -> Result<bool, PlanError> {
        let (Stage::Captions(stage), Some(store)) = (&self.resolved.stages[index].stage, self.store) else {
            return Ok(true);
        };
        let scan = self.scan(index, stage)?;
        let key = match digests_of(&scan, &mut load_digests(stage, self.resolved, Some(store))?, None)? {
            Some(digests) => Some(preimage(stage, &scan, &digests)?.key()),
            None => None,
        };
        self.scans.insert(index, scan);
        Ok(key.map(|key| store.outputs(&key)).transpose()?.flatten().is_some())
    }
}

fn files(found: &Found) -> images::Files {
    images::Files { image: found.image.clone(), mask: found.mask.as_deref().map(|(path, _)| path.clone()) }
}

/// All that the items depend on.
fn preimage(stage: &Captions, scan: &Scan, digests: &[Digests]) -> Result<Preimage, PlanError> {
    let (mut listing, mut settings) = (Vec::new(), Vec::new());
    let list = |listing: &mut Vec<u8>, parts: &[&[u8]]| {
        for part in parts {
            listing.extend((part.len() as u64).to_le_bytes());
            listing.extend(*part);
        }
    };
    let bytes = |digest: &Option<Digest>| digest.as_ref().map_or(Vec::new(), |digest| digest.as_bytes().to_vec());
    let of_datasets = stage.data.iter().map(Dataset::settings).collect::<Result<Vec<_>, _>>()?;
    for (found, digests) in scan.found.iter().zip(digests) {
        let repeats = found.repeats.to_le_bytes();
        let caption = bytes(&digests.caption);
        let parts = [found.id.as_bytes(), digests.image.as_bytes(), &caption, found.class.as_bytes(), &repeats];
        list(&mut listing, &parts);
        if let Some(Some(of_dataset)) = of_datasets.get(found.dataset) {
            list(&mut settings, &[found.id.as_bytes(), of_dataset.as_bytes(), &bytes(&digests.mask)]);
        }
    }
    let stage_value = Stage::Captions(stage.clone());
    let mut preimage = Preimage::new("Captions", stage_value.revision());
    preimage.read("parameters", &stage_value.parameters()?)?;
    preimage.read("files", &Digest::of(&listing))?;
    if !settings.is_empty() {
        preimage.read("settings", &Digest::of(&settings))?;
    }
    Ok(preimage)
}

fn output(role: &str, object: sd3pipe_cache::Object) -> Output {
    sd3pipe_stages::action::output(role, "", object)
}

/// The digests of an item's files.
#[derive(Debug)]
pub(super) struct Digests {
    pub(super) image: Digest,
    pub(super) caption: Option<Digest>,
    pub(super) mask: Option<Digest>,
}

/// The remembered digests of the data's folders, each with its folder; of none without a store.
fn load_digests<'s>(
    stage: &Captions,
    resolved: &Resolved,
    store: Option<&'s Store>,
) -> Result<Vec<(PathBuf, FileDigests<'s>)>, PlanError> {
    let Some(store) = store else { return Ok(Vec::new()) };
    let folders = stage.data.iter().flat_map(|dataset| match &dataset.masks {
        Some(Masks::Folder(masks)) => vec![&dataset.path, masks],
        _ => vec![&dataset.path],
    });
    let roots: BTreeSet<PathBuf> = folders.map(|folder| resolved.folder.join(folder)).collect();
    // One below another belongs to that: each drops what is not asked of it.
    let is_outer = |root: &&PathBuf| !roots.iter().any(|other| other != *root && root.starts_with(other));
    roots.iter().filter(is_outer).map(|root| Ok((root.clone(), store.digests("bytes", root)?))).collect()
}

/// How a file is read whose digest is not remembered.
type Reading = fn(&mut Memo, &File) -> std::io::Result<Digest>;

/// The digests of every item's files. Files that are not remembered are read, and what else is to be known of them goes to `read`; or else,
/// unless there is that, there is no answer.
fn digests_of(
    scan: &Scan,
    remembered: &mut [(PathBuf, FileDigests<'_>)],
    mut read: Option<&mut Memo>,
) -> Result<Option<Vec<Digests>>, PlanError> {
    let mut digest = |path: &Path, state: &Seen, reading: Reading| -> Result<Option<Digest>, PlanError> {
        let state = match state {
            Seen::Here(state) => state,
            Seen::Listed(file) => {
                let fault = |error| PlanError::File { path: path.to_owned(), source: std::io::Error::other(error) };
                return file.digest.parse().map(Some).map_err(fault);
            }
        };
        let cache = match &mut *remembered {
            [(_, only)] => Some(only),
            several => several.iter_mut().find(|(root, _)| path.starts_with(root)).map(|(_, cache)| cache),
        };
        let known = cache.as_ref().and_then(|cache| cache.known(path, state));
        let Some(memo) = read.as_deref_mut().filter(|_| known.is_none()) else { return Ok(known) };
        let digest = match cache {
            Some(cache) => cache.digest_by(path, |file| reading(memo, file)),
            None => File::open(path).and_then(|file| reading(memo, &file)),
        };
        digest.map(Some).map_err(|source| PlanError::File { path: path.to_owned(), source })
    };
    let mut all = Vec::with_capacity(scan.found.len());
    for found in &scan.found {
        let mut optional = |file: Option<(&Path, &Seen)>, reading: Reading| match file {
            Some((path, state)) => Ok(digest(path, state, reading)?.map(Some)),
            None => Ok::<_, PlanError>(Some(None)),
        };
        let caption = optional(found.caption.as_deref().zip(found.caption_state.as_ref()), Memo::read_caption)?;
        let mask = optional(found.mask.as_deref().map(|(path, state)| (path.as_path(), state)), Memo::read_image)?;
        let image = digest(&found.image, &found.image_state, Memo::read_image)?;
        let (Some(image), Some(caption), Some(mask)) = (image, caption, mask) else { return Ok(None) };
        all.push(Digests { image, caption, mask });
    }
    Ok(Some(all))
}

/// Makes the items. What is read again must have the digest that the key was taken of.
fn make(stage: &Captions, scan: &Scan, digests: &[Digests], mut memo: Memo) -> Result<(Made, Memo), PlanError> {
    let changed = || std::io::Error::other(CHANGED);
    let image = |item: usize, path: &Path| {
        let is_mask = scan.found[item].mask.as_deref().is_some_and(|(mask, _)| mask == path);
        let digest = if is_mask { digests[item].mask.ok_or_else(changed)? } else { digests[item].image };
        let (width, height) = match memo.sizes.get(&digest) {
            Some(known) => *known.get(),
            None => {
                let size = decode::probe(&read_as(path, &digest, decode::MOST_BYTES)?)?;
                memo.sizes.insert(digest, Known::used(size));
                size
            }
        };
        Ok(ImageFacts { digest: digest.to_string(), width, height })
    };
    let caption = |item: usize, path: &Path| {
        let digest = digests[item].caption.ok_or_else(changed)?;
        if let Some(known) = memo.captions.get(&digest) {
            return Ok(known.get().as_bytes().to_vec());
        }
        let bytes = read_as(path, &digest, caption::LONGEST as u64)?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            memo.captions.insert(digest, Known::used(text.into()));
        }
        Ok(bytes)
    };
    let made = items::make(scan, stage, image, caption)?;
    memo.keep_used();
    Ok((made, memo))
}

/// Items by their ids.
pub fn by_id(items: &Items) -> BTreeMap<&str, &sd3pipe_stages::captions::Item> {
    items.as_slice().iter().map(|item| (item.id.as_str(), item)).collect()
}
