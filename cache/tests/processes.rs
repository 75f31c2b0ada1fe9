//! Several processes on one store, and processes that are killed.
//!
//! The children are this test program itself, told by a variable what to do.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use sd3pipe_cache::{Output, Preimage, Record, Store};

fn preimage(number: u32) -> Preimage {
    let mut preimage = Preimage::new("processes", 1);
    preimage.read("number", &number).unwrap();
    preimage
}

fn content(number: u32) -> Vec<u8> {
    format!("result {number} ").repeat(1 + number as usize % 500).into_bytes()
}

fn make(store: &Store, number: u32) {
    let object = store.put(&content(number)).unwrap();
    let output = Output {
        role: "text".to_owned(),
        item: number.to_string(),
        digest: object.digest,
        length: object.length,
        content: None,
    };
    let record = Record { preimage: preimage(number), label: number.to_string(), outputs: vec![output], seconds: 0.0 };
    store.publish(&[record]).unwrap();
}

fn spawn(task: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("SD3PIPE_CACHE_TEST", task)
        .env("SD3PIPE_CACHE_TEST_ROOT", root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "only a child of the other tests does this"]
fn a_child() {
    let (Ok(task), Some(root)) = (std::env::var("SD3PIPE_CACHE_TEST"), std::env::var_os("SD3PIPE_CACHE_TEST_ROOT"))
    else {
        return;
    };
    let root = PathBuf::from(root);
    match task.as_str() {
        "make" => {
            let store = Store::open(&root).unwrap();
            (0..2000).for_each(|number| make(&store, number));
        }
        "make some" => {
            let store = Store::open(&root).unwrap();
            (0..60).for_each(|number| make(&store, number));
            assert_eq!(store.notices(), [""; 0]);
        }
        "read" => {
            let store = Store::open_read_only(&root).unwrap().unwrap();
            let outputs = store.outputs(&preimage(1).key()).unwrap().unwrap();
            assert_eq!(store.read(&outputs[0].digest).unwrap(), content(1));
            assert_eq!(store.notices(), [""; 0]);
        }
        other => panic!("{other}"),
    }
}

/// As on a file system that several machines use.
#[test]
fn processes_share_an_index_with_a_rollback_journal() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).unwrap());
    let index = rusqlite::Connection::open(folder.path().join("index.sqlite")).unwrap();
    index.pragma_update(None, "journal_mode", "delete").unwrap();
    drop(index);
    let mut writers: Vec<Child> = (0..4).map(|_| spawn("make some", folder.path())).collect();
    while !writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_some()) {
        let store = Store::open_read_only(folder.path()).unwrap().unwrap();
        (0..60).for_each(|number| drop(store.outputs(&preimage(number).key()).unwrap()));
        assert_eq!(store.notices(), [""; 0]);
    }
    writers.iter_mut().for_each(|writer| assert!(writer.wait().unwrap().success()));
    assert_eq!(whole(folder.path()), 60);
    assert!(spawn("read", folder.path()).wait().unwrap().success());
    let index = rusqlite::Connection::open(folder.path().join("index.sqlite")).unwrap();
    let mode: String = index.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
}

/// Every record that there is names objects that are there and right.
fn whole(root: &Path) -> usize {
    let store = Store::open(root).unwrap();
    assert_eq!(store.notices(), [""; 0]);
    let mut count = 0;
    for number in 0..2000 {
        if let Some(record) = store.record(&preimage(number).key()).unwrap() {
            assert_eq!(store.read(&record.outputs[0].digest).unwrap(), content(number));
            count += 1;
        }
    }
    count
}

#[test]
fn a_killed_process_leaves_whole_records_and_the_next_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..8 {
        let mut child = spawn("make", folder.path());
        sleep(Duration::from_millis(60 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = whole(folder.path());
        assert!(after >= before, "what was published stays");
        before = after;
    }
    assert!(before > 0, "the children came to something");
}

#[test]
fn processes_that_begin_together_on_a_new_store_are_all_right() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let children: Vec<Child> = (0..4).map(|_| spawn("make some", &root)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(whole(&root), 60);
}

#[test]
fn a_reader_beside_a_writer_sees_what_was_published() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    make(&store, 1);
    let shared_memory = || std::fs::read(folder.path().join("index.sqlite-shm")).unwrap();
    let before = shared_memory();
    assert!(spawn("read", folder.path()).wait().unwrap().success());
    assert_eq!(shared_memory(), before, "not even there does it leave a mark");
    make(&store, 2);
}

#[test]
fn two_stores_and_many_threads_publish_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap()];
    std::thread::scope(|scope| {
        for worker in 0..6_u32 {
            let store = &stores[worker as usize % 2];
            // Each number by two threads, so that equal objects and keys meet.
            scope.spawn(move || (0..20).for_each(|number| make(store, worker / 2 * 20 + number)));
        }
    });
    for store in &stores {
        assert_eq!(store.notices(), [""; 0]);
        for number in 0..60 {
            assert!(store.outputs(&preimage(number).key()).unwrap().is_some());
        }
    }
    drop(stores);
    assert_eq!(whole(folder.path()), 60);
}
