//! Whatever is damaged in a store is found and named; a repair drops what promises it, and no more.

mod common;

use std::fs;
use std::path::Path;

use common::{content, key, known, objects, path_of, run, stage, stages_of};
use sd3pipe_cache::{Fault, Store, Verified};

fn verify(root: &Path) -> Verified {
    Store::open_read_only(root).unwrap().unwrap().verify(&stages_of, &|_, _| {}).unwrap()
}

fn repair(root: &Path) {
    let found = verify(root);
    let store = Store::open(root).unwrap();
    store.repair(&found).unwrap();
    // Of an index that was lost, the rest is looked at now.
    store.repair(&store.verify(&stages_of, &|_, _| {}).unwrap()).unwrap();
    drop(store);
    assert_eq!(verify(root).faults, []);
}

fn filled(root: &Path) -> Store {
    let store = Store::open(root).unwrap();
    run(&store, "one", &["a", "b"]);
    run(&store, "one", &["b", "c"]);
    store
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sound_store_has_no_faults_and_is_all_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let read = std::sync::Mutex::new((0, 0));
    let found = store.verify(&stages_of, &|done, total| *read.lock().unwrap() = (done, total)).unwrap();
    assert_eq!((found.faults.as_slice(), found.objects, found.records), ([].as_slice(), 8, 5));
    assert_eq!(*read.lock().unwrap(), (found.bytes, found.bytes));
}

#[test]
fn every_object_that_is_damaged_cut_short_or_gone_is_found_and_just_that_made_again() {
    type Damage = fn(&Path, &[u8]);
    let damages: [Damage; 4] = [
        |path, bytes| {
            let mut bytes = bytes.to_vec();
            bytes[0] ^= 1;
            overwrite(path, &bytes);
        },
        |path, bytes| overwrite(path, &bytes[..bytes.len() - 1]),
        |path, _| overwrite(path, b""),
        |path, _| fs::remove_file(path).unwrap(),
    ];
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()));
    let everything = objects(folder.path());
    for path in &everything {
        let bytes = fs::read(path).unwrap();
        for damage in damages {
            damage(path, &bytes);
            let found = verify(folder.path());
            assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
            assert!(found.again.len() <= 1, "{:?}", found.again);
            repair(folder.path());
            let store = Store::open(folder.path()).unwrap();
            let missing =
                ["a", "b", "c"].iter().filter(|action| store.outputs(&key(action)).unwrap().is_none()).count();
            assert_eq!(missing, found.again.len());
            stage(&store, &["a", "b"]);
            stage(&store, &["b", "c"]);
            assert_eq!(known(&store, &["a", "b", "c"]), ["a", "b", "c"]);
            drop(store);
            assert_eq!(fs::read(path).unwrap(), bytes);
        }
    }
    assert_eq!(objects(folder.path()), everything);
}

#[test]
fn a_fault_names_what_it_is_of_and_what_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()));
    overwrite(&path_of(folder.path(), &content("b").0), b"other bytes");
    let found = verify(folder.path());
    let line = found.faults[0].to_string();
    assert!(line.contains("(latents of b) is damaged: to quarantine, and made again"), "{line}");
    assert_eq!(found.again, [("b".to_owned(), 2.0)]);
}

#[test]
fn rows_that_were_changed_are_found_and_mended() {
    let statements = [
        ("UPDATE records SET outputs = zeroblob(40) WHERE label = 'b'", "the record of `b`"),
        ("UPDATE records SET preimage = replace(preimage, '\"b\"', '\"x\"') WHERE label = 'b'", "the record of `b`"),
        ("DELETE FROM named WHERE record = 1", "2 names of objects"),
        ("INSERT INTO named VALUES (zeroblob(32), 1)", "1 names of objects"),
        ("UPDATE runs SET document = '{' WHERE id = 1", "1 runs in the journal"),
        ("UPDATE files SET entry = zeroblob(120)", "1 remembered digests"),
    ];
    for (statement, said) in statements {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path());
        let mut digests = store.digests("bytes", folder.path()).unwrap();
        digests.digest(&folder.path().join("FORMAT")).unwrap();
        digests.save().unwrap();
        drop(store);
        let index = rusqlite::Connection::open(folder.path().join("index.sqlite")).unwrap();
        assert!(index.execute(statement, []).unwrap() > 0);
        drop(index);
        let found = verify(folder.path());
        assert!(
            found.faults.len() == 1 && found.faults[0].to_string().contains(said),
            "{statement}: {:?}",
            found.faults
        );
        repair(folder.path());
        let store = Store::open(folder.path()).unwrap();
        stage(&store, &["a", "b"]);
        assert_eq!(known(&store, &["a", "b", "c"]), ["a", "b", "c"], "{statement}");
    }
}

#[test]
fn strays_broken_pins_and_a_broken_index_are_found_and_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()));
    fs::write(folder.path().join("objects/note.txt"), "mine").unwrap();
    fs::write(folder.path().join("pins/1-1.json"), "{").unwrap();
    let kinds = |found: Verified| found.faults.iter().map(std::mem::discriminant).collect::<Vec<_>>();
    let path = std::path::PathBuf::new;
    let expected = [Fault::Pin { path: path() }, Fault::Stray { path: path() }];
    assert_eq!(kinds(verify(folder.path())), expected.map(|fault| std::mem::discriminant(&fault)));
    repair(folder.path());
    fs::write(folder.path().join("index.sqlite"), "garbage".repeat(1000)).unwrap();
    assert!(matches!(verify(folder.path()).faults[..], [Fault::Index { .. }]));
    repair(folder.path());
    // A page in the middle, which opening does not look at.
    drop(filled(folder.path()));
    let index = folder.path().join("index.sqlite");
    let mut bytes = fs::read(&index).unwrap();
    let length = bytes.len();
    bytes[length - 4096..].fill(0xa5);
    fs::write(&index, bytes).unwrap();
    assert!(matches!(verify(folder.path()).faults[..], [Fault::Index { .. }]));
    repair(folder.path());
    drop(filled(folder.path()));
    assert_eq!(verify(folder.path()).faults, []);
}
