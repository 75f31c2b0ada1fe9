//! Machines that share results: through a remote store, and by a bundle without the pictures.

use crate::space::TestSpace;
use std::fs;

fn executed(space: &TestSpace) -> Vec<String> {
    space.executed().into_keys().collect()
}

#[test]
fn what_one_machine_has_made_another_does_not_compute() {
    let (one, other, remote) = (TestSpace::small(), TestSpace::small(), TestSpace::empty());
    let setting = format!("store.remote={:?}", remote.path("shared"));
    let shared = ["--set", setting.as_str()];
    one.run_with(&shared).succeeds();
    other.run_with(&shared).succeeds().says("fetched");
    assert!(other.executed().is_empty());
    assert_eq!(one.files("out"), other.files("out"));
    other.call(&["verify", "test.ron"]).succeeds();
    assert!(other.planned(&shared).is_empty(), "what is there need not be here");

    let push = [&["push", "test.ron"], &shared[..]].concat();
    one.call(&push).succeeds().says("is in").says("already");
    one.call(&["push", "test.ron"]).fails(2, &["names no remote store"]);
    one.call(&[&push[..], &["--set", "store.mode=ReadOnly"]].concat()).fails(2, &["is only read"]);
    one.run_with(&["--set", "store.mode=ReadOnly"]).fails(2, &["`mode` has no effect without `remote`"]);
    one.run_with(&["--set", "store.remote=\"ftp://x/y\""]).fails(2, &["`ftp://` is no kind of remote store"]);

    let third = TestSpace::small();
    third.call(&[&["pull", "test.ron"], &shared[..]].concat()).succeeds().says("fetched");
    assert!(!third.path("out").exists());
    fs::remove_dir_all(remote.path("shared")).expect("the remote store");
    third.run().succeeds();
    assert!(third.executed().is_empty());
    // Nobody is there, and that is told in a line.
    let alone = third.run_with(&[&shared[..], &["--set", "store.mode=ReadOnly"]].concat()).succeeds();
    assert_eq!(alone.stderr.matches("going on with the local one").count(), 1, "{}", alone.stderr);
}

#[test]
fn the_store_that_a_pipeline_names_is_everybodys() {
    let space = TestSpace::small();
    space.edit("test.ron", "device: Cpu,", "device: Cpu, store: (local: \"kept/here\"),");
    space.run_with(&["--until", "captions"]).succeeds();
    assert!(space.path("kept/here/FORMAT").exists() && !space.path(".sd3pipe").exists());
    space.call(&["runs", "test.ron"]).succeeds().says("done");
    space.call(&["runs", "test.ron", "--store", ".sd3pipe"]).fails(2, &["there is no store"]);
}

#[test]
fn a_machine_without_the_pictures_trains_from_a_bundle() {
    let (one, other) = (TestSpace::small(), TestSpace::small());
    one.call(&["pack", "test.ron", "-o", "packed"]).fails(2, &["nothing was run yet"]);
    one.run_with(&["--until", "captions"]).succeeds();
    one.call(&["pack", "test.ron", "-o", "packed"]).fails(1, &["is not in this store"]);
    one.run().succeeds();
    one.call(&["pack", "test.ron", "--stage", "latents,text", "-o", "packed"]).succeeds().says("wrote packed");

    fs::remove_dir_all(other.path("photos")).expect("the pictures");
    other.write("packed", one.read("packed"));
    other.run().fails(2, &["there is no folder `photos`"]);
    other.call(&["unpack", "packed", "test.ron"]).succeeds().says("a listing stands for 6 files");
    other.call(&["gc", "test.ron"]).succeeds();
    other.run().succeeds();
    assert_eq!(executed(&other), ["export", "sample", "train"]);
    assert_eq!(one.files("out"), other.files("out"));
    other.call(&["verify", "test.ron"]).succeeds();
    other.call(&["data", "test.ron"]).succeeds();
    other.call(&["plan", "test.ron", "--set", "latents.resolution=96"]).fails(1, &["are not on this machine"]);
}
