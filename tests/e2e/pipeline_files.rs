//! What is wrong with a pipeline file is said with its place, what was expected and what to do; all of it at once.

use crate::space::{TestSpace, repository};
use std::time::{Duration, Instant};

/// The message for a pipeline in which one piece of text is another.
fn message(from: &str, to: &str) -> String {
    let space = TestSpace::demo();
    space.edit("test.ron", from, to);
    let outcome = space.run().fails(2, &[]);
    assert!(!space.path(".sd3pipe").exists(), "a store was made for a pipeline that can't run");
    outcome.stderr
}

#[test]
fn an_unknown_field_is_shown_with_its_line_and_a_suggestion() {
    let expected = "\
error: unknown field `learning_rat` in `Train`
    ╭─[ test.ron:15:45 ]
    │
 15 │         \"train\": Train(epochs: 2, batch: 2, learning_rat: 1e-3, schedule: Constant(), precision: F32, save_every: 1),
    │                                             ──────┬─────
    │                                                   ╰───────
    │
    │ hint: did you mean `learning_rate`?
────╯
";
    assert_eq!(message("learning_rate:", "learning_rat:"), expected);
}

#[test]
fn a_wrong_type_is_shown_with_its_value() {
    let shown = message("epochs: 2", "epochs: \"two\"");
    for said in ["`epochs`: Expected integer", "test.ron:15:", "epochs: \"two\""] {
        assert!(shown.contains(said), "not said: {said}\n{shown}");
    }
}

#[test]
fn an_unknown_kind_of_stage_is_shown_with_a_suggestion() {
    let shown = message("Train(", "Trian(");
    for said in ["unknown name `Trian` in `Stage`", "did you mean `Train`?", "test.ron:15:18"] {
        assert!(shown.contains(said), "not said: {said}\n{shown}");
    }
}

#[test]
fn a_some_around_brackets_is_to_be_left_out() {
    for (written, said) in
        [("Some((step: 16))", "`buckets`: Expected identifier"), ("Some(Buckets(step: 16))", "unknown field `Buckets`")]
    {
        let shown = message("buckets: (step: 16)", &format!("buckets: {written}"));
        for said in [said, "test.ron:14:", "hint: leave out `Some`"] {
            assert!(shown.contains(said), "not said: {said}\n{shown}");
        }
    }
    let shown = message("buckets: (step: 16)", "buckets: Some(stop: 16)");
    assert!(shown.contains("did you mean `step`?"), "{shown}");
}

#[test]
fn a_missing_field_is_named() {
    let shown = message("checkpoint: \"model/sd3_tiny.safetensors\",", "");
    for said in ["`checkpoint` is missing in `Model`", "add `checkpoint: …`", "test.ron:3:"] {
        assert!(shown.contains(said), "not said: {said}\n{shown}");
    }
}

#[test]
fn broken_syntax_is_shown_where_it_breaks() {
    let shown = message("name: \"test\",", "name: \"test\"");
    for said in ["Expected comma", "test.ron:3:"] {
        assert!(shown.contains(said), "not said: {said}\n{shown}");
    }
}

#[test]
fn all_semantic_errors_come_at_once_and_fast() {
    let space = TestSpace::demo();
    for (from, to) in [
        ("epochs: 2", "epochs: 0"),
        ("cfg", "cfg"),
        ("steps: 2", "steps: 0, cfg: 0.5, seeds: []"),
        ("path: \"photos\"", "path: \"fotos\""),
        ("model/clip_l.safetensors", "model/clip_x.safetensors"),
        ("EncodeText(", "EncodeText(captions: \"caption\", "),
        ("Export()", "Export(epochs: Only([7]))"),
        ("resolution: 64", "resolution: 60"),
    ] {
        let text = String::from_utf8(space.read("test.ron")).unwrap();
        space.write("test.ron", text.replace(from, to));
    }
    let said = [
        "`epochs`: 0 trains nothing",
        "`steps`: 0 is not from 1 to 1000",
        "`cfg`: 0.5 is not from 1 to 100",
        "`seeds`: there is no seed to draw with",
        "there is no folder `fotos`",
        "there is no file or folder `model/clip_x.safetensors`",
        "there is no stage `caption`",
        "did you mean `captions`?",
        "there is no epoch 7",
        "resolution",
    ];
    // The best of some tries: other tests run beside this one.
    let tries = (0..8).map(|_| {
        let start = Instant::now();
        space.run().fails(2, &said);
        start.elapsed()
    });
    let fastest = tries.min().expect("some tries");
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}

#[test]
fn a_circle_of_stages_is_named_from_end_to_end() {
    let space = TestSpace::demo();
    space.edit("test.ron", "Captions(", "EncodeText(captions: \"text\"),\n        \"other\": Captions(");
    space.edit("test.ron", "\"text\": EncodeText(", "\"text\": EncodeText(captions: \"captions\", ");
    space.run().fails(2, &["in a circle: captions ← text ← captions"]);
}

#[test]
fn a_stage_of_the_wrong_kind_is_refused() {
    let shown = message("Export(", "Export(train: \"text\"");
    assert!(shown.contains("`text` is EncodeText, and `train` of `export` must be Train"), "{shown}");
}

#[test]
fn an_option_without_effect_is_refused() {
    let shown = message("steps: 2", "steps: 2, cfg: 1.0, negative: \"ugly\"");
    assert!(shown.contains("`negative`: has no effect at cfg 1"), "{shown}");
}

#[test]
fn an_option_that_does_nothing_on_sd3_is_refused_with_the_reason() {
    let shown = message("steps: 2", "steps: 2, clip_skip: 2");
    assert!(shown.contains("`clip_skip` has no effect on SD3: SD3 was made with the last layer but one"), "{shown}");
    let shown = message("epochs: 2", "epochs: 2, debiased_estimation_loss: true");
    for said in ["`debiased_estimation_loss` has no effect on SD3", "`density`", "test.ron:15:", "leave it out"] {
        assert!(shown.contains(said), "not said: {said}\n{shown}");
    }
}

#[test]
fn a_warm_up_is_a_number_of_steps_or_a_share() {
    let space = TestSpace::demo();
    for (written, resolved) in
        [("20", "warmup: 20"), ("Steps(20)", "warmup: 20"), ("Share(0.05)", "warmup: Share(0.05)")]
    {
        let setting = format!("train.schedule=Cosine(warmup: {written})");
        space.call(&["plan", "test.ron", "--resolved", "--set", &setting]).succeeds().says(resolved);
    }
    space
        .run_with(&["--set", "train.schedule=Cosine(warmup: 0.05)"])
        .fails(2, &["expected a number of steps, such as 100, or a share of all, such as Share(0.05)"]);
    space.run_with(&["--set", "train.schedule=Linear(warmup: Share(2))"]).fails(2, &["is no share from 0 to 1"]);
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let shown = message("\"export\": Export(),", "\"export\": Export(), \"export\": Export(epochs: Last),");
    assert!(shown.contains("`export` stands here twice"), "{shown}");
}

#[test]
fn a_pipeline_that_is_not_there_says_how_to_get_one() {
    TestSpace::empty()
        .call(&["run", "nothing.ron"])
        .fails(2, &["cannot read the pipeline `nothing.ron`", "sd3pipe init"]);
}

#[test]
fn a_base_is_extended_field_by_field_and_its_paths_stay_its_own() {
    let space = TestSpace::demo();
    space.write("below/child.ron", "(extends: \"../test.ron\", name: \"child\", stages: {\"train\": Train(epochs: 3), \"sample\": Sample(prompts: [\"x\"])})");
    let resolved = space.call(&["plan", "below/child.ron", "--resolved"]).succeeds().stdout;
    for said in [
        "name: \"child\"",
        "epochs: 3",
        "batch: 2",
        "learning_rate: 0.001",
        "prompts: [\"x\"]",
        "steps: 2",
        "/photos\"",
    ] {
        assert!(resolved.contains(said), "not there: {said}\n{resolved}");
    }
    space.edit("test.ron", "batch: 2", "batch: 0");
    space.call(&["plan", "below/child.ron"]).fails(2, &["below/../test.ron:15:"]);
}

#[test]
fn a_base_that_extends_itself_is_refused() {
    let space = TestSpace::demo();
    space.write("a.ron", "(extends: \"b.ron\")");
    space.write("b.ron", "(extends: \"a.ron\")");
    space.call(&["plan", "a.ron"]).fails(2, &["extends itself"]);
}

#[test]
fn a_setting_changes_a_field_and_its_mistakes_are_shown() {
    let space = TestSpace::demo();
    let settings = [
        "plan",
        "test.ron",
        "--resolved",
        "--set",
        "train.epochs=7",
        "--set",
        "train.encoder_dropout.t5=0.5",
        "--set",
        "name=\"x\"",
    ];
    let resolved = space.call(&settings).succeeds().stdout;
    for said in ["epochs: 7", "t5: 0.5", "name: \"x\""] {
        assert!(resolved.contains(said), "not there: {said}\n{resolved}");
    }
    space
        .run_with(&["--set", "train.epoch=7"])
        .fails(2, &["unknown field `epoch`", "--set train.epoch=7:1:1", "did you mean `epochs`?"]);
    space.run_with(&["--set", "trian.epochs=7"]).fails(2, &["there is no stage `trian`", "did you mean `train`?"]);
    space.run_with(&["--set", "train.epochs"]).fails(2, &["has no value"]);
    space.run_with(&["--set", "train.epochs=-1"]).fails(2, &["--set train.epochs=-1:1:1"]);
}

#[test]
fn the_resolved_pipeline_reads_as_the_same_pipeline() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let resolved = space.call(&["plan", "test.ron", "--resolved"]).succeeds().stdout;
    assert!(resolved.contains("weighting: None,"), "{resolved}");
    space.write("again.ron", &resolved);
    assert_eq!(space.call(&["plan", "again.ron", "--resolved"]).succeeds().stdout, resolved);
    space.call(&["run", "again.ron"]).succeeds().says("nothing to do");
}

/// Every pipeline of the repository can be planned as it lies there.
#[test]
fn the_demo_is_right_where_it_lies() {
    let path = repository().join("pipelines/demo.ron");
    TestSpace::empty().call(&["plan", path.to_str().unwrap(), "--store", "store"]).succeeds().says("never run before");
}

/// The others name the user's files: they run here with a small model, small pictures, and everything else as it stands.
#[test]
fn the_shipped_examples_run_through() {
    let folder = repository().join("pipelines");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let examples: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "ron") && !path.ends_with("demo.ron"))
        .collect();
    assert!(examples.len() >= 5, "{examples:?}");
    for path in examples {
        let space = TestSpace::small();
        for (model, names) in [
            ("sd3_tiny.safetensors", &["sd3_medium.safetensors", "sd3.5_medium.safetensors"][..]),
            ("clip_l.safetensors", &["clip_l.safetensors"]),
            ("clip_g.safetensors", &["clip_g.safetensors"]),
            ("t5xxl.safetensors", &["t5xxl_fp16.safetensors"]),
            ("t5_tokenizer.json", &["spiece.model"]),
        ] {
            names.iter().for_each(|name| space.write(&format!("models/{name}"), space.read(&format!("model/{model}"))));
        }
        space.picture("class/fig.png", (64, 64), 9);
        space.write("class/fig.txt", "a {ripe|green} fig");
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        space.write(name, &text);
        let place = if text.contains(" devices: ") { "devices=Cpu(2)" } else { "device=Cpu" };
        let mut settings = vec![place.to_owned(), "model.tokenizers.clip=\"model/clip_tokenizer.json\"".to_owned()];
        for (stage, parameters) in stages(&text) {
            let small = match parameters {
                "EncodeImages" => &["resolution=64", "buckets=(step: 16)"][..],
                "Train" => &["epochs=1"],
                "Export" => &["epochs=Last"],
                "Sample" => &["size=(64, 64)", "steps=2"],
                _ => &[],
            };
            settings.extend(small.iter().map(|setting| format!("{stage}.{setting}")));
        }
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        space.call(&[&["run", name][..], &settings].concat()).succeeds();
        assert!(!space.files("out").is_empty(), "{name}");
        space.call(&[&["run", name][..], &settings].concat()).succeeds().says("nothing to do");
    }
}

/// The names of a file's stages, and their kinds.
fn stages(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.trim().strip_prefix('"')?.split_once("\": ")?;
        Some((name, rest.split_once('(')?.0))
    })
}
