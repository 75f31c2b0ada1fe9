//! A grid of experiments as its users meet it: one run, names that say the point, a folder and a row for each.

use crate::space::TestSpace;

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
