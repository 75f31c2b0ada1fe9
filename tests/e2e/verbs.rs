//! The verbs that write, draw and list.

use crate::space::TestSpace;

#[test]
fn init_writes_a_pipeline_that_only_lacks_its_model() {
    let space = TestSpace::demo();
    space
        .call(&["init", "my-style", "--data", "photos"])
        .succeeds()
        .says("found 6 images in photos, 6 of them with captions");
    let shown = space
        .call(&["plan", "my-style.ron"])
        .fails(2, &["there is no file or folder `models/sd3_medium.safetensors`"])
        .stderr;
    assert_eq!(shown.matches("error:").count(), 1, "{shown}");
    space.call(&["init", "my-style", "--data", "photos"]).fails(2, &["cannot write my-style.ron"]);
    space.call(&["init", "other", "--data", "nowhere"]).fails(2, &["nowhere"]);
    let tiny = ["init", "tiny", "--data", "photos", "--checkpoint", "model/sd3_tiny.safetensors"];
    space.call(&tiny).succeeds();
    // It is a whole pipeline: once the encoders are named, only this model's size is in the way.
    space.edit("tiny.ron", "// clip_l: \"models/clip_l.safetensors\"", "clip_l: \"model/clip_l.safetensors\"");
    let sizes = ["--set", "latents.resolution=64", "--set", "sample.size=(64, 64)"];
    space.call(&[&["plan", "tiny.ron"][..], &sizes].concat()).succeeds().says("never run before");
}

#[test]
fn a_graph_is_drawn_in_three_ways() {
    let space = TestSpace::demo();
    space.call(&["graph", "test.ron"]).succeeds().says("· train (Train) ← text, latents");
    space
        .call(&["graph", "test.ron", "--format", "dot"])
        .succeeds()
        .says("\"latents\" -> \"train\" [label=\"latents\"];");
    space.call(&["graph", "test.ron", "--format", "mermaid"]).succeeds().says("flowchart LR");
    space.run_with(&["--until", "text"]).succeeds();
    space.call(&["graph", "test.ron"]).succeeds().says("✓ text (EncodeText) ← captions");
}

#[test]
fn runs_are_listed_and_shown() {
    let space = TestSpace::demo();
    space.call(&["runs"]).fails(2, &["there is no store"]);
    space.run_with(&["--until", "text"]).succeeds();
    space.call(&["runs"]).succeeds().says("#1").says("done");
    space.call(&["show", "1"]).succeeds().says("t5_tokens: 16").says("wall-clock.jpg");
    space.call(&["show", "99"]).fails(2, &["there is no run 99"]);
    space.call(&["status", "test.ron"]).succeeds().says("last run   #1");
}

#[test]
fn a_run_reports_on_its_data() {
    let space = TestSpace::demo();
    space.write("photos/long.png", space.read("photos/coffee-cup.png"));
    space.write("photos/long.txt", "many words ".repeat(60) + "水墨画");
    let report = space.run_with(&["--until", "text"]).succeeds().stderr;
    for said in [
        "images               7",
        "(coffee-cup.png, long.png)",
        "over 77 CLIP tokens  1: long.png (431)",
        "unknown to T5        1: long.png",
    ] {
        assert!(report.contains(said), "not said: {said}\n{report}");
    }
}

#[test]
fn checkpoints_and_pictures_are_what_other_programs_read() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let checkpoint = space.read("out/test/checkpoints/test-epoch-0002.safetensors");
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&checkpoint).unwrap();
    let notes = metadata.metadata().clone().unwrap();
    assert_eq!((notes["sd3pipe.pipeline"].as_str(), notes["sd3pipe.epoch"].as_str()), ("test", "2"));
    assert_eq!(notes["modelspec.sai_model_spec"], "1.0.1");
    let source = space.read("model/sd3_tiny.safetensors");
    let (source, written) = (
        safetensors::SafeTensors::deserialize(&source).unwrap(),
        safetensors::SafeTensors::deserialize(&checkpoint).unwrap(),
    );
    let shapes = |file: &safetensors::SafeTensors<'_>| {
        let mut shapes: Vec<_> =
            file.iter().map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec())).collect();
        shapes.sort();
        shapes
    };
    assert_eq!(shapes(&written), shapes(&source), "the checkpoint has the layout of the one that it came from");
    let sheet = image::open(space.path("out/test/contact-sheet.png")).unwrap().to_rgb8();
    assert!(sheet.width() > 64 && sheet.height() > 3 * 64);
    let sample = image::open(space.path("out/test/samples/epoch-2-prompt-1-seed-1.png")).unwrap();
    assert_eq!((sample.width(), sample.height()), (64, 64));
}

#[test]
fn a_file_says_what_is_in_it() {
    let space = TestSpace::demo();
    space
        .call(&["inspect", "model/sd3_tiny.safetensors"])
        .succeeds()
        .says("holds       MMDiT         custom: 2 blocks of width 64")
        .says("VAE decoder")
        .says("precision   F16");
    let json = space.call(&["inspect", "model/t5xxl.safetensors", "--json"]).succeeds().json();
    assert_eq!(json["networks"][0]["network"], "T5");
    space.edit("test.ron", "Train(", "Train(method: LoRA(rank: 4), ");
    space.run_with(&["--until", "export"]).succeeds();
    let file = "out/test/lora/test-epoch-0001.safetensors";
    space
        .call(&["inspect", file])
        .succeeds()
        .says("a LoRA")
        .says("of sd-scripts and ComfyUI")
        .says("rank        4")
        .says("joint_blocks_*_x_block_attn_qkv")
        .says("sd3pipe.pipeline")
        .says("ss_network_dim");
    space.call(&["inspect", "photos/coffee-cup.png"]).fails(2, &["is not a safetensors file"]);
}

#[test]
fn data_is_reported_on_without_a_model_and_nothing_is_written() {
    let space = TestSpace::demo();
    let cup = image::open(space.path("photos/coffee-cup.png")).expect("a picture");
    cup.thumbnail(200, 200).save(space.path("photos/cup-again.jpg")).expect("saved");
    space.write("photos/cup-again.txt", "a cup");
    space.write("photos/broken.png", &space.read("photos/coffee-cup.png")[..2000]);
    let report = space.call(&["data", "test.ron"]);
    // A picture that is cut short is found by the captions already.
    report.fails(1, &["broken.png"]);
    space.remove("photos/broken.png");
    let before = space.files("");
    space
        .call(&["data", "test.ron"])
        .succeeds()
        .says("images             7")
        .says("look alike: 1\n  coffee-cup.png, cup-again.jpg")
        .says("latents   images   an epoch")
        .says("at least");
    let quick = space.call(&["data", "test.ron", "--quick"]).succeeds();
    assert!(!quick.stdout.contains("look alike"), "{}", quick.stdout);
    let json = space.call(&["data", "test.ron", "--json"]).succeeds().json();
    assert_eq!(json[0]["alike"][0].as_array().map(Vec::len), Some(2));
    let images = json[0]["buckets"]["latents"]["rows"].as_array().expect("rows").iter();
    assert_eq!(images.map(|row| row["images"].as_u64().unwrap()).sum::<u64>(), 7);
    assert!(space.files("") == before);
}

#[test]
fn a_machine_is_looked_at() {
    let space = TestSpace::demo();
    space.call(&["doctor", "test.ron"]).succeeds().says("program").says("free for").says("test.ron is right");
    space.edit("test.ron", "epochs: 2", "epoch: 2");
    space
        .call(&["doctor", "test.ron"])
        .fails(1, &["1 point of this would make a run fail"])
        .says("unknown field `epoch`");
}

#[test]
fn shells_and_man_are_told_of_every_verb() {
    let space = TestSpace::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        space.call(&["completions", shell]).succeeds().says("inspect");
    }
    space.call(&["man"]).succeeds().says(".TH sd3pipe 1").says("inspect");
    space.call(&["man", "pages"]).succeeds();
    assert!(space.files("pages").len() > 15);
    assert!(String::from_utf8_lossy(&space.read("pages/sd3pipe-run.1")).contains("SD3PIPE_OUTCOME"));
}

#[test]
fn names_that_mean_something_else_on_other_systems_are_refused() {
    let space = TestSpace::demo();
    space.edit("test.ron", "name: \"test\"", "name: \"Com1\"");
    space.call(&["plan", "test.ron"]).fails(2, &["`Com1` can't name a folder everywhere", "Windows"]);
    space.edit("test.ron", "Com1", "com10");
    space.edit(
        "test.ron",
        "\"sample\": Sample(",
        "\"Sample\": Sample(prompts: [\"a dog\"]),\n        \"sample\": Sample(",
    );
    space.call(&["plan", "test.ron"]).fails(2, &["`Sample` and `sample` would share a folder"]);
}
