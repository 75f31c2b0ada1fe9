//! Two runs side by side.

use crate::space::TestSpace;

#[test]
fn what_differs_between_two_runs_is_told() {
    let space = TestSpace::small();
    space.run().succeeds();
    space.write("photos/fig.txt", "a ripe fig");
    space.run_with(&["--set", "train.learning_rate=5e-4", "--set", "text.batch=3"]).succeeds();
    let told = space.call(&["diff", "1", "test", "--out", "pairs"]).succeeds();
    for said in [
        "#1",
        "#2",
        "train.learning_rate",
        "0.001",
        "→ 0.0005",
        "text.batch",
        "caption of fig.png changed",
        "+ a ripe fig",
    ] {
        assert!(told.stdout.contains(said), "not said: {said}\n{}", told.stdout);
    }
    let told = told.says("losses of train").says("epoch-1, seed 1: a cat").says("1 are equal");
    assert!(!told.stdout.contains("only in"), "{}", told.stdout);
    let right = space.read("out/test/samples/epoch-1-prompt-1-seed-1.png");
    assert_eq!(space.read("pairs/sample-002-epoch-1-seed-1-run-2.png"), right);
    assert_ne!(space.read("pairs/sample-002-epoch-1-seed-1-run-1.png"), right);

    let json = space.call(&["diff", "1", "2", "--json"]).succeeds().json();
    assert_eq!(json["parameters"].as_array().unwrap().len(), 2);
    assert_eq!(json["losses"]["train"][1][0]["epoch"], 1);
    space.call(&["diff", "2", "last"]).succeeds().says("the same was set and read").says("2 are equal");
    space.call(&["diff", "2", "nobody"]).fails(2, &["`nobody` is not the number of a run"]);
}

#[test]
fn points_of_a_grid_are_compared_like_runs() {
    let space = TestSpace::small();
    space.run_with(&["--set", "grid={\"train.seed\": [1, 2], \"sample.cfg\": [1.0, 2.0]}"]).succeeds();
    let told = space
        .call(&["diff", "last@seed=1,cfg=2.0", "last@seed=2,cfg=2.0"])
        .succeeds()
        .says("train.seed")
        .says("losses of train");
    for said in ["sample.cfg", "only in", "sample.export", "export.train"] {
        assert!(!told.stdout.contains(said), "said: {said}\n{}", told.stdout);
    }
    space.call(&["diff", "last@seed=3", "last@seed=1"]).fails(2, &["no point `seed=3`", "it has seed=1 and"]);
    // The stages of a grid have names of their own.
    space.run_with(&["--until", "text"]).succeeds();
    space.call(&["diff", "1", "2"]).succeeds().says("train@seed=1 is only in #1");
}
