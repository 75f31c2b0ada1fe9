//! What the store's folder holds: who writes into it when, and what is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sd3pipe_cache::{Output, Preimage, Record, Store, StoreError};

/// Every file below a folder, with its bytes and the time that it was written; folders with theirs.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (Option<Vec<u8>>, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        found.insert(folder.clone(), (None, fs::metadata(&folder).unwrap().modified().unwrap()));
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let modified = fs::metadata(&path).unwrap().modified().unwrap();
                    found.insert(path.clone(), (Some(fs::read(&path).unwrap()), modified));
                }
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

fn record(store: &Store, text: &str) -> Record {
    let object = store.put(text.as_bytes()).unwrap();
    let mut preimage = Preimage::new("folder", 1);
    preimage.read("text", &text).unwrap();
    let output = Output {
        role: "text".to_owned(),
        item: String::new(),
        digest: object.digest,
        length: object.length,
        content: None,
    };
    Record { preimage, label: text.to_owned(), outputs: vec![output], seconds: 0.0 }
}

/// Reads all there is to read, tries all there is to write, and sees the folder unchanged.
fn read_only(root: &Path, found: bool) -> Vec<String> {
    let before = snapshot(root);
    let store = Store::open_read_only(root).unwrap().unwrap();
    let key = {
        let mut preimage = Preimage::new("folder", 1);
        preimage.read("text", &"a lighthouse").unwrap();
        preimage.key()
    };
    assert_eq!(store.outputs(&key).unwrap().is_some(), found);
    assert_eq!(store.outputs_of(&[key]).unwrap()[0].is_some(), found);
    assert_eq!(store.record(&key).unwrap().is_some(), found);
    if let Some(outputs) = store.outputs(&key).unwrap() {
        assert_eq!(store.read(&outputs[0].digest).unwrap(), b"a lighthouse");
        assert!(store.file(&outputs[0].digest).unwrap().is_file());
        assert!(matches!(store.forget(&outputs[0].digest), Err(StoreError::ReadOnly { .. })));
    }
    store.runs(5).unwrap();
    let mut files = store.digests("bytes", root).unwrap();
    files.digest(&root.join("FORMAT")).unwrap();
    files.save().unwrap();
    assert!(matches!(store.put(b"x"), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.writer().map(drop), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.adopt(&store.temporary_path()), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.publish(&[]), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.forget_key(&key), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.making([key]), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.work_dir(&key), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.remove_work_dir(&key), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.begin_run("x", &serde_json::json!(null)), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(store.update_run(1, "x", &serde_json::json!(null)), Err(StoreError::ReadOnly { .. })));
    assert_eq!(snapshot(root), before, "while open");
    let notices = store.notices();
    drop(store);
    assert_eq!(snapshot(root), before, "when closed");
    notices
}

#[test]
fn reading_leaves_the_folder_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a store, 100% odd?#");
    let store = Store::open(&root).unwrap();
    store.publish(&[record(&store, "a lighthouse")]).unwrap();
    store.begin_run("lighthouses", &serde_json::json!(null)).unwrap();
    // As a kill leaves it: the journal with its index beside the file, and all rows still in the journal.
    let killed = folder.path().join("killed");
    copy(&root, &killed);
    assert!(killed.join("index.sqlite-wal").metadata().unwrap().len() > 0);
    drop(store);
    assert!(!root.join("index.sqlite-wal").exists());
    assert_eq!(read_only(&root, true), [""; 0]);
    assert_eq!(read_only(&killed, true), [""; 0]);

    fs::remove_file(killed.join("index.sqlite-shm")).unwrap();
    read_only(&killed, false);
    fs::write(root.join("index.sqlite"), "garbage".repeat(1000)).unwrap();
    assert!(read_only(&root, false)[0].contains("the index is damaged"));
    fs::remove_file(root.join("index.sqlite")).unwrap();
    assert_eq!(read_only(&root, false), [""; 0]);
    fs::remove_dir_all(root.join("locks")).unwrap();
    assert_eq!(read_only(&root, false), [""; 0]);
}

#[test]
fn a_reader_of_a_damaged_object_says_so_and_leaves_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let object = store.put(b"a lighthouse").unwrap();
    let path = store.file(&object.digest).unwrap();
    drop(store);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "A LIGHTHOUSE").unwrap();
    let before = snapshot(folder.path());
    let store = Store::open_read_only(folder.path()).unwrap().unwrap();
    assert!(matches!(store.read(&object.digest), Err(StoreError::Damaged { .. })));
    assert!(store.notices()[0].contains("is damaged"));
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn reading_where_there_is_no_store_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Store::open_read_only(folder.path()).unwrap().is_none());
    assert!(Store::open_read_only(&folder.path().join("none")).unwrap().is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_newer_format_is_refused_and_a_torn_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    drop(Store::open(&root).unwrap());
    assert_eq!(fs::read_to_string(root.join("FORMAT")).unwrap(), "sd3pipe-store 1\n");
    fs::write(root.join("FORMAT"), "sd3pipe-store 2\n").unwrap();
    let before = snapshot(&root);
    let error = Store::open(&root).map(drop).unwrap_err();
    assert!(error.to_string().contains("has format 2, which a newer sd3pipe made: update sd3pipe"), "{error}");
    assert!(matches!(Store::open_read_only(&root).map(drop), Err(StoreError::Newer { found: 2, .. })));
    assert_eq!(snapshot(&root), before);
    for torn in ["", "sd3pipe-st", "\0\0\0\0\0\0\0\0"] {
        fs::write(root.join("FORMAT"), torn).unwrap();
        drop(Store::open(&root).unwrap());
        assert_eq!(fs::read_to_string(root.join("FORMAT")).unwrap(), "sd3pipe-store 1\n");
    }
}

#[test]
fn a_folder_of_photos_does_not_become_a_store() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("0042.png"), "pixels").unwrap();
    let before = snapshot(folder.path());
    let error = Store::open(folder.path()).map(drop).unwrap_err();
    assert!(error.to_string().contains("with other files in it (0042.png)"), "{error}");
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn a_root_that_cannot_be_made_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Store::open(&folder.path().join("file/store")).map(drop).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("cannot write ") && message.contains("file/store"), "{message}");
    assert!(message.ends_with("choose another store with --store or SD3PIPE_STORE"), "{message}");
}

#[test]
fn half_written_files_are_swept_by_who_comes_first_and_old_ones_by_anyone() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("tmp");
    let names = || fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    drop(Store::open(folder.path()).unwrap());
    let leave = |name: &str, age: u64| {
        let file = fs::File::create(temporary.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age * 3600)).unwrap();
    };
    leave("4711-0", 0);
    fs::create_dir(temporary.join("4711-1")).unwrap();
    fs::write(temporary.join("4711-1/part"), "x").unwrap();
    let first = Store::open(folder.path()).unwrap();
    assert!(names().is_empty());

    // Another process may be writing the young one.
    leave("4711-2", 1);
    leave("4711-3", 48);
    drop(Store::open(folder.path()).unwrap());
    assert_eq!(names(), ["4711-2"]);
    drop(first);
}

#[test]
fn a_writer_makes_what_put_makes_and_leaves_nothing_if_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = store.writer().unwrap();
    bytes.chunks(77_777).for_each(|chunk| writer.write_all(chunk).unwrap());
    assert!(writer.path().starts_with(folder.path().join("tmp")));
    let object = writer.finish().unwrap();
    assert_eq!(store.put(&bytes).unwrap(), object);
    assert_eq!(store.read(&object.digest).unwrap(), bytes);

    let path = store.temporary_path();
    fs::write(&path, &bytes).unwrap();
    assert_eq!(store.adopt(&path).unwrap(), object);
    fs::write(&path, b"another").unwrap();
    let adopted = store.adopt(&path).unwrap();
    assert_eq!(store.read(&adopted.digest).unwrap(), b"another");
    assert!(fs::metadata(store.file(&adopted.digest).unwrap()).unwrap().permissions().readonly());

    store.writer().unwrap().write_all(b"half").unwrap();
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "x").unwrap();
    assert!(matches!(store.adopt(&elsewhere), Err(StoreError::Foreign { .. })));
    assert!(elsewhere.exists());
}

#[test]
fn a_work_folder_stays_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let key = Preimage::new("train", 1).key();
    let store = Store::open(folder.path()).unwrap();
    let path = store.work_dir(&key).unwrap();
    assert_eq!(path, store.root().join("work").join(key.to_string()));
    fs::write(path.join("step-100"), "state").unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(fs::read(store.work_dir(&key).unwrap().join("step-100")).unwrap(), b"state");
    store.remove_work_dir(&key).unwrap();
    store.remove_work_dir(&key).unwrap();
    assert!(!path.exists());
}

/// A store may come with somebody's project, and its links may lead to anything of yours.
#[test]
fn nothing_behind_a_link_in_a_store_is_swept_out_or_written_over() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let (root, photos) = (folder.path().join("store"), folder.path().join("photos"));
    let key = Preimage::new("folder", 1).key();
    drop(Store::open(&root).unwrap());
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("a.png"), "a photo").unwrap();
    for name in ["tmp", "work", "objects", "locks", "quarantine"] {
        let (inside, aside) = (root.join(name), root.join("aside"));
        fs::rename(&inside, &aside).unwrap();
        symlink(&photos, &inside).unwrap();
        let message = Store::open(&root).unwrap_err().to_string();
        assert!(message.contains(&format!("{name}, which is a link")) && message.contains("--store"), "{message}");
        fs::remove_file(&inside).unwrap();
        fs::rename(&aside, &inside).unwrap();
    }
    symlink(photos.join("a.png"), root.join("locks").join("making-1")).unwrap();
    symlink(photos.join("a.png"), root.join("locks").join("gate")).unwrap();
    symlink(&photos, root.join("work").join(key.to_string())).unwrap();
    let store = Store::open(&root).unwrap();
    let making = store.making([key]).unwrap();
    fs::write(store.work_dir(&key).unwrap().join("a.png"), "a state").unwrap();
    drop(making);
    assert_eq!(fs::read_to_string(photos.join("a.png")).unwrap(), "a photo");
    assert_eq!(fs::read_dir(&photos).unwrap().count(), 1);
    // The store as a whole may lie elsewhere.
    symlink(&root, folder.path().join("link")).unwrap();
    Store::open(&folder.path().join("link")).unwrap();
}

#[test]
fn the_locks_of_killed_runs_are_swept_by_who_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("locks/run-4711");
    let store = Store::open(folder.path()).unwrap();
    let run = store.begin_run("one", &serde_json::Value::Null).unwrap();
    let own = folder.path().join(format!("locks/run-{run}"));
    fs::write(&left, "").unwrap();
    drop(Store::open(folder.path()).unwrap());
    assert!(left.exists() && own.exists(), "another has the store open");
    // Without an end, as if it were killed.
    drop(store);
    drop(Store::open_read_only(folder.path()).unwrap());
    assert!(left.exists() && own.exists(), "a reader writes nothing");
    drop(Store::open(folder.path()).unwrap());
    assert!(!left.exists() && !own.exists());
}
