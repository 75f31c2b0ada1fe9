//! Walks the folders of the data: which images there are, and which caption file belongs to each.

use super::error::{CaptionsError, ScanFault};
use super::listing::{LISTING, Listing, Seen};
use super::parameters::{Captions, Dataset, Masks};
use sd3pipe_cache::Fingerprint;
use std::collections::{BTreeMap, HashMap, HashSet, btree_map::Entry};
use std::io;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// The endings of images, in lower case; files have them in any case.
pub const IMAGE_EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// A folder's number above this is a year or an index, not repeats.
const MOST_FOLDER_REPEATS: u32 = 1000;

/// Files and folders below a dataset's folder at most: two million images with captions. Links make more of few: two in each of twenty
/// folders lead to a million.
const MOST_ENTRIES: usize = if cfg!(test) { 10_000 } else { 5_000_000 };

/// One image file and its caption file as found on disk, before any is read.
#[derive(Clone, Debug)]
pub struct Found {
    /// The path relative to the dataset's folder, with `/` between folders and the dataset's name in front if it has one.
    pub id: String,
    /// The image file.
    pub image: PathBuf,
    /// The caption file, if there is one.
    pub caption: Option<PathBuf>,
    /// Times that the image is seen in an epoch.
    pub repeats: u32,
    /// The class of its folder; may be empty.
    pub class: String,
    /// Of the image file, taken during the walk.
    pub image_state: Seen,
    /// Of the caption file, taken during the walk.
    pub caption_state: Option<Seen>,
    /// The file with its mask, if there is one, and what the walk found out about it.
    pub mask: Option<Box<(PathBuf, Seen)>>,
    /// The dataset that it is of, by its place in `data`.
    pub dataset: usize,
}

/// What lies in the folders of the data.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The images, sorted by their ids, which are all different.
    pub found: Vec<Found>,
    /// Files that nothing is made of, named like items and sorted: of unknown kinds, captions without an image, and
    /// captions beside a caption of the same image that comes first.
    pub unused: Vec<String>,
    /// Listings that stand for files which are elsewhere, as they were before they were read.
    pub listings: Vec<(PathBuf, Fingerprint)>,
}

struct File {
    /// Path below the dataset's folder, `/` between folders.
    relative: String,
    path: PathBuf,
    state: Seen,
}

/// Lists the images of all datasets with their caption files. `root` is the folder that relative paths start from.
///
/// Folders are walked to any depth, and links are followed. Files and folders whose names begin with a dot are passed over.
/// A caption belongs to the images of its own folder that are called like it but for the ending, which may be several.
/// So do masks, in a folder of masks, which may lie inside the dataset's: its images are none of the dataset.
/// A folder may have a [`Listing`] in the place of its files.
/// Every folder is listed once and every file's metadata read once; no other file is opened.
///
/// # Errors
/// [`CaptionsError::Scan`] with everything that is wrong in any of the folders, see [`ScanFault`].
pub fn walk(parameters: &Captions, root: &Path) -> Result<Scan, CaptionsError> {
    let mut scan = Scan::default();
    let mut faults = Vec::new();
    let mut owners: HashMap<String, usize> = HashMap::new();
    let mut shared: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for (index, dataset) in parameters.data.iter().enumerate() {
        for mut found in walk_dataset(parameters, dataset, root, &mut scan, &mut faults) {
            found.dataset = index;
            // The files of one folder have paths of their own.
            if parameters.data.len() > 1 {
                if let Some(owner) = owners.get(&found.id) {
                    shared.entry((*owner, index)).or_default().push(found.id);
                    continue;
                }
                owners.insert(found.id.clone(), index);
            }
            scan.found.push(found);
        }
    }
    let folder = |index: usize| parameters.data.get(index).map(|dataset| root.join(&dataset.path)).unwrap_or_default();
    for ((first, second), mut ids) in shared {
        ids.sort_unstable();
        faults.push(ScanFault::SameItems { first: folder(first), second: folder(second), ids });
    }
    if !faults.is_empty() {
        return Err(CaptionsError::Scan(faults));
    }
    scan.found.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    scan.unused.sort_unstable();
    Ok(scan)
}

fn walk_dataset(
    parameters: &Captions,
    dataset: &Dataset,
    root: &Path,
    scan: &mut Scan,
    faults: &mut Vec<ScanFault>,
) -> Vec<Found> {
    let folder = root.join(&dataset.path);
    let faults_before = faults.len();
    let name = |relative: &str| match dataset.name.as_str() {
        "" => relative.to_owned(),
        name => format!("{name}/{relative}"),
    };
    let mask_folder = match &dataset.masks {
        Some(Masks::Folder(path)) => Some(root.join(path)),
        _ => None,
    };
    let mut images = Vec::new();
    // The caption files with their places in `extensions`.
    let mut captions = Vec::new();
    for file in list(&folder, mask_folder.as_deref(), scan, &name, faults) {
        let (_, extension) = split_extension(&file.relative);
        if IMAGE_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)) {
            if file.relative.contains(char::is_control) {
                faults.push(ScanFault::ControlInName { path: file.path.clone() });
            }
            images.push(file);
        } else if let Some(place) = parameters.extensions.iter().position(|known| known.eq_ignore_ascii_case(extension))
        {
            captions.push((place, file));
        } else {
            scan.unused.push(name(&file.relative));
        }
    }
    // In order and not in a map, as they come nearly in order: that is sorted, searched and freed in no time.
    fn stem(file: &File) -> &str {
        split_extension(&file.relative).0
    }
    images.sort_by(|one, other| one.relative.cmp(&other.relative));
    captions.sort_by(|(place, one), (other_place, other)| {
        (stem(one), place, &one.relative).cmp(&(stem(other), other_place, &other.relative))
    });
    captions.dedup_by(|(_, file), (_, first)| {
        let same = stem(file) == stem(first);
        if same {
            scan.unused.push(name(&file.relative));
        }
        same
    });
    if images.is_empty() && faults.len() == faults_before {
        faults.push(ScanFault::NoImage { path: folder.clone() });
    }

    let masks = mask_folder.map(|folder| walk_masks(&folder, scan, faults)).unwrap_or_default();
    let (mut used, mut used_captions) = (HashSet::new(), vec![false; captions.len()]);
    let mut subfolders: HashMap<String, (u32, String)> = HashMap::new();
    let mut found = Vec::with_capacity(images.len());
    for image in images {
        let (repeats, class) = match image.relative.split_once('/') {
            None => (dataset.repeats, dataset.class.clone()),
            Some((subfolder, _)) => match subfolders.get(subfolder) {
                Some(known) => known.clone(),
                None => {
                    let meant = folder_meaning(dataset, &folder, subfolder, faults);
                    subfolders.insert(subfolder.to_owned(), meant.clone());
                    meant
                }
            },
        };
        let caption = captions.binary_search_by(|(_, file)| stem(file).cmp(stem(&image))).ok().map(|at| {
            used_captions[at] = true;
            &captions[at].1
        });
        let mask = masks.get(stem(&image)).map(|file| {
            used.insert(&file.path);
            Box::new((file.path.clone(), file.state.clone()))
        });
        found.push(Found {
            id: if dataset.name.is_empty() { image.relative } else { name(&image.relative) },
            mask,
            dataset: 0,
            caption: caption.map(|file| file.path.clone()),
            caption_state: caption.map(|file| file.state.clone()),
            image: image.path,
            image_state: image.state,
            repeats,
            class,
        });
    }
    let without_image = captions.iter().zip(&used_captions).filter(|(_, used)| !**used);
    scan.unused.extend(without_image.map(|((_, file), _)| name(&file.relative)));
    scan.unused.extend(masks.values().filter(|file| !used.contains(&file.path)).map(|file| mask_name(&file.relative)));
    found
}

/// What a file in a folder of masks is called where files without use are listed.
fn mask_name(relative: &str) -> String {
    format!("masks/{relative}")
}

/// The images in a folder of masks by their paths without the ending; of several with one path the first by its ending.
fn walk_masks(folder: &Path, scan: &mut Scan, faults: &mut Vec<ScanFault>) -> BTreeMap<String, File> {
    let mut files = list(folder, None, scan, &mask_name, faults);
    files.sort_unstable_by(|one, other| one.relative.cmp(&other.relative));
    let mut masks = BTreeMap::new();
    for file in files {
        let (stem, extension) = split_extension(&file.relative);
        let is_image = IMAGE_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension));
        match masks.entry(stem.to_owned()) {
            Entry::Vacant(place) if is_image => drop(place.insert(file)),
            _ => scan.unused.push(mask_name(&file.relative)),
        }
    }
    masks
}

/// The files below `folder` that are not hidden, folder by folder in the order of their names, but for those in the folder `without`.
fn list(
    folder: &Path,
    without: Option<&Path>,
    scan: &mut Scan,
    name: &impl Fn(&str) -> String,
    faults: &mut Vec<ScanFault>,
) -> Vec<File> {
    let mut files = Vec::new();
    let mut entries = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    let (mut count, faults_before) = (0, faults.len());
    while let Some(entry) = entries.next() {
        count += 1;
        if count > MOST_ENTRIES {
            // Whatever else there is to say would be said as often.
            faults.truncate(faults_before);
            faults.push(ScanFault::TooMany { path: folder.to_owned(), most: MOST_ENTRIES });
            break;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                faults.push(walk_fault(folder, error));
                continue;
            }
        };
        let is_folder = entry.file_type().is_dir();
        if entry.depth() == 0 {
            if !is_folder {
                faults.push(ScanFault::NotAFolder { path: folder.to_owned() });
            }
            continue;
        }
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || entry.file_name().to_str().is_none() {
            if !hidden {
                faults.push(ScanFault::NotUtf8Name { path: entry.path().to_owned() });
            }
            if is_folder {
                entries.skip_current_dir();
            }
            continue;
        }
        if is_folder {
            if without == Some(entry.path()) {
                entries.skip_current_dir();
            }
            continue;
        }
        let below = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let relative = below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
        if !entry.file_type().is_file() {
            scan.unused.push(name(&relative));
            continue;
        }
        match entry.metadata() {
            Ok(metadata) => {
                let state = Seen::Here(Fingerprint::of(&metadata));
                files.push(File { relative, path: entry.into_path(), state });
            }
            Err(error) => faults.push(walk_fault(folder, error)),
        }
    }
    if faults.len() == faults_before {
        match Listing::of(folder) {
            Ok(Some(_)) if !files.is_empty() => faults.push(ScanFault::ListedAndHere { path: folder.to_owned() }),
            Ok(Some((listing, path, state))) => {
                scan.listings.push((path, state));
                let elsewhere = listing.files.into_iter().map(|(relative, file)| {
                    let path = folder.join(&relative);
                    File { relative, path, state: Seen::Listed(Box::new(file)) }
                });
                files.extend(elsewhere.filter(|file| without.is_none_or(|without| !file.path.starts_with(without))));
            }
            Ok(None) => {}
            Err(source) => faults.push(ScanFault::Unreadable { path: folder.join(LISTING), source }),
        }
    }
    files
}

fn walk_fault(folder: &Path, error: walkdir::Error) -> ScanFault {
    let path = error.path().unwrap_or(folder).to_owned();
    let depth = error.depth();
    match error.into_io_error() {
        Some(source) if depth == 0 && source.kind() == io::ErrorKind::NotFound => ScanFault::MissingFolder { path },
        Some(source) => ScanFault::Unreadable { path, source },
        None => ScanFault::Unreadable { path, source: io::Error::other("is a link to a folder that it lies in") },
    }
}

/// The path without its ending, and the ending without its dot; a dot in front of a name begins no ending.
fn split_extension(relative: &str) -> (&str, &str) {
    let name_at = relative.rfind('/').map_or(0, |slash| slash + 1);
    match relative.rfind('.') {
        Some(dot) if dot > name_at => (&relative[..dot], &relative[dot + 1..]),
        _ => (relative, ""),
    }
}

/// Repeats and class of the images below `subfolder`, which lies right in the dataset's folder.
fn folder_meaning(dataset: &Dataset, folder: &Path, subfolder: &str, faults: &mut Vec<ScanFault>) -> (u32, String) {
    let plain = (dataset.repeats, dataset.class.clone());
    let Some((number, class)) = subfolder.split_once('_') else {
        return plain;
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return plain;
    }
    let repeats = number.parse::<u32>().ok().filter(|repeats| (1..=MOST_FOLDER_REPEATS).contains(repeats));
    match repeats.and_then(|repeats| repeats.checked_mul(dataset.repeats)) {
        Some(repeats) => (repeats, class.trim().to_owned()),
        None => {
            faults.push(ScanFault::FolderRepeats { path: folder.join(subfolder), most: MOST_FOLDER_REPEATS });
            plain
        }
    }
}

#[cfg(test)]
mod tests;
