//! What is held out, what is found on it, what follows from that, and averaged weights, through the whole program.

use crate::space::TestSpace;
use safetensors::SafeTensors;
use serde_json::Value;
use std::{collections::BTreeMap, fs, thread::sleep, time::Duration};

/// Holds two of the six photographs out.
const SHARE: &str = "validation: (share: 0.42)";
const HELD_OUT: [&str; 2] = ["coffee-cup", "mountain-path"];

/// The test pipeline with more said of its training, up to checkpoints in 32 bits of the pictures that `there` lets stand.
fn space(train: &str, export: &str) -> TestSpace {
    let space = TestSpace::demo();
    space.edit("test.ron", "Train(", &format!("Train({train}, "));
    space.edit("test.ron", "Export()", &format!("Export(precision: F32{export})"));
    space
}

fn run(space: &TestSpace) {
    space.run_with(&UNTIL_EXPORT).succeeds();
}

const UNTIL_EXPORT: [&str; 2] = ["--until", "export"];

type Checkpoints = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// Every tensor of every checkpoint. The files say too which data they come from.
fn checkpoints(space: &TestSpace) -> Checkpoints {
    let tensors = |bytes: &[u8]| -> BTreeMap<String, Vec<u8>> {
        let file = SafeTensors::deserialize(bytes).unwrap();
        file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()
    };
    let mut files = space.files("out");
    files.retain(|path, _| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.iter().map(|(path, bytes)| (path.display().to_string(), tensors(bytes))).collect()
}

fn names(space: &TestSpace) -> Vec<String> {
    let name = |path: &std::path::Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    space.files("out/test/checkpoints").keys().map(|path| name(path).replace("test-epoch-000", "")).collect()
}

/// What the validations of the last run's training found.
fn found(space: &TestSpace) -> Vec<Value> {
    let shown = space.call(&["show", "last", "--json"]).succeeds().json();
    shown["validations"]["train"].as_array().expect("validations").clone()
}

fn held_out(report: &Value, weights: &str) -> f64 {
    report[weights]["held_out"]["mean"].as_f64().expect("a number")
}

fn missing(space: &TestSpace) -> Vec<String> {
    space.planned(&UNTIL_EXPORT).remove("train").unwrap_or_default()
}

/// What is measured draws nothing that training draws, and training sees nothing of it.
#[test]
fn the_weights_are_those_of_a_training_that_never_had_what_is_held_out() {
    let without = space("precision: F32", "");
    without.edit("test.ron", ", precision: F32, save_every: 1", ", save_every: 1");
    let taken = without.files("photos").into_iter();
    let taken: Vec<_> =
        taken.filter(|(path, _)| HELD_OUT.iter().any(|name| path.to_string_lossy().contains(name))).collect();
    assert_eq!(taken.len(), 4);
    taken.iter().for_each(|(path, _)| without.remove(&path.to_string_lossy()));
    run(&without);
    let expected = checkpoints(&without);

    let with = space(&format!("{SHARE}, average: (decay: 0.5)"), "");
    run(&with);
    assert!(checkpoints(&with) == expected, "validation changed the weights");
    let reports = found(&with);
    for measured in ["held_out", "seen"] {
        assert_eq!(reports[0]["trained"][measured]["items"], 2);
        assert_eq!(reports[0]["trained"][measured]["losses"].as_array().unwrap().len(), 5);
        assert!(reports[0]["average"][measured]["mean"].as_f64().unwrap() > 0.0);
    }
    assert_ne!(reports[0]["trained"], reports[1]["trained"]);

    // So nothing is trained again for it either.
    taken.iter().for_each(|(path, bytes)| without.write(&path.to_string_lossy(), bytes));
    without.edit("test.ron", "Train(", &format!("Train({SHARE}, "));
    assert_eq!(missing(&without), ["validation of epoch 1", "validation of epoch 2"]);
    run(&without);
    assert!(checkpoints(&without) == expected);
    // What was measured after the training is what was measured in it.
    let later: Vec<Value> = found(&without).into_iter().map(|report| report["trained"].clone()).collect();
    assert_eq!(later, reports.iter().map(|report| report["trained"].clone()).collect::<Vec<_>>());
    without.call(&["show", "last"]).succeeds().says("held out").says("at 900");
}

/// In the types and forms of weights in which a difference could hide.
#[test]
fn weights_that_were_saved_are_measured_as_those_in_memory_were() {
    for train in [
        "average: (decay: 0.5)",
        "average: (decay: 0.5), weights: Bf16Stochastic, checkpointing: Blocks, block_swap: 1",
        "method: LoRA(rank: 2, dora: true, split_qkv: true, dropout: 0.5), average: (decay: 0.5)",
        "method: LoRA(rank: 2, targets: [ImageQuery, ClipLAttention, ClipGFeedForward]), average: (decay: 0.5)",
        "method: LoRA(rank: 2)",
        "optimizer: AdamWScheduleFree()",
    ] {
        let space = space(&format!("{SHARE}, {train}"), "");
        space.edit("test.ron", ", precision: F32, save_every: 1", ", save_every: 1");
        run(&space);
        let in_memory = found(&space);
        assert_eq!(in_memory[0].get("average").is_some(), train.contains("average"));
        // In the order in which they are asked for, a timestep is one of five or one alone: at batch 2 its neighbours differ.
        space.edit("test.ron", "share: 0.42", "share: 0.42, timesteps: [100, 300, 500, 700]");
        assert_eq!(missing(&space), ["validation of epoch 1", "validation of epoch 2"], "{train}");
        run(&space);
        for (before, after) in in_memory.iter().zip(found(&space)) {
            for (measured, weights) in ["held_out", "seen"].into_iter().flat_map(|m| [(m, "trained"), (m, "average")]) {
                let losses =
                    |report: &Value| report[weights][measured]["losses"].as_array().map(|all| all[..4].to_vec());
                assert_eq!(losses(before), losses(&after), "{train}");
            }
        }
    }
}

#[test]
fn what_is_held_out_can_change_without_a_step_of_training() {
    let space = space(SHARE, "");
    run(&space);
    let before = found(&space);
    space.write("photos/coffee-cup.txt", "another caption");
    assert_eq!(missing(&space), ["validation of epoch 1", "validation of epoch 2"]);
    run(&space);
    let after = found(&space);
    assert_ne!(before[1]["trained"]["held_out"], after[1]["trained"]["held_out"]);
    assert_eq!(before[1]["trained"]["seen"], after[1]["trained"]["seen"]);
    // More epochs: one more of each.
    space.edit("test.ron", "epochs: 2", "epochs: 3");
    assert_eq!(missing(&space), ["epoch 3", "validation of epoch 3"]);
    // Another seed is another training, measured on the same.
    space.edit("test.ron", "Train(", "Train(seed: 7, learning_rate: 0, ");
    space.edit("test.ron", ", learning_rate: 1e-3", "");
    run(&space);
    let still = found(&space);
    space.edit("test.ron", "seed: 7", "seed: 8");
    run(&space);
    assert_eq!(still, found(&space), "weights that stay are measured alike whatever the seed");
}

#[test]
fn the_best_epoch_is_exported_and_a_lost_validation_is_made_again() {
    let space = space(&format!("{SHARE}, average: (decay: 0.9)"), ", epochs: Best");
    space.edit("test.ron", "epochs: 2", "epochs: 6");
    space.edit("test.ron", "1e-3", "4e-2");
    run(&space);
    let reports = found(&space);
    let best = |weights: &str| {
        let lowest = reports.iter().min_by(|one, other| held_out(one, weights).total_cmp(&held_out(other, weights)));
        lowest.unwrap()["epoch"].to_string()
    };
    assert_ne!(best("trained"), "6", "the test would say nothing");
    assert_ne!(best("trained"), best("average"), "the test would say nothing");
    assert_eq!(names(&space), [best("trained")]);
    let line = space.call(&["show", "last"]).succeeds().stdout;
    let marked = line.lines().find(|line| line.ends_with("best")).unwrap().trim_start();
    assert!(marked.starts_with(&format!("epoch {}", best("trained"))), "{line}");

    let validation = format!("{}", reports[1]["trained"]["held_out"]["mean"]);
    let objects = space.files(".sd3pipe/objects").into_iter();
    let lost = objects.filter(|(_, bytes)| {
        bytes.starts_with(b"{\"epoch\":2") && String::from_utf8_lossy(bytes).contains(&validation)
    });
    let lost: Vec<_> = lost.map(|(path, _)| path).collect();
    assert_eq!(lost.len(), 1);
    space.remove(&lost[0].to_string_lossy());
    fs::remove_dir_all(space.path("out")).unwrap();
    space.edit("test.ron", "epochs: Best", "epochs: Best, weights: Average");
    assert_eq!(missing(&space), ["validation of epoch 2"]);
    run(&space);
    assert_eq!(space.executed()["train"], ["validation of epoch 2"]);
    assert_eq!(found(&space), reports);
    assert_eq!(names(&space), [best("average")]);
}

/// No loss is lower by a thousand, so that patience ends after the first validation and as many as it is.
fn stopping(patience: u32) -> TestSpace {
    let stop = format!("{SHARE}, stop: (patience: {patience}, minimum: 1000)");
    let space = space(&stop, "");
    space.edit("test.ron", "epochs: 2", "epochs: 6");
    space
}

#[test]
fn a_training_stops_early_and_says_nothing_of_later_epochs() {
    let space = stopping(2);
    let outcome = space.run_with(&UNTIL_EXPORT).succeeds();
    assert!(outcome.stderr.contains("stopped after epoch 3"), "{}", outcome.stderr);
    assert_eq!(names(&space), ["1", "2", "3"]);
    assert_eq!(found(&space).len(), 3);
    assert!(fs::read_dir(space.path(".sd3pipe/work")).unwrap().next().is_none(), "a state is left behind");
    space.run_with(&UNTIL_EXPORT).succeeds().says("nothing to do");
    // It has stopped, however many epochs there might have been.
    space.edit("test.ron", "epochs: 6", "epochs: 9");
    assert_eq!(missing(&space), [""; 0]);
    space.run_with(&UNTIL_EXPORT).succeeds().says("nothing to do");
    space.run_with(&["--until", "export", "--force", "train"]).succeeds();
    assert_eq!(space.executed()["train"].len(), 6);
    assert_eq!(names(&space), ["1", "2", "3"]);
    space.edit("test.ron", "Export(", "Export(epochs: Only([5]), ");
    space.run_with(&UNTIL_EXPORT).fails(1, &["there is no epoch 5: training stopped after 3"]);
    space.edit("test.ron", "Only([5])", "Last");
    let once = fs::remove_dir_all(space.path("out")).map(|()| run(&space));
    assert_eq!((once.is_ok(), names(&space)), (true, vec!["3".to_owned()]));
}

#[test]
fn with_more_patience_it_goes_on_and_with_less_it_ends_sooner() {
    let space = stopping(2);
    run(&space);
    space.edit("test.ron", "patience: 2", "patience: 4");
    run(&space);
    let expected = ["epoch 4", "epoch 5", "validation of epoch 4", "validation of epoch 5"];
    assert_eq!(space.executed()["train"], expected);
    let (patient, undisturbed) = (checkpoints(&space), stopping(4));
    run(&undisturbed);
    assert!(patient == checkpoints(&undisturbed));
    // Back and forth between what is there.
    for (patience, last) in [("patience: 1", 2), ("patience: 3", 4), ("patience: 9", 6)] {
        let text = String::from_utf8(space.read("test.ron")).unwrap();
        let before = text.split("(patience").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
        space.edit("test.ron", &format!("patience{before}"), patience);
        fs::remove_dir_all(space.path("out")).unwrap();
        run(&space);
        assert_eq!(names(&space).len(), last, "{patience}");
        assert_eq!(space.executed().contains_key("train"), last == 6, "{patience}");
    }
    let all = checkpoints(&space);
    space.edit("test.ron", ", stop: (patience: 9, minimum: 1000)", "");
    assert_eq!(missing(&space), [""; 0], "whether it may stop is in no epoch's key");
    run(&space);
    assert!(checkpoints(&space) == all);
}

#[test]
fn killed_at_any_time_it_ends_the_same() {
    let more = ", average: (decay: 0.5), checkpointing: Blocks, fused_step: true, block_swap: 1";
    let stop = format!("stop: (patience: 6, minimum: 1000){more}");
    let undisturbed = space(&format!("{SHARE}, {stop}"), ", weights: Average");
    undisturbed.edit("test.ron", "epochs: 2", "epochs: 20");
    run(&undisturbed);
    assert_eq!(names(&undisturbed).len(), 7);
    let (checkpoints_of_all, reports) = (checkpoints(&undisturbed), found(&undisturbed));
    for pause in [0, 40, 150, 400] {
        let space = space(&format!("{SHARE}, {stop}"), ", weights: Average");
        space.edit("test.ron", "epochs: 2", "epochs: 20");
        let mut child = space.command(&[&["run", "test.ron"], &UNTIL_EXPORT[..]].concat()).spawn().unwrap();
        let saved = || space.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors"));
        while !saved() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
        run(&space);
        assert!(checkpoints(&space) == checkpoints_of_all, "killed after {pause} ms");
        assert_eq!(found(&space), reports);
    }
}

#[test]
fn the_average_is_exported_when_it_is_asked_for() {
    let plain = space("average: (decay: 0.9)", "");
    run(&plain);
    let trained = checkpoints(&plain);
    plain.edit("test.ron", "Export(", "Export(weights: Average, ");
    run(&plain);
    assert_eq!(space_executed(&plain), ["export"]);
    let averaged = checkpoints(&plain);
    assert_eq!(trained.keys().collect::<Vec<_>>(), averaged.keys().collect::<Vec<_>>());
    assert!(trained.values().zip(averaged.values()).all(|(trained, averaged)| trained != averaged));
    // The weights go their way as without, and a mean that keeps nothing is the weights.
    for (train, export) in [
        ("seed: 42", ""),
        ("average: (decay: 0)", ", weights: Average"),
        ("average: (after: 99)", ", weights: Average"),
    ] {
        let other = space(train, export);
        run(&other);
        assert!(checkpoints(&other) == trained, "{train}");
    }
    // Ways to go about a step change nothing in it.
    let blocks = "average: (decay: 0.9), checkpointing: Blocks, fused_step: true, block_swap: 1";
    let by_blocks = space(blocks, ", weights: Average");
    run(&by_blocks);
    let expected = checkpoints(&by_blocks);
    by_blocks.edit("test.ron", ", fused_step: true, block_swap: 1", "");
    by_blocks.run_with(&["--until", "export", "--store", "empty-store"]).succeeds();
    assert!(checkpoints(&by_blocks) == expected);
    let adapter = space("method: LoRA(rank: 2), average: (decay: 0.9)", ", weights: Average");
    run(&adapter);
    let averaged = checkpoints(&adapter);
    assert_eq!(averaged.len(), 4, "both forms of both epochs");
    adapter.edit("test.ron", ", weights: Average", "");
    run(&adapter);
    assert!(checkpoints(&adapter) != averaged);
}

fn space_executed(space: &TestSpace) -> Vec<String> {
    space.executed().into_keys().collect()
}

#[test]
fn a_plan_foretells_the_bytes_of_validations_and_averages() {
    for method in ["Full", "LoRA(rank: 4)"] {
        let space =
            space(&format!("method: {method}, {SHARE}, average: (decay: 0.9)"), ", epochs: Best, weights: Average");
        let plan = space.call(&[&["plan", "test.ron", "--json"], &UNTIL_EXPORT[..]].concat()).succeeds().json();
        run(&space);
        let lengths = space.files(".sd3pipe/objects").into_values().map(|bytes| bytes.len() as u64);
        let (written, planned) = (lengths.sum::<u64>(), plan["writes"]["store"].as_u64().unwrap());
        let most = if method == "Full" { written * 101 / 100 } else { written * 2 };
        assert!((written..=most).contains(&planned), "{method}: {planned} planned, {written} written");
    }
}

#[test]
fn what_can_not_be_is_refused_before_anything_runs() {
    let plain = space("seed: 1", ", epochs: Best, weights: Average");
    plain.run().fails(2, &["only validation can tell which epoch is the best", "the training keeps no average"]);
    let drawn = space(SHARE, "");
    drawn.edit("test.ron", "Sample(", "Sample(epochs: Best, ");
    drawn.run().fails(2, &["Export(epochs: Best)"]);
    for (share, said) in [("0.05", "none is held out"), ("0.95", "none is left to train on")] {
        let space = space(&format!("validation: (share: {share})"), "");
        space.run().fails(1, &[said, "of 6 images", "`share`"]);
        assert!(!space.path(".sd3pipe/objects").exists() || space.files("out").is_empty());
    }
}
