//! A machine without the pictures that trains from what another has packed.

use super::{Options, Space, lines};
use crate::{
    bundle::{self, BundleError},
    pipeline,
    plan::Planner,
};
use sd3pipe_stages::{captions::listing::LISTING, work::Silent};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn pack(space: &Space, stages: &[&str]) -> Result<Vec<u8>, BundleError> {
    let (resolved, store) = (space.resolve(&[]), space.store());
    let stages: BTreeSet<usize> = stages.iter().map(|name| resolved.index(name).unwrap()).collect();
    let mut planner = Planner::new(&resolved, Some(&store), BTreeSet::new(), BTreeMap::new());
    let wanted = planner.needed::<()>(&stages, &BTreeMap::new());
    let examined = planner.survey(wanted, &mut vec![None; resolved.stages.len()]).unwrap();
    let path = space.path("packed");
    bundle::pack(&path, &stages, &mut planner, &examined, &store, &Silent)?;
    Ok(fs::read(path).unwrap())
}

/// As `sd3pipe unpack` does it.
fn unpack(space: &Space, bytes: &[u8]) -> Result<(), BundleError> {
    let path = space.path("brought");
    fs::write(&path, bytes).unwrap();
    let (manifest, store) = (bundle::manifest(&path)?, space.store());
    let resolved = pipeline::load_anywhere(&space.path("p.ron"), &[]).unwrap();
    let journal = serde_json::to_value(manifest.journal(&resolved)).unwrap();
    let id = store.begin_run("keys", &journal).unwrap();
    let unpacked = bundle::unpack(&path, &manifest, &store, &Silent);
    store.update_run(id, "unpacked", &journal).unwrap();
    unpacked?;
    for (folder, listing) in manifest.places(&resolved)? {
        bundle::stand_in(&folder, listing)?;
    }
    Ok(())
}

/// The same pipeline, and no picture.
fn without_pictures() -> Space {
    let space = Space::new();
    fs::remove_dir_all(space.path("photos")).unwrap();
    space
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
    files.map(|path| (path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_machine_without_the_pictures_trains_from_what_another_has_packed() {
    let (one, other) = (Space::new(), without_pictures());
    one.executed(&[]);
    unpack(&other, &pack(&one, &["latents", "text"]).unwrap()).unwrap();
    let executed = other.executed(&[]);
    assert_eq!(executed[..2], ["train: epoch 1", "train: epoch 2"]);
    assert!(executed.iter().all(|line| !line.starts_with("text") && !line.starts_with("latents")), "{executed:?}");
    assert_eq!(files(&one.path("out")), files(&other.path("out")));
    assert_eq!(other.executed(&[]), [""; 0]);
    assert_eq!(files(&other.path("photos")).len(), 1, "a listing, and no picture");

    // Captions can still be put otherwise, since their texts came along.
    let executed = other.executed(&["captions.prefix=\"x\""]);
    assert!(
        executed[0].starts_with("text") && executed.iter().all(|line| !line.starts_with("latents")),
        "{executed:?}"
    );
    // Pictures can't.
    let (journal, result) = other.run(&["latents.resolution=128"], Options::default());
    let message = result.unwrap_err().to_string();
    assert!(
        lines(&journal).is_empty() && message.contains("not on this machine") && message.contains(LISTING),
        "{message}"
    );

    // With the pictures back all of it is the same data.
    let pictures = Space::new();
    fs::remove_file(other.path("photos").join(LISTING)).unwrap();
    for (path, bytes) in files(&pictures.path("photos")) {
        fs::write(other.path("photos").join(path), bytes).unwrap();
    }
    assert_eq!(other.executed(&[]), [""; 0]);
}

#[test]
fn what_is_packed_has_no_picture_and_the_same_bytes_each_time() {
    let one = Space::new();
    assert!(matches!(pack(&one, &["latents"]), Err(BundleError::NotDone { .. })));
    one.executed(&[]);
    let packed = pack(&one, &["latents", "text"]).unwrap();
    assert_eq!(packed, pack(&one, &["latents", "text"]).unwrap());
    let picture = fs::read(one.path("photos/a.png")).unwrap();
    assert!(!packed.windows(picture.len()).any(|bytes| bytes == picture));
    // Packed again where it was unpacked.
    let other = without_pictures();
    unpack(&other, &packed).unwrap();
    assert_eq!(pack(&other, &["latents", "text"]).unwrap(), packed);
}

#[test]
fn a_folder_with_files_is_left_alone() {
    let (one, other) = (Space::new(), Space::new());
    one.executed(&[]);
    let before = files(&other.path("photos"));
    unpack(&other, &pack(&one, &["latents", "text"]).unwrap()).unwrap();
    assert_eq!(files(&other.path("photos")), before);
    assert_eq!(other.executed(&[])[0], "train: epoch 1");
}

#[test]
fn a_bundle_that_is_damaged_anywhere_gives_what_was_packed_or_nothing() {
    let one = Space::new();
    one.executed(&[]);
    let packed = pack(&one, &["latents", "text"]).unwrap();
    let other = without_pictures();
    for place in (0..packed.len()).step_by(packed.len() / 60) {
        let mut bad = packed.clone();
        bad[place] ^= 16;
        let (flipped, cut) = (unpack(&other, &bad), unpack(&other, &packed[..place]));
        let store = other.store();
        let verified = store.verify(&crate::run::stages_of, &|_, _| ()).unwrap();
        assert!(verified.faults.is_empty(), "{place}: {:?}", verified.faults);
        // Nothing is read of the padding between parts and at the end.
        assert!((flipped.is_err() && cut.is_err()) || verified.records > 0, "{place}");
        drop(store);
        fs::remove_dir_all(other.path("store")).unwrap();
        let _ = fs::remove_dir_all(other.path("photos"));
    }
    assert!(matches!(unpack(&other, b"something else"), Err(BundleError::NotABundle { .. })));
}
