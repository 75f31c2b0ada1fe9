//! A store with stages in it, as the runner leaves them: lists of what actions made, and runs that lead to them.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sd3pipe_cache::{Digest, Key, Output, Preimage, Record, Run, RunStage, Store};
use serde_json::json;

pub fn preimage(kind: &str, name: &str) -> Preimage {
    let mut preimage = Preimage::new(kind, 1);
    preimage.read("name", &name).unwrap();
    preimage
}

pub fn key(action: &str) -> Key {
    preimage("action", action).key()
}

pub fn output(store: &Store, role: &str, item: &str, bytes: &str) -> Output {
    let object = store.put(bytes.as_bytes()).unwrap();
    Output { role: role.to_owned(), item: item.to_owned(), digest: object.digest, length: object.length, content: None }
}

/// The bytes of what an action made, and of what it keeps to itself.
pub fn content(action: &str) -> (String, String) {
    (format!("what {action} made"), format!("what {action} keeps to itself"))
}

/// Carries out an action: an object that is listed, and one that only its record names.
pub fn act(store: &Store, action: &str) -> Output {
    let (made, own) = content(action);
    let outputs = vec![output(store, "latents", action, &made), output(store, "state", action, &own)];
    let record = Record { preimage: preimage("action", action), label: action.to_owned(), outputs, seconds: 2.0 };
    store.publish(std::slice::from_ref(&record)).unwrap();
    record.outputs[0].clone()
}

/// Puts a stage of these actions into the store, carrying out those that are missing.
pub fn stage(store: &Store, actions: &[&str]) -> RunStage {
    let preimage = preimage("stage", &actions.concat());
    let key = preimage.key();
    store.rely(&key, &actions.iter().map(|action| self::key(action)).collect::<Vec<_>>()).unwrap();
    let made = |action: &&str| match store.outputs(&self::key(action)).unwrap() {
        Some(outputs) => outputs[0].clone(),
        None => act(store, action),
    };
    let entries: Vec<Output> = actions.iter().map(made).collect();
    let list = output(store, "artifact", "", &json!({ "entries": entries }).to_string());
    let result = Some(list.digest);
    store.publish(&[Record { preimage, label: "stage".to_owned(), outputs: vec![list], seconds: 0.0 }]).unwrap();
    RunStage { name: actions.concat(), key, result }
}

/// A run from its beginning to its end.
pub fn run(store: &Store, pipeline: &str, actions: &[&str]) -> u64 {
    let id = store.begin_run(pipeline, &json!(null)).unwrap();
    let stage = stage(store, actions);
    store.update_run(id, "done", &json!([stage])).unwrap();
    id
}

pub fn stages_of(run: &Run) -> Vec<RunStage> {
    serde_json::from_value(run.document.clone()).unwrap_or_default()
}

/// Which of these actions the store knows, after seeing that whatever it knows is whole, and that all of them together and in another order,
/// one of them twice, are found as each is alone.
pub fn known(store: &Store, actions: &[&str]) -> Vec<String> {
    let keys: Vec<Key> = actions.iter().rev().chain(actions.first()).map(|action| key(action)).collect();
    let alone: Vec<_> = keys.iter().map(|key| store.outputs(key).unwrap()).collect();
    assert_eq!(store.outputs_of(&keys).unwrap(), alone);
    let known = |action: &&&str| {
        let Some(outputs) = store.outputs(&key(action)).unwrap() else { return false };
        let (made, own) = content(action);
        assert_eq!(store.read(&outputs[0].digest).unwrap(), made.as_bytes());
        assert_eq!(store.read(&outputs[1].digest).unwrap(), own.as_bytes());
        true
    };
    actions.iter().filter(known).map(ToString::to_string).collect()
}

/// Every object's path.
pub fn objects(root: &Path) -> BTreeSet<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    entries(&root.join("objects")).iter().flat_map(|shard| entries(shard)).collect()
}

pub fn path_of(root: &Path, bytes: &str) -> PathBuf {
    let name = Digest::of(bytes.as_bytes()).to_string();
    root.join("objects").join(&name[..2]).join(&name[2..])
}

/// Makes everything that an action made, and the runs until now, so many days older.
pub fn age(root: &Path, files: &[PathBuf], runs: u64, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    for file in files {
        std::fs::File::open(file).unwrap().set_modified(time).unwrap();
    }
    let index = rusqlite::Connection::open(root.join("index.sqlite")).unwrap();
    let update = "UPDATE runs SET finished = finished - ?1, started = started - ?1 WHERE id = ?2";
    index.execute(update, [(days * 86_400) as i64, runs as i64]).unwrap();
}
