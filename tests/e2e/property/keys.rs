//! Each field of a pipeline in turn: it moves the key of its stage, or is shown to change no byte.

use super::fields::{FIELDS, Field};
use crate::space::TestSpace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A pipeline in which every field has something to act on, and every stage but the last a twin that can be read instead.
const FULL: &str = r#"Pipeline(
    name: "test",
    model: (
        checkpoint: "model/sd3_tiny.safetensors", vae: "model/sd3_tiny.safetensors", clip_l: "model/clip_l.safetensors",
        clip_g: "model/clip_g.safetensors", t5xxl: "model/t5xxl.safetensors",
        tokenizers: (clip: "model/clip_tokenizer.json", t5: "model/t5_tokenizer.json"),
    ),
    device: Cpu,
    stages: {
        "captions": Captions(data: [(path: "photos", class: "thing")], missing: ClassName, shuffle: (variants: 2)),
        "text": EncodeText(captions: "captions", t5_tokens: 16, precision: F32),
        "latents": EncodeImages(captions: "captions", resolution: 64, buckets: (step: 16)),
        "train": Train(
            text: "text", latents: "latents", epochs: 1, batch: 2, learning_rate: 1e-3, schedule: Constant(), precision: F32,
            save_every: 1,
        ),
        "export": Export(train: "train"),
        "sample": Sample(
            export: "export", prompts: ["a cat"], size: (64, 64), steps: 1, t5_tokens: 16, precision: F32,
        ),
        "captions2": Captions(data: [(path: "photos", repeats: 3)], missing: Empty),
        "text2": EncodeText(captions: "captions", t5_tokens: 20, precision: F32),
        "latents2": EncodeImages(captions: "captions", resolution: 96, buckets: (step: 16)),
        "train2": Train(text: "text", latents: "latents", epochs: 1, seed: 3, schedule: Constant(), precision: F32),
        "export2": Export(train: "train", precision: F32),
    },
)
"#;

fn space() -> TestSpace {
    let space = TestSpace::small();
    space.write("test.ron", FULL);
    for (from, to) in [("sd3_tiny", "checkpoint"), ("clip_l", "clip_l"), ("clip_g", "clip_g"), ("t5xxl", "t5xxl")] {
        space.write(&format!("model/copy-{to}.safetensors"), space.read(&format!("model/{from}.safetensors")));
    }
    for name in ["lora", "copy-lora"] {
        space.lora(&format!("model/{name}.safetensors"));
    }
    for tokenizer in ["clip", "t5"] {
        let bytes = space.read(&format!("model/{tokenizer}_tokenizer.json"));
        space.write(&format!("model/copy-{tokenizer}.json"), bytes);
    }
    for (path, bytes) in space.files("photos") {
        space.write(&format!("copy-{}", path.display()), bytes);
    }
    space
}

/// The paths of all leaves; names of variants, which begin with a capital, are left out.
fn leaves(path: &str, value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.starts_with(|letter: char| letter.is_uppercase()), path) {
                    (true, _) => leaves(path, value, all),
                    (false, "" | "stages") => leaves(name, value, all),
                    (false, _) => leaves(&format!("{path}.{name}"), value, all),
                }
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter().enumerate().for_each(|(index, value)| leaves(&format!("{path}[{index}]"), value, all));
        }
        _ => drop(all.insert(path.to_owned())),
    }
}

/// The key of a stage, or what is said when it can't be known yet.
fn key(space: &TestSpace, stage: &str, settings: &[&str]) -> String {
    let why = space.call(&[&["why", "test.ron", stage], settings].concat()).succeeds().stdout;
    why.lines().last().expect("a key").to_owned()
}

#[test]
fn each_field_moves_the_key_of_its_stage_or_changes_no_byte() {
    let space = space();
    let resolved = space.call(&["plan", "test.ron", "--resolved"]).succeeds().stdout;
    let resolved: sd3pipe::pipeline::Pipeline =
        sd3pipe::pipeline::options().from_str(&resolved).expect("what is printed can be read");
    let mut there = BTreeSet::new();
    leaves("", &serde_json::to_value(resolved).expect("a tree"), &mut there);
    there.retain(|path| !path.split('.').next().is_some_and(|stage| stage.ends_with('2')));
    let (given, plain): (Vec<&Field>, Vec<&Field>) = FIELDS.iter().partition(|field| !field.given.is_empty());
    let paths =
        |fields: Vec<&Field>| -> BTreeSet<String> { fields.iter().map(|field| field.path.to_owned()).collect() };
    // Those of variants are there only when they are chosen.
    there.retain(|path| !paths(given.clone()).contains(path));
    let known: BTreeSet<String> = paths(plain).difference(&paths(given)).cloned().collect();
    let lacking: Vec<_> = there.symmetric_difference(&known).collect();
    assert!(lacking.is_empty(), "the table and the pipeline have not the same fields: {lacking:?}");

    space.run_with(&["--until", "sample"]).succeeds();
    let right = space.files("out");
    let stages: BTreeSet<&str> = FIELDS.iter().filter_map(|field| field.moves).collect();
    let keys: BTreeMap<&str, String> = stages.iter().map(|stage| (*stage, key(&space, stage, &[]))).collect();
    for field in FIELDS {
        let set =
            |settings: &[&'static str]| settings.iter().flat_map(|setting| ["--set", *setting]).collect::<Vec<_>>();
        let given = set(field.given);
        let settings = [given.clone(), set(field.settings)].concat();
        match field.moves {
            // The tiny VAE has no diffusers layout, and so no plan; the key of such an export has a test beside it.
            Some(_) if field.path == "export.layout" => {}
            Some(stage) if given.is_empty() => {
                assert_ne!(key(&space, stage, &settings), keys[stage], "{} moved nothing", field.path);
            }
            Some(stage) => {
                // A key is known when what the stage reads is there.
                if stage != "train" {
                    space.run_with(&[&["--until", stage][..], &given].concat()).succeeds();
                }
                let keys = [&given, &settings].map(|settings| key(&space, stage, settings));
                assert_ne!(keys[0], keys[1], "{} moved nothing", field.path);
            }
            None => {
                let right = if given.is_empty() {
                    right.clone()
                } else {
                    // Without what runs before it have left there.
                    drop(std::fs::remove_dir_all(space.path("out")));
                    space.run_with(&[&["--until", "sample"][..], &given].concat()).succeeds();
                    space.files("out")
                };
                std::fs::remove_dir_all(space.path("out")).expect("the last results");
                // Everything anew, because a key that stays is no proof that the bytes would.
                let anew = ["text", "latents", "train", "export", "sample"].map(|stage| ["--force", stage]).concat();
                space.run_with(&[&["--until", "sample"][..], &anew, &settings].concat()).succeeds();
                assert!(space.files("out") == right, "{} changed what came out", field.path);
            }
        }
    }
}
