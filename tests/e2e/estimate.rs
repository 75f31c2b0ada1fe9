//! What a plan says that a run will write, against what it writes; and the refusal of what has no room.

use crate::{
    layouts,
    space::{PIPELINE, TestSpace, wait_until},
};
use sd3pipe_stages::checkpoint::{MmditGeometry, mmdit_names};
use serde_json::{Map, Value, json};
use std::process::Stdio;

/// Bytes that a plan names for the store and for `out/`.
fn planned(space: &TestSpace, arguments: &[&str]) -> [u64; 2] {
    let plan = space.call(&[&["plan", "test.ron", "--json"], arguments].concat()).succeeds().json();
    ["store", "out"].map(|place| plan["writes"][place].as_u64().expect("a number"))
}

/// Bytes that lie in the store as objects, and in `out/`.
fn written(space: &TestSpace) -> [u64; 2] {
    [".sd3pipe/objects", "out"].map(|folder| space.files(folder).values().map(|bytes| bytes.len() as u64).sum())
}

/// Compares what was planned for a run with what it added: never less, and at most `more` times as much.
fn foretells(space: &TestSpace, arguments: &[&str], more: f64) {
    let before = written(space);
    let planned = planned(space, arguments);
    space.run_with(arguments).succeeds();
    let after = written(space);
    for (place, (planned, (before, after))) in ["store", "out"].iter().zip(planned.iter().zip(before.iter().zip(after)))
    {
        let added = after - before;
        let most = added as f64 * more;
        assert!(
            (added..=most as u64).contains(planned),
            "{place}: {planned} bytes planned, {added} added: {}",
            *planned as f64 / added as f64
        );
    }
}

const UNTIL_EXPORT: [&str; 2] = ["--until", "export"];

#[test]
fn a_plan_foretells_the_bytes_of_a_first_run_and_of_edits() {
    let space = TestSpace::demo();
    foretells(&space, &UNTIL_EXPORT, 1.01);
    // What waits for a longer training: one epoch more of everything, and not all three.
    space.edit("test.ron", "epochs: 2", "epochs: 3");
    foretells(&space, &UNTIL_EXPORT, 1.01);
    // In out/ the new checkpoints take the places of the old ones, which are counted as written all the same.
    space.write("photos/wall-clock.txt", "a clock that was edited");
    let [store, out] = planned(&space, &UNTIL_EXPORT);
    let before = written(&space);
    space.run_with(&UNTIL_EXPORT).succeeds();
    let after = written(&space);
    assert!((after[0] - before[0]..=(after[0] - before[0]) * 101 / 100).contains(&store));
    // But for the letters of the curves' numbers, of which the plan knows a bound.
    assert!(after[1].abs_diff(before[1]) < 1000, "three checkpoints are written over three of the same size");
    assert!((after[1]..=after[1] * 101 / 100).contains(&out));
    assert_eq!(planned(&space, &UNTIL_EXPORT), [0, 0]);
}

#[test]
fn mirrored_latents_masks_and_further_sizes_are_foretold() {
    let space = TestSpace::small();
    space.run_with(&["--until", "latents"]).succeeds();
    // Masks of nothing are alike, and are counted as if they were not.
    let data = "captions.data=[(path: \"photos\", flip: true, masks: Alpha)]";
    let further = "latents.further_resolutions=[96]";
    foretells(&space, &["--set", data, "--set", further, "--until", "latents"], 1.05);
}

#[test]
fn the_sizes_of_pictures_are_bounds() {
    let space = TestSpace::demo();
    space.run_with(&UNTIL_EXPORT).succeeds();
    // Three photographs' worth of raw pixels, and a sheet of them; noise hardly shrinks.
    foretells(&space, &[], 100.0);
    // The same prompt with another seed: its encoding is there already.
    foretells(&space, &["--set", "sample.seeds=[2]"], 100.0);
}

#[test]
fn the_files_of_diffusers_folders_have_bounds_and_those_that_are_shared_count_once() {
    let space = layouts::space("Export(layout: Diffusers, text_encoders: true)");
    foretells(&space, &UNTIL_EXPORT, 1.1);
    space.edit("test.ron", "epochs: 2", "epochs: 3");
    foretells(&space, &UNTIL_EXPORT, 1.1);
}

#[test]
fn a_plan_ends_with_what_it_costs() {
    let space = TestSpace::demo();
    let first = space.call(&["plan", "test.ron"]).succeeds().says("2 epochs, 8 steps").says("4 images").stdout;
    let last = first.lines().last().unwrap_or_default();
    assert!(last.starts_with("writes ") && last.ends_with(" of memory"), "{first}");
    space.call(&["plan", "test.ron", "--bytes"]).succeeds().says("store").says("latents");
    space.run().succeeds();
    let idle = space.call(&["plan", "test.ron"]).succeeds().stdout;
    assert!(!idle.contains("writes"), "{idle}");
    space.call(&["plan", "test.ron", "--set", "train.epochs=3"]).succeeds().says("going by earlier runs");
}

#[test]
fn a_plan_shows_the_learning_rates() {
    let space = TestSpace::demo();
    let rates = ["plan", "test.ron", "--rates", "--set", "train.schedule=Constant(warmup: 4)"];
    space
        .call(&rates)
        .succeeds()
        .says("train: 2 epochs, 8 steps")
        .says("1       0      0.000e0         first")
        .says("2       4      1.000e-3        end of warm-up")
        .says("2       7      1.000e-3        last");
}

/// A pipeline whose checkpoints take up more than any disk has: an MMDiT of 300 million zeros, which take up nothing, and 10,000
/// epochs.
fn huge() -> TestSpace {
    let space = TestSpace::demo();
    let geometry = MmditGeometry {
        depth: 2,
        width: 2048,
        heads: 32,
        qk_norm: false,
        dual_attention: Vec::new(),
        position_grid: 16,
        context_width: 4096,
        pooled_width: 2048,
        patch: 2,
        channels: 16,
    };
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in mmdit_names(&geometry) {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(
            format!("model.diffusion_model.{name}"),
            json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] }),
        );
    }
    let header = Value::from(header).to_string();
    let length = 8 + header.len() + end;
    space.write("model/zeros.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
    let file = std::fs::OpenOptions::new().write(true).open(space.path("model/zeros.safetensors")).expect("the file");
    file.set_len(length as u64).expect("a sparse file");
    let checkpoint = "checkpoint: \"model/zeros.safetensors\",\n        vae: \"model/sd3_tiny.safetensors\"";
    let pipeline = PIPELINE.replace("checkpoint: \"model/sd3_tiny.safetensors\"", checkpoint);
    space.write("test.ron", pipeline.replace("epochs: 2", "epochs: 10000"));
    space
}

#[test]
fn what_has_no_room_is_refused_before_anything_is_done() {
    let space = huge();
    space.run_with(&["--until", "train"]).fails(
        1,
        &[
            "has no room",
            "TiB will be written",
            "free",
            "sd3pipe gc",
            "--store",
            "Export(epochs: Last)",
            "--ignore-space",
        ],
    );
    assert!(space.executed().is_empty());
    assert_eq!(written(&space), [0, 0]);
}

#[test]
fn a_run_that_is_told_to_ignore_the_room_begins() {
    let space = huge();
    let arguments = ["run", "test.ron", "--until", "train", "--ignore-space"];
    let mut child =
        space.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    wait_until("a first result", || written(&space)[0] > 0);
    child.kill().expect("it runs still");
    child.wait().expect("it ends");
}
