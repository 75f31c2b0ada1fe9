//! Drawing more with checkpoints that are there: nothing is trained, and what was drawn is kept.

use crate::space::TestSpace;
use std::path::PathBuf;

/// The images below a folder, by their names.
fn drawn(space: &TestSpace, folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = space
        .files(folder)
        .into_keys()
        .filter(|path| path.ends_with("contact-sheet.png") || path.to_string_lossy().contains("samples/"))
        .collect();
    files.sort();
    files
}

fn pixels(space: &TestSpace, path: &str) -> Vec<u8> {
    image::open(space.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")).to_rgb8().into_raw()
}

#[test]
fn a_run_s_checkpoints_draw_more_and_train_nothing() {
    let space = TestSpace::demo();
    space.run().succeeds();
    // Neither what has become of the data nor of the pipeline matters.
    space.write("photos/wall-clock.txt", "edited");
    space.edit("test.ron", "learning_rate: 1e-3", "learning_rate: 1e-5");
    let ask = [
        "sample", "1", "--epoch", "1", "--epoch", "last", "--prompt", "a dog", "--seed", "3", "--seed", "4", "--cfg",
        "2", "--out", "more",
    ];
    space.call(&ask).succeeds().says("samples   ran");
    let images: Vec<String> = drawn(&space, "more/samples")
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let expected = [
        "epoch-1-prompt-1-seed-3.png",
        "epoch-1-prompt-1-seed-4.png",
        "epoch-2-prompt-1-seed-3.png",
        "epoch-2-prompt-1-seed-4.png",
    ];
    assert_eq!(images, expected);
    assert!(!space.path("more/checkpoints").exists(), "exports are not delivered");
    let executed = space.executed();
    assert_eq!(executed.keys().collect::<Vec<_>>(), ["samples"], "{executed:?}");
    assert_eq!(executed["samples"].len(), 5);
    space.rename("photos", "elsewhere");
    space.call(&ask).succeeds().says("nothing to do");
    space.rename("elsewhere", "photos");
    space.call(&["runs"]).succeeds().says("test samples");
    // The last run of the pipeline is still the one that has trained.
    space.call(&["why", "test.ron", "train"]).succeeds().says("learning_rate 0.001 → 0.00001");
}

#[test]
fn without_wishes_the_images_are_those_of_the_run() {
    let space = TestSpace::small();
    space.run().succeeds();
    let said = space.call(&["sample", "test.ron"]).succeeds();
    let executed = space.executed();
    // Only the sheet is another: it has no row of the untrained model.
    assert_eq!(executed["samples"], ["contact sheet"], "{}", said.stdout);
    let folder =
        space.files("out/test").into_keys().find(|path| path.to_string_lossy().contains("samples-")).expect("a folder");
    let folder = folder.iter().nth(2).expect("its name").to_string_lossy().into_owned();
    let image = "epoch-1-prompt-1-seed-1.png";
    assert_eq!(
        space.read(&format!("out/test/{folder}/samples/{image}")),
        space.read(&format!("out/test/samples/{image}"))
    );
}

#[test]
fn a_picture_an_adapter_a_sampler_and_left_out_blocks_change_what_is_drawn() {
    let space = TestSpace::small();
    space.run().succeeds();
    space.lora("added.safetensors");
    let mut all = Vec::new();
    let mut draw = |name: &str, wishes: &[&str]| {
        space.call(&[&["sample", "test", "--steps", "8", "--out", name][..], wishes].concat()).succeeds();
        let drawn = pixels(&space, &format!("{name}/samples/epoch-1-prompt-1-seed-1.png"));
        all.push((name.to_owned(), drawn.clone()));
        drawn
    };
    let plain = draw("plain", &[]);
    draw("dpm", &["--sampler", "dpm2m"]);
    draw("skip", &["--skip-layers", "0"]);
    draw("lora", &["--lora", "added.safetensors"]);
    draw("half", &["--lora", "added.safetensors", "--lora-strength", "0.5"]);
    draw("fig", &["--image", "photos/fig.png", "--strength", "0.5"]);
    draw("owl", &["--image", "photos/owl.png", "--strength", "0.5"]);
    draw("less", &["--image", "photos/owl.png", "--strength", "0.25"]);
    for (index, (name, drawn)) in all.iter().enumerate() {
        for (other, drawn_there) in &all[..index] {
            assert_ne!(drawn, drawn_there, "{name} is {other}");
        }
    }
    let draw = |name: &str, wishes: &[&str]| {
        space.call(&[&["sample", "test", "--steps", "8", "--out", name][..], wishes].concat()).succeeds();
        pixels(&space, &format!("{name}/samples/epoch-1-prompt-1-seed-1.png"))
    };
    // At full strength nothing is left of the picture, at none nothing comes of the adapter.
    assert_eq!(draw("all", &["--image", "photos/owl.png", "--strength", "1"]), plain);
    assert_eq!(draw("none", &["--lora", "added.safetensors", "--lora-strength", "0"]), plain);
    assert_eq!(draw("batch", &["--batch", "3"]), plain);
}

#[test]
fn an_edited_picture_is_drawn_from_anew() {
    let space = TestSpace::small();
    space.run().succeeds();
    space.picture("start.png", (64, 64), 1);
    let ask = ["sample", "test", "--image", "start.png", "--strength", "0.5", "--out", "more"];
    space.call(&ask).succeeds();
    let before = pixels(&space, "more/samples/epoch-1-prompt-1-seed-1.png");
    space.call(&ask).succeeds().says("nothing to do");
    space.picture("start.png", (64, 64), 90);
    space.call(&ask).succeeds().says("ran");
    assert_ne!(pixels(&space, "more/samples/epoch-1-prompt-1-seed-1.png"), before);
}

#[test]
fn the_strength_of_a_trained_adapter_is_a_wish_too() {
    let space = TestSpace::small();
    space.run_with(&["--set", "train.method=LoRA(rank: 4)", "--set", "train.learning_rate=0.1"]).succeeds();
    let draw = |name: &str, wishes: &[&str]| {
        space.call(&[&["sample", "last", "--base", "--out", name][..], wishes].concat()).succeeds();
        let image = |row: &str| pixels(&space, &format!("{name}/samples/{row}-prompt-1-seed-1.png"));
        (image("base"), image("epoch-1"))
    };
    let (base, full) = draw("full", &[]);
    let (_, half) = draw("half", &["--trained-strength", "0.5"]);
    let (_, none) = draw("none", &["--trained-strength", "0"]);
    assert!(base != full && half != full && half != base);
    assert_eq!(none, base);
}

#[test]
fn a_run_that_has_drawn_nothing_draws_as_it_was_trained() {
    let space = TestSpace::small();
    let text = String::from_utf8(space.read("test.ron")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("Sample(")).collect();
    space.write("test.ron", lines.join("\n"));
    space.run().succeeds();
    space.call(&["sample", "last"]).fails(2, &["`prompts`: there is nothing to draw"]);
    space.call(&["sample", "last", "--prompt", "a fig", "--steps", "2", "--out", "more"]).succeeds();
    let image = image::open(space.path("more/samples/epoch-1-prompt-1-seed-1.png")).unwrap();
    assert_eq!((image.width(), image.height()), (64, 64));
    let shown = space.call(&["show", "last"]).succeeds().stdout;
    assert_eq!(shown.matches("t5_tokens: 16").count(), 2, "{shown}");
}

#[test]
fn a_point_of_a_grid_is_drawn_with() {
    let space = TestSpace::small();
    space.run_with(&["--set", "grid={\"train.seed\": [1, 2]}"]).succeeds();
    space.call(&["sample", "last"]).fails(2, &["several exports", "--export export@seed=1 or --export export@seed=2"]);
    for (seed, of) in [(1, "last@seed=1"), (2, "test.ron@seed=2")] {
        space.call(&["sample", of, "--out", "more"]).succeeds();
        let image = "samples/epoch-1-prompt-1-seed-1.png";
        assert_eq!(space.read(&format!("more/{image}")), space.read(&format!("out/test/seed={seed}/{image}")));
    }
}

#[test]
fn what_can_t_be_drawn_is_refused() {
    let space = TestSpace::small();
    space.call(&["sample", "1"]).fails(2, &["there is no store"]);
    space.run_with(&["--until", "text"]).succeeds();
    space.call(&["sample", "1"]).fails(2, &["no run `1` in this store that has trained"]);
    space.run().succeeds();
    let refused =
        |wishes: &[&str], said: &[&str]| drop(space.call(&[&["sample", "last"][..], wishes].concat()).fails(2, said));
    refused(&["--epoch", "7"], &["there is no epoch 7 of train", "it has 1 to 1"]);
    refused(&["--epoch", "best"], &["no epoch of train is known to be the best"]);
    refused(&["--cfg", "0.5", "--steps", "0"], &["`cfg`: 0.5 is not from 1 to 100", "`steps`: 0"]);
    refused(&["--skip-layers", "0", "--steps", "4"], &["`skip_layers.stop`: it begins and ends between two"]);
    refused(&["--image", "nowhere.png"], &["there is no file nowhere.png"]);
    refused(&["--trained-strength", "0.5"], &["the run has trained no adapter"]);
    refused(&["--export", "other"], &["no such export", "say which: --export export"]);
    refused(&["--size", "64"], &["`64` is no size"]);
    space.call(&["sample", "last", "--skip-layers", "9", "--steps", "8"]).fails(1, &["there is no block 9"]);
    space
        .run_with(&["--set", "sample.lora_strength=0.5"])
        .fails(2, &["`lora_strength` has no effect: the training has no adapter"]);
}
