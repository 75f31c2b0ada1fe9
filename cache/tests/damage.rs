//! Whatever is found in the store's folder costs time at most: never a refusal, never a wrong answer.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sd3pipe_cache::{Digest, Fingerprint, Object, Output, Preimage, Record, Store, StoreError};

fn preimage(number: u32) -> Preimage {
    let mut preimage = Preimage::new("damage", 1);
    preimage.read("number", &number).unwrap();
    preimage
}

fn record(number: u32, object: Object) -> Record {
    let output = Output {
        role: "text".to_owned(),
        item: format!("photos/{number:04}.png"),
        digest: object.digest,
        length: object.length,
        content: None,
    };
    Record { preimage: preimage(number), label: format!("number {number}"), outputs: vec![output], seconds: 1.5 }
}

fn expected(number: u32) -> Record {
    let bytes = format!("result {number}");
    record(number, Object { digest: Digest::of(bytes.as_bytes()), length: bytes.len() as u64 })
}

fn make(store: &Store, numbers: std::ops::Range<u32>) {
    let records: Vec<Record> =
        numbers.map(|number| record(number, store.put(format!("result {number}").as_bytes()).unwrap())).collect();
    store.publish(&records).unwrap();
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A closed store with records, known files and a run in it.
fn filled(root: &Path) {
    let store = Store::open(root).unwrap();
    make(&store, 0..60);
    let mut files = store.digests("bytes", root).unwrap();
    files.digest(&root.join("FORMAT")).unwrap();
    files.save().unwrap();
    store.begin_run("lighthouses", &serde_json::json!({"stages": 7})).unwrap();
}

/// Everything is right or absent, and the store can be written again.
fn check(root: &Path, what: &str) {
    let store = Store::open(root).unwrap_or_else(|error| panic!("{what}: {error}"));
    let fine = |result: Result<(), StoreError>| result.unwrap_or_else(|error| panic!("{what}: {error}"));
    let keys: Vec<_> = (0..60).map(|number| preimage(number).key()).collect();
    let together = store.outputs_of(&keys).unwrap_or_else(|error| panic!("{what}: {error}"));
    for (number, outputs) in (0..).zip(together) {
        assert!(outputs.is_none_or(|outputs| outputs == expected(number).outputs), "{what}, together");
    }
    for number in 0..60 {
        let key = preimage(number).key();
        let outputs = store.outputs(&key).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(outputs.is_none_or(|outputs| outputs == expected(number).outputs), "{what}");
        let found = store.record(&key).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(
            found.is_none_or(|found| found.preimage == preimage(number) && found.outputs == expected(number).outputs)
        );
    }
    let files = store.digests("bytes", root).unwrap();
    let format = root.join("FORMAT");
    let known = files.known(&format, &Fingerprint::of(&fs::metadata(&format).unwrap()));
    assert!(known.is_none_or(|known| known == Digest::of(b"sd3pipe-store 1\n")), "{what}");
    fine(files.save());
    store.runs(10).unwrap();
    store.forget(&expected(3).outputs[0].digest).unwrap();
    make(&store, 0..70);
    for number in 0..70 {
        assert_eq!(store.record(&preimage(number).key()).unwrap(), Some(expected(number)), "{what}");
    }
    assert_eq!(store.forget(&expected(65).outputs[0].digest).unwrap(), 1, "{what}");
    store.begin_run("lighthouses", &serde_json::json!(null)).unwrap();
}

/// Runs `check` on a store whose index was damaged in each of the given ways.
fn check_indexes(damages: impl Iterator<Item = (String, Vec<u8>)>) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    filled(&root);
    for (what, bytes) in damages {
        for path in list(&root).iter().filter(|path| path.to_string_lossy().contains("index.sqlite")) {
            fs::remove_file(path).unwrap();
        }
        fs::write(root.join("index.sqlite"), bytes).unwrap();
        check(&root, &what);
    }
}

fn index_bytes() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    fs::read(folder.path().join("index.sqlite")).unwrap()
}

#[test]
fn an_index_with_any_byte_of_its_header_changed_is_healed() {
    let sound = index_bytes();
    check_indexes((0..100).map(|place| {
        let mut bytes = sound.clone();
        bytes[place] ^= 0xff;
        (format!("header byte {place}"), bytes)
    }));
}

#[test]
fn an_index_with_bytes_changed_anywhere_gives_no_wrong_answer() {
    let sound = index_bytes();
    check_indexes((1_u64..60).map(|round| {
        let mut bytes = sound.clone();
        let random = Digest::of(&round.to_le_bytes());
        let place = u64::from_le_bytes(random.as_bytes()[..8].try_into().unwrap()) as usize % bytes.len();
        // A bit, a byte, or a sector's worth of zeros.
        match round % 3 {
            0 => bytes[place] ^= 1 << (round % 8),
            1 => bytes[place] ^= 0xff,
            _ => bytes.iter_mut().skip(place / 512 * 512).take(512).for_each(|byte| *byte = 0),
        }
        (format!("byte {place}, round {round}"), bytes)
    }));
}

#[test]
fn an_index_cut_short_or_of_garbage_is_healed() {
    let sound = index_bytes();
    let cuts = (0..24).map(|part| sound.len() * part / 24).chain([1, 16, 100, 512, sound.len() - 1]);
    let cut = cuts.map(|length| (format!("cut to {length}"), sound[..length].to_vec()));
    let garbage = [b"".to_vec(), b"not a database".repeat(700), vec![0; 16_384]];
    check_indexes(cut.chain(garbage.into_iter().map(|bytes| ("garbage".to_owned(), bytes))));
}

#[test]
fn a_torn_journal_of_a_killed_process_loses_its_end_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = Store::open(&root).unwrap();
    make(&store, 0..30);
    make(&store, 30..60);
    let (sound, journal) = ("index.sqlite", "index.sqlite-wal");
    let bytes = [sound, journal].map(|name| fs::read(root.join(name)).unwrap());
    drop(store);
    let length = bytes[1].len();
    assert!(length > 4096);
    for part in 0..24 {
        fs::write(root.join(sound), &bytes[0]).unwrap();
        fs::write(root.join(journal), &bytes[1][..length * part / 24 + part]).unwrap();
        fs::write(root.join("index.sqlite-shm"), vec![part as u8; 1000 * part]).unwrap();
        check(&root, &format!("journal cut at part {part}"));
    }
    fs::write(root.join(journal), "garbage".repeat(1000)).unwrap();
    check(&root, "a journal of garbage");
    fs::write(root.join(journal), &bytes[1]).unwrap();
    fs::remove_file(root.join(sound)).unwrap();
    check(&root, "a journal without its index");
}

#[test]
fn a_damaged_index_goes_to_quarantine_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    fs::write(folder.path().join("index.sqlite"), "garbage".repeat(1000)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let notices = store.notices();
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("the index was damaged: moved to quarantine"), "{notices:?}");
    assert!(store.notices().is_empty(), "told once");
    assert_eq!(store.outputs(&preimage(1).key()).unwrap(), None);
    let kept = list(&folder.path().join("quarantine"));
    assert_eq!(fs::read(&kept[0]).unwrap(), "garbage".repeat(1000).as_bytes());
}

#[test]
fn a_sound_index_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.notices(), [""; 0]);
    for number in 0..60 {
        assert_eq!(store.record(&preimage(number).key()).unwrap(), Some(expected(number)));
    }
    assert_eq!(store.runs(9).unwrap().len(), 1);
}

#[test]
fn an_index_that_is_damaged_while_two_use_it_stops_neither() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let (one, other) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
    make(&other, 100..101);
    let path = folder.path().join("index.sqlite");
    let length = fs::metadata(&path).unwrap().len();
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all(&vec![0xa5; length as usize]).unwrap();
    fs::write(folder.path().join("index.sqlite-wal"), "").unwrap();
    for number in 0..60 {
        let outputs = one.outputs(&preimage(number).key()).unwrap();
        assert!(outputs.is_none_or(|outputs| outputs == expected(number).outputs));
    }
    make(&one, 0..60);
    assert_eq!(one.record(&preimage(7).key()).unwrap(), Some(expected(7)));
    drop(other);
    make(&one, 0..60);
    drop(one);
    check(folder.path(), "afterwards");
}

#[test]
fn objects_that_are_damaged_cut_short_or_missing_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let put = |text: &str| {
        let object = store.put(text.as_bytes()).unwrap();
        (object, store.file(&object.digest).unwrap())
    };
    let (sound, _) = put("sound");
    let (damaged, damaged_path) = put("damaged");
    let (short, short_path) = put("cut short");
    let (missing, missing_path) = put("missing");
    drop(store);
    fs::remove_file(&damaged_path).unwrap();
    fs::write(&damaged_path, "DAMAGED").unwrap();
    fs::remove_file(&short_path).unwrap();
    fs::write(&short_path, "cut").unwrap();
    fs::remove_file(missing_path).unwrap();

    let store = Store::open(folder.path()).unwrap();
    assert!(store.has(&sound.digest, 5) && !store.has(&sound.digest, 6));
    assert!(store.has(&damaged.digest, 7), "a look does not read");
    assert!(!store.has(&short.digest, 9) && !store.has(&missing.digest, 7));
    assert_eq!(store.read(&sound.digest).unwrap(), b"sound");
    assert!(matches!(store.file(&damaged.digest), Err(StoreError::Damaged { digest }) if digest == damaged.digest));
    assert!(matches!(store.read(&short.digest), Err(StoreError::Damaged { digest }) if digest == short.digest));
    assert!(matches!(store.read(&missing.digest), Err(StoreError::Missing { digest }) if digest == missing.digest));
    assert!(matches!(store.read(&damaged.digest), Err(StoreError::Missing { .. })), "it is in quarantine now");
    let notice = format!("object {} was damaged: moved to quarantine, it will be made again", damaged.digest.short());
    assert_eq!(store.notices()[0], notice);
    assert_eq!(store.put(b"damaged").unwrap(), damaged);
    assert_eq!(store.read(&damaged.digest).unwrap(), b"damaged");
}

#[test]
fn storing_bytes_again_heals_their_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let object = store.put(b"lighthouse").unwrap();
    let path = store.file(&object.digest).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "LIGHTHOUSE").unwrap();
    store.put(b"lighthouse").unwrap();
    assert_eq!(store.read(&object.digest).unwrap(), b"lighthouse");
    assert_eq!(store.notices().len(), 1);
}

#[test]
fn an_object_changed_after_it_was_verified_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let object = store.put(b"lighthouse").unwrap();
    let path = store.file(&object.digest).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "LIGHTHOUSE").unwrap();
    assert!(matches!(store.file(&object.digest), Err(StoreError::Damaged { .. })));
}

#[test]
fn forgetting_an_object_drops_the_records_that_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    make(&store, 0..3);
    let shared = store.put(b"result 0").unwrap();
    store.publish(&[record(9, shared)]).unwrap();
    assert_eq!(store.forget(&shared.digest).unwrap(), 2);
    assert_eq!(store.forget(&shared.digest).unwrap(), 0);
    let known: Vec<u32> = (0..10).filter(|&number| store.outputs(&preimage(number).key()).unwrap().is_some()).collect();
    assert_eq!(known, [1, 2]);
    assert!(store.forget_key(&preimage(1).key()).unwrap());
    assert!(!store.forget_key(&preimage(1).key()).unwrap());
    // A record that took another's place is not found by what that one named.
    let other = store.put(b"other").unwrap();
    store.publish(&[record(2, other)]).unwrap();
    assert_eq!(store.forget(&expected(2).outputs[0].digest).unwrap(), 0);
    assert_eq!(store.outputs(&preimage(2).key()).unwrap().unwrap()[0].digest, other.digest);
}
