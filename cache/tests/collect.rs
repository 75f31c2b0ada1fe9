//! A collection removes what nobody needs, and nothing else, whoever is at work beside it.

mod common;

use std::cell::Cell;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{act, age, content, key, known, objects, path_of, run, stage, stages_of};
use sd3pipe_cache::{Collection, Limits, Preimage, Run, Store, StoreError};
use serde_json::json;

fn collect(store: &Store, limits: &Limits) -> Collection {
    store.collect(limits, &stages_of, &mut |_| {}).unwrap()
}

fn keep(runs: usize) -> Limits {
    Limits { keep_runs: runs, ..Limits::default() }
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn what_the_newest_runs_lead_to_stays_and_the_rest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    run(&store, "one", &["a", "b"]);
    run(&store, "one", &["b", "c"]);
    run(&store, "two", &["d"]);
    store.put(b"named by nothing").unwrap();
    let limits = keep(1);
    let before = objects(folder.path());
    let would = store.would_collect(&limits, &stages_of).unwrap();
    assert_eq!(objects(folder.path()), before, "looking removes nothing");
    let did = collect(&store, &limits);
    assert_eq!((&would.parts, would.stays), (&did.parts, did.stays));
    let part = |pipeline: &str, role: &str| did.parts[&(pipeline.to_owned(), role.to_owned())].clone();
    assert_eq!((part("one", "latents").count, part("one", "latents").seconds), (1, 2.0), "and what it cost");
    assert_eq!((part("one", "state").count, part("one", "artifact").count, part("", "").count), (1, 1, 1));
    assert_eq!(known(&store, &["a", "b", "c", "d"]), ["b", "c", "d"]);
    assert_eq!(before.len() - objects(folder.path()).len(), 4);
    assert_eq!(collect(&store, &limits).total().count, 0);
    // With nothing to keep, nothing stays.
    collect(&store, &keep(0));
    assert!(objects(folder.path()).is_empty());
    assert!(known(&store, &["a", "b", "c", "d"]).is_empty());
}

#[test]
fn what_a_killed_run_finished_stays_until_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.begin_run("one", &json!(null)).unwrap();
    let stage = Preimage::new("stage", 1).key();
    store.rely(&stage, &[key("a"), key("b")]).unwrap();
    act(&store, "a");
    fs::write(store.work_dir(&key("b")).unwrap().join("state"), "half of it").unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(collect(&store, &keep(1)).total().count, 0);
    assert_eq!(known(&store, &["a"]), ["a"]);
    assert!(store.work_dir(&key("b")).unwrap().join("state").exists());
    run(&store, "one", &["c"]);
    let collection = collect(&store, &keep(1));
    assert_eq!((collection.work.count, collection.work.bytes), (1, 10));
    assert_eq!(known(&store, &["a", "c"]), ["c"]);
    assert!(!folder.path().join("work").join(key("b").to_string()).exists());
}

#[test]
fn what_a_live_run_relies_on_and_makes_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
    run(&store, "one", &["a"]);
    run(&store, "one", &["b"]);
    let old: Vec<_> = objects(folder.path()).into_iter().collect();
    age(folder.path(), &old, 1, 40);
    let live = store.begin_run("two", &json!(null)).unwrap();
    store.rely(&Preimage::new("stage", 1).key(), &[key("a")]).unwrap();
    store.put(b"not recorded yet").unwrap();
    // Stored again: it is about to be named.
    store.put(content("b").0.as_bytes()).unwrap();
    collect(&other, &keep(0));
    assert_eq!(known(&store, &["a"]), ["a"]);
    assert!(path_of(folder.path(), "not recorded yet").exists());
    assert!(path_of(folder.path(), &content("b").0).exists());
    store.update_run(live, "done", &json!(null)).unwrap();
    collect(&other, &keep(0));
    assert!(objects(folder.path()).is_empty());
}

#[test]
fn the_least_recently_used_goes_first_and_only_as_much_as_must() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for (days, action) in [(90, "a"), (60, "b"), (30, "c"), (0, "d")] {
        let before = objects(folder.path());
        let id = run(&store, "one", &[action]);
        let new: Vec<_> = objects(folder.path()).difference(&before).cloned().collect();
        age(folder.path(), &new, id, days);
    }
    // Used again yesterday.
    let again = run(&store, "two", &["a"]);
    age(folder.path(), &[], again, 1);
    run(&store, "two", &["e"]);
    let older = |days: u32| Limits { older_than: Some(DAY * days), ..keep(1) };
    let with = |limits: &Limits| store.would_collect(limits, &stages_of).unwrap();
    let count = |collection: Collection| collection.total().count;
    assert_eq!(count(with(&older(100))), 0);
    assert_eq!(count(with(&older(45))), 3, "b: what it made, what it keeps, the list");
    let all = with(&Limits { max_size: Some(u64::MAX), ..keep(1) });
    assert_eq!((count(with(&Limits { max_size: Some(all.stays), ..keep(1) })), all.total().count), (0, 0));
    let limits = Limits { max_size: Some(all.stays - 1), ..keep(1) };
    assert!(!with(&limits).too_large);
    assert!(collect(&store, &limits).total().count <= 3);
    assert_eq!(known(&store, &["a", "c", "d", "e"]), ["a", "c", "d", "e"]);
    // The list goes before what it lists: whichever stages are left, all that they list is there.
    assert_eq!(store.verify(&stages_of, &|_, _| {}).unwrap().faults, []);
    let nothing = collect(&store, &Limits { max_size: Some(1), ..keep(1) });
    assert!(nothing.too_large);
    assert_eq!(known(&store, &["a", "b", "c", "d", "e"]), ["d", "e"]);
}

#[test]
fn a_pin_keeps_its_run_even_when_the_index_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let id = run(&store, "one", &["a"]);
    let pinned = store.run(id).unwrap().unwrap();
    let pin = store.pin(&pinned, stages_of(&pinned), Some("the good one".to_owned())).unwrap();
    run(&store, "one", &["b"]);
    collect(&store, &keep(1));
    assert_eq!(known(&store, &["a", "b"]), ["a", "b"]);
    drop(store);
    fs::write(folder.path().join("index.sqlite"), "garbage".repeat(1000)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    collect(&store, &keep(1));
    // What is listed, and not what only the lost record knew of.
    assert!(path_of(folder.path(), &content("a").0).exists());
    assert!(!path_of(folder.path(), &content("b").0).exists());
    assert_eq!(store.pins().unwrap(), std::slice::from_ref(&pin));
    assert!(store.unpin(&pin).unwrap() && !store.unpin(&pin).unwrap());
    collect(&store, &keep(1));
    assert!(objects(folder.path()).is_empty());
}

#[test]
fn a_pin_that_cannot_be_read_stops_a_collection() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    run(&store, "one", &["a"]);
    fs::write(folder.path().join("pins/7-1.json"), "{").unwrap();
    let refused = store.collect(&keep(0), &stages_of, &mut |_| {}).unwrap_err();
    assert!(matches!(refused, StoreError::Pin { .. }) && refused.to_string().contains("7-1.json"), "{refused}");
    assert_eq!(known(&store, &["a"]), ["a"]);
}

#[test]
fn a_store_of_the_first_program_is_collected_and_used_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    run(&store, "one", &["a"]);
    run(&store, "one", &["b"]);
    drop(store);
    let index = rusqlite::Connection::open(folder.path().join("index.sqlite")).unwrap();
    index.execute_batch("DROP TABLE reliances").unwrap();
    drop(index);
    fs::remove_dir(folder.path().join("pins")).unwrap();
    let reader = Store::open_read_only(folder.path()).unwrap().unwrap();
    assert_eq!(reader.would_collect(&keep(1), &stages_of).unwrap().total().count, 3);
    drop(reader);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.notices(), [""; 0]);
    assert_eq!(collect(&store, &keep(1)).total().count, 3);
    assert_eq!(known(&store, &["a", "b"]), ["b"]);
    run(&store, "one", &["b", "c"]);
}

#[test]
fn what_a_run_lists_that_begins_and_ends_during_a_collection_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let other = Store::open(folder.path()).unwrap();
    run(&store, "one", &["a"]);
    let asked = Cell::new(0);
    // A collection asks while it looks at the store, and again when it plans what to remove.
    let stages_of = |run_before: &Run| {
        asked.set(asked.get() + 1);
        if asked.get() == 2 {
            run(&other, "two", &["a", "b"]);
        }
        stages_of(run_before)
    };
    store.collect(&keep(0), &stages_of, &mut |_| {}).unwrap();
    assert!(asked.get() > 1);
    assert_eq!(known(&store, &["a", "b"]), ["a", "b"]);
    assert_eq!(store.verify(&common::stages_of, &|_, _| {}).unwrap().faults, []);
}

#[test]
fn runs_beside_collections_lose_nothing_that_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..24).map(|number| format!("action {number}")).collect();
    let (done, removed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let store = Store::open(folder.path()).unwrap();
            while !done.load(Ordering::Relaxed) {
                removed.fetch_add(collect(&store, &keep(0)).total().count, Ordering::Relaxed);
            }
        });
        let workers: Vec<_> = (0..3_usize)
            .map(|worker| {
                let (folder, names, removed) = (&folder, &names, &removed);
                scope.spawn(move || {
                    let store = Store::open(folder.path()).unwrap();
                    let started = Instant::now();
                    // What is used all the time is too young to go; what was used once goes after some seconds.
                    for round in 0.. {
                        if round >= 40 && removed.load(Ordering::Relaxed) > 0 {
                            break;
                        }
                        assert!(started.elapsed() < Duration::from_secs(120), "no collection came to something");
                        let shared = (0..6).map(|step| names[(worker * 7 + round * 5 + step) % 24].as_str());
                        let once = format!("action of {worker} in {round}");
                        let actions: Vec<&str> = shared.chain([once.as_str()]).collect();
                        let id = store.begin_run("one", &json!(null)).unwrap();
                        let stage = stage(&store, &actions);
                        // Everything that the stage is made of is there for as long as the run goes on.
                        thread::sleep(Duration::from_millis(2));
                        assert_eq!(known(&store, &actions), actions);
                        store.read(&stage.result.unwrap()).unwrap();
                        store.update_run(id, "done", &json!([stage])).unwrap();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.verify(&stages_of, &|_, _| {}).unwrap().faults, []);
}

#[test]
#[ignore = "only a child of the next test does this"]
fn a_child_that_collects() {
    let Some(root) = std::env::var_os("SD3PIPE_CACHE_TEST_ROOT") else { return };
    let store = Store::open(root.as_ref()).unwrap();
    loop {
        for number in 0..40 {
            act(&store, &format!("action {number}"));
        }
        collect(&store, &keep(0));
    }
}

#[test]
fn a_collection_that_is_killed_leaves_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_that_collects", "--ignored", "--nocapture", "--test-threads=1"])
            .env("SD3PIPE_CACHE_TEST_ROOT", folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(150 + 31 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.verify(&stages_of, &|_, _| {}).unwrap().faults, [], "round {round}");
    }
    let store = Store::open(folder.path()).unwrap();
    collect(&store, &keep(0));
    assert!(objects(folder.path()).is_empty());
}
