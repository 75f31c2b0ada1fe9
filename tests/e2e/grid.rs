//! A grid of experiments as its users meet it: one run, names that say the point, a folder and a row for each.

use crate::{report::opens_in_a_browser, space::TestSpace};

const GRID: [&str; 2] = ["--set", "grid={\"train.learning_rate\": [1e-3, 1e-4], \"train.seed\": [1, 2]}"];

#[test]
fn a_grid_is_one_run_that_says_which_point_is_meant() {
    let space = TestSpace::small();
    let call = |verb: &[&str]| space.call(&[verb, &GRID].concat());
    let validation = ["--set", "train.validation=(share: 0.5)"];
    let run = space.run_with(&[&GRID[..], &validation].concat()).succeeds();
    run.says("train@learning_rate=1e-3,seed=1    ran")
        .says("point                       epochs   loss")
        .says("out/test/learning_rate=1e-4,seed=2/")
        .says("lowest on what is held out: learning_rate=1e-");
    let json: serde_json::Value = serde_json::from_slice(&space.read("out/test/comparison.json")).unwrap();
    let points = json["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    let held_out = |point: &serde_json::Value| point["epochs"][0]["held_out"].as_f64().unwrap();
    assert!(held_out(&points[0]) != held_out(&points[2]), "other rates come to other losses: {json}");
    for point in points {
        let folder = point["folder"].as_str().unwrap();
        assert!(space.path(folder).join("contact-sheet.png").is_file(), "{folder}");
        assert!(space.path(folder).join("checkpoints/test-epoch-0001.safetensors").is_file(), "{folder}");
    }
    let executed = space.executed();
    assert_eq!(executed["text"].len(), 4, "texts are encoded once: {executed:?}");
    space
        .run_with(&[&GRID[..], &validation].concat())
        .succeeds()
        .says("nothing to do")
        .says("out/test/learning_rate=1e-4,seed=2/");

    call(&["plan", "test.ron"]).succeeds().says("train@learning_rate=1e-3,seed=1");
    call(&["status", "test.ron"]).succeeds().says("sample@learning_rate=1e-4,seed=1");
    call(&["graph", "test.ron"]).succeeds().says("train@learning_rate=1e-4,seed=2 (Train) ← text, latents");
    call(&["why", "test.ron", "train@learning_rate=1e-4,seed=2"]).succeeds().says("validation");
    call(&["why", "test.ron", "train"])
        .fails(2, &["`train` is several stages", "say which: train@learning_rate=1e-3,seed=1 or"]);
    space.call(&["show", "last"]).succeeds().says("train@learning_rate=1e-4,seed=2 (Train)");
    let until = call(&["plan", "test.ron", "--until", "train@seed=2"]).succeeds().stdout;
    assert!(until.contains("train@learning_rate=1e-4,seed=2") && !until.contains("seed=1"), "{until}");
}

const PAGE: &str = "out/test/comparison.html";

#[test]
fn a_grid_has_a_page_with_its_points_side_by_side() {
    let space = TestSpace::small();
    let page = || String::from_utf8(space.read(PAGE)).expect("a text");
    let validation = ["--set", "train.validation=(share: 0.5)", "--set", "sample.seeds=[1, 2]"];
    let run = || space.run_with(&[&GRID[..], &validation].concat()).succeeds();
    assert!(run().stderr.contains("wrote out/test/comparison.html"));
    let first = page();
    for shown in [
        "<th>learning_rate</th><th>seed</th>",
        "<th>1e-4</th><th>2</th>",
        "a grid of 4 points",
        "learning_rate=1e-3, seed=2 · epoch 1",
        "a cat <small>seed 2</small>",
        "the lowest loss on what is held out is that of learning_rate=1e-",
        "loss on what is held out, by epoch",
    ] {
        assert!(first.contains(shown), "{shown}");
    }
    // A row for the model as it was and one for each point, each of two samples; in both lists to choose from.
    assert_eq!((first.matches("data-shot=\"0\"").count(), first.matches("data-shot=\"1\"").count()), (5, 5));
    assert_eq!(first.matches("<option value=\"4\"").count(), 2);
    opens_in_a_browser(&space.path(PAGE));
    // It is left while it shows the same, put back when it was scribbled over, and made again on demand.
    run();
    assert_eq!(page(), first);
    space.write(PAGE, first.replace("side", "sied"));
    run();
    assert_eq!(page().matches("data-shot").count(), first.matches("data-shot").count());
    space.remove(PAGE);
    space.call(&[&["report", "test.ron"], &GRID[..], &validation].concat()).succeeds().says("comparison.html");
    assert!(page().contains("a grid of 4 points"));
    // Points that ask for other things have tables of their own, and without a grid there is none.
    let cfg = ["--set", "grid={\"sample.prompts\": [[\"a cat\"], [\"a dog\"]]}"];
    space.run_with(&cfg).succeeds();
    assert_eq!(page().matches("class=\"gallery\"").count(), 2);
    space.remove(PAGE);
    space.run().succeeds();
    assert!(!space.path(PAGE).exists());
}

#[test]
fn a_mistake_in_a_grid_is_shown_on_its_line() {
    let space = TestSpace::small();
    space.edit("test.ron", "    stages: {", "    grid: { \"train.learning_rat\": [1e-3] },\n    stages: {");
    let expected = "\
error: unknown field `learning_rat` in `Train`
    ╭─[ test.ron:11:20 ]
    │
 11 │     grid: { \"train.learning_rat\": [1e-3] },
    │                    ──────┬─────
    │                          ╰───────
    │
    │ hint: did you mean `learning_rate`?
────╯
";
    assert_eq!(space.run().fails(2, &[]).stderr, expected);
    space.edit("test.ron", "train.learning_rat\": [1e-3]", "train.learning_rate\": [1e-3, -1.0]");
    space.run().fails(2, &["test.ron:11:", "`learning_rate`: -1"]);
}
