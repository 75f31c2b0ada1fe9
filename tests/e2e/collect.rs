//! `gc`, `store`, `pin` and `unpin`: what nobody needs goes, and nothing else.

use crate::space::{Outcome, PIPELINE, TestSpace};
use std::{collections::BTreeMap, process::Stdio};

fn runs(space: &TestSpace, times: usize, arguments: &[&str]) {
    (0..times).for_each(|_| drop(space.run_with(arguments).succeeds()));
}

#[test]
fn what_old_runs_made_goes_and_what_the_last_one_needs_stays() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let out = space.files("out");
    let caption = space.read("photos/wall-clock.txt");
    space.write("photos/wall-clock.txt", "another caption");
    space.run().succeeds();
    let shown = space.call(&["gc", "--keep-runs", "1", "--dry-run"]).succeeds();
    let shown = shown.says("optimizer states").says("weights").says("to make again").says("would be removed");
    assert_eq!(space.call(&["gc", "--dry-run"]).succeeds().stdout.lines().next(), Some("nothing to remove"));
    let done = space.call(&["gc", "--keep-runs", "1"]).succeeds();
    assert_eq!(done.stdout, shown.stdout.replace("would be removed", "removed         "), "as it said");
    space.call(&["gc", "--keep-runs", "1"]).succeeds().says("nothing to remove");
    space.call(&["verify"]).succeeds().says("all sound");
    space.run().succeeds().says("nothing to do");
    // The state of the last epoch has stayed with its weights, and prompts with their images.
    space.run_with(&["--set", "train.epochs=3"]).succeeds();
    assert_eq!(space.executed()["train"], ["epoch 3"]);
    // What went is made again, and only that.
    space.write("photos/wall-clock.txt", caption);
    space.run().succeeds();
    assert_eq!(space.executed()["text"], ["wall-clock.jpg"]);
    assert!(!space.executed().contains_key("latents"));
    for (path, bytes) in out {
        assert_eq!(space.read(path.to_str().unwrap()), bytes, "{}", path.display());
    }
}

#[test]
fn short_runs_do_not_push_out_what_a_longer_one_trained() {
    let space = TestSpace::demo();
    space.run().succeeds();
    runs(&space, 4, &["--until", "text"]);
    space.call(&["gc"]).succeeds();
    space.run().succeeds().says("nothing to do");
}

#[test]
fn what_a_killed_training_finished_stays() {
    let space = TestSpace::demo();
    let long = ["--set", "train.epochs=60", "--until", "train"];
    let mut child = space.command(&[&["run", "test.ron"][..], &long].concat()).stderr(Stdio::null()).spawn().unwrap();
    // Texts, latents and what lists them are fewer: these are some epochs' weights.
    let objects = || walkdir::WalkDir::new(space.path(".sd3pipe/objects")).min_depth(2).into_iter().count();
    while objects() < 26 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = objects();
    let said = space.call(&["gc"]).succeeds().stdout;
    // At most what was about to be recorded goes: an epoch's weights and losses.
    assert!(objects() + 2 >= before, "{before} before, {} after:\n{said}", objects());
    space.run_with(&long).succeeds();
    let executed = space.executed();
    assert!(!executed.contains_key("text") && !executed.contains_key("latents"), "{executed:?}");
    assert!(executed["train"].len() < 60, "{executed:?}");
}

#[test]
fn a_pinned_run_stays_until_it_is_unpinned() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let out = space.files("out");
    space.call(&["pin", "1", "--note", "the good one"]).succeeds().says("pinned run #1 of test: captions, text");
    space.call(&["runs"]).succeeds().says("pinned the good one");
    runs(&space, 2, &["--set", "train.seed=7"]);
    space.call(&["gc", "--keep-runs", "1"]).succeeds();
    space.run().succeeds().says("nothing to do");
    assert_eq!(space.files("out"), out);
    runs(&space, 1, &["--set", "train.seed=7"]);
    space.call(&["unpin", "1"]).succeeds();
    space.call(&["unpin", "1"]).fails(2, &["run 1 is not pinned"]);
    assert!(!space.call(&["runs"]).succeeds().stdout.contains("pinned"));
    space.call(&["gc", "--keep-runs", "1"]).succeeds().says("weights");
    space.call(&["pin", "99"]).fails(2, &["there is no run 99"]);
    space.call(&["pin", "last", "test.ron"]).succeeds().says("pinned run #5");
    space.run().succeeds();
    assert_eq!(space.executed()["train"], ["epoch 1", "epoch 2"]);
}

#[test]
fn the_room_that_a_store_takes_is_told_by_kind_and_by_pipeline() {
    let space = TestSpace::demo();
    space.run().succeeds();
    space.write("other.ron", PIPELINE.replace("name: \"test\"", "name: \"other\""));
    space.call(&["run", "other.ron", "--until", "latents"]).succeeds();
    space.call(&["store"]).succeeds().says("optimizer states").says("latents").says("alone 0 bytes");
    let told = space.call(&["store", "--json"]).succeeds().json();
    let bytes = |path: &str| told.pointer(path).unwrap_or_else(|| panic!("{path}: {told}"))["bytes"].as_u64().unwrap();
    let on_disk: usize = space.files(".sd3pipe/objects").values().map(Vec::len).sum();
    assert_eq!(bytes("/objects"), on_disk as u64);
    let kinds: u64 = told["kinds"].as_object().unwrap().values().map(|kind| kind["bytes"].as_u64().unwrap()).sum();
    assert_eq!(kinds, on_disk as u64);
    assert_eq!(told["kinds"]["latents"]["count"], 6);
    assert_eq!((bytes("/pipelines/test/all"), bytes("/garbage")), (on_disk as u64, 0));
    assert!(bytes("/pipelines/other/all") > 0 && bytes("/pipelines/other/alone") == 0);
    space.call(&["store", "--keep-runs", "0"]).succeeds().says("not needed");
    let wrong = space.call(&["gc", "--max-size", "lots"]);
    assert_eq!(wrong.code, Some(2));
    space.call(&["gc", "--max-size", "1KiB"]).succeeds().says("that is more than 1.0 KiB");
    space.call(&["gc", "--older-than", "30d"]).succeeds().says("nothing to remove");
    space.run().succeeds().says("nothing to do");
}

/// Promise 9: a collection beside runs removes nothing that they need, and makes nobody do anything twice.
#[test]
fn collections_beside_runs_take_nothing_away() {
    let space = TestSpace::demo();
    for name in ["one", "two", "three"] {
        space.write(&format!("{name}.ron"), PIPELINE.replace("name: \"test\"", &format!("name: {name:?}")));
    }
    let undisturbed = TestSpace::demo();
    undisturbed.write("one.ron", PIPELINE.replace("name: \"test\"", "name: \"one\""));
    undisturbed.call(&["run", "one.ron", "--set", "train.seed=1"]).succeeds();
    let expected = undisturbed.files("out/one");
    // A collection needs a store.
    space.run_with(&["--until", "captions"]).succeeds();
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..20 {
        let seed = format!("train.seed={}", round % 2);
        let suffix = format!("captions.suffix=\" in round {round}\"");
        let arguments = [
            vec!["run", "one.ron", "--set", &seed],
            vec!["run", "two.ron", "--until", "train", "--set", &seed],
            // Something that is garbage a few rounds later.
            vec!["run", "three.ron", "--until", "text", "--set", &suffix],
        ];
        let mut children: Vec<_> = arguments
            .iter()
            .map(|arguments| {
                space.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
            })
            .collect();
        while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
            space.call(&["gc"]).succeeds();
        }
        for child in children {
            Outcome::of(child.wait_with_output().unwrap()).succeeds();
        }
        if round % 2 == 1 {
            assert_eq!(space.files("out/one"), expected, "round {round}");
        }
    }
    let listed = space.call(&["runs", "--limit", "100"]).succeeds().stdout;
    for id in 1..=listed.lines().count() {
        let shown = space.call(&["show", &id.to_string(), "--json"]).succeeds().json();
        let pipeline = shown["journal"]["pipeline"].as_str().unwrap();
        let seed = if pipeline.contains("seed: 1") { 1 } else { 0 };
        for stage in shown["journal"]["stages"].as_array().unwrap() {
            let own = if pipeline.contains("in round") { id } else { 0 };
            let kind = if stage["name"] == "text" || stage["name"] == "latents" { 0 } else { seed };
            for label in stage["executed"].as_array().unwrap() {
                *made.entry(format!("{own} {kind} {} {label}", stage["name"])).or_default() += 1;
            }
        }
    }
    let twice: Vec<_> = made.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(made.len() > 20 * 6, "{}", made.len());
    space.call(&["verify"]).succeeds().says("all sound");
}
