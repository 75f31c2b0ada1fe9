//! Trainings that start from what another run has trained, or from a file.

use crate::space::TestSpace;

/// A pipeline that goes on from another one's first epoch, after that one was run.
fn spaces() -> TestSpace {
    let space = TestSpace::demo();
    space.edit("test.ron", "Export()", "Export(precision: F32)");
    space.run().succeeds();
    space.write(
        "more.ron",
        r#"(extends: "test.ron", name: "more", stages: {"train": Train(init: Run(run: "test", epoch: 1), epochs: 1)})"#,
    );
    space
}

fn more(space: &TestSpace, init: &str) -> crate::space::Outcome {
    space.call(&["run", "more.ron", "--set", &format!("train.init={init}")])
}

const FIRST: &str = "out/test/checkpoints/test-epoch-0001.safetensors";

/// However they are named, the same weights are the same start; and a start is what a model with those weights would be.
#[test]
fn a_training_starts_from_the_weights_and_not_from_their_name() {
    let space = spaces();
    let run = space.call(&["run", "more.ron"]).succeeds();
    assert_eq!(space.executed()["train"], ["epoch 1"], "{}", run.stdout);
    assert!(!space.executed().contains_key("text"));
    space.call(&["why", "more.ron", "train"]).succeeds().says("init: starts from epoch 1 of train in run 1 (test)");
    space.call(&["run", "more.ron"]).succeeds().says("nothing to do");
    let file = format!("File({FIRST:?})");
    for same in [
        r#"Run(run: "1", epoch: 1)"#,
        r##"Run(run: "#1", epoch: 1, stage: "train")"##,
        r#"Run(run: "last", epoch: 1)"#,
        &file,
    ] {
        more(&space, same).succeeds().says("nothing to do");
    }

    // The other way: a model with these weights, trained in an empty store.
    space.write("model/first.safetensors", space.read(FIRST));
    space.write(
        "whole.ron",
        r#"(extends: "test.ron", name: "whole", model: (checkpoint: "model/first.safetensors"), stages: {"train": Train(epochs: 1)})"#,
    );
    space.call(&["run", "whole.ron", "--until", "export", "--store", "elsewhere"]).succeeds();
    let tensors = |name: &str| {
        let file = space.read(&format!("out/{name}/checkpoints/{name}-epoch-0001.safetensors"));
        let (header, _) = safetensors::SafeTensors::read_metadata(&file).unwrap();
        file[8 + header..].to_vec()
    };
    assert!(tensors("more") == tensors("whole") && tensors("more") != tensors("test"));
    space.call(&["run", "whole.ron", "--until", "export"]).succeeds();
    assert!(!space.executed().contains_key("train"), "{:?}", space.executed());
}

#[test]
fn another_start_is_another_training_and_says_why() {
    let space = spaces();
    space.call(&["run", "more.ron"]).succeeds();
    let setting = r#"train.init=Run(run: "test")"#;
    let cause = "init: starts from other weights, epoch 2 of train in run 1 (test)";
    space.call(&["plan", "more.ron", "--set", setting]).succeeds().says(cause);
    space.call(&["why", "more.ron", "train", "--set", setting]).succeeds().says(cause);
    more(&space, r#"Run(run: "test")"#).succeeds();
    assert_eq!(space.executed()["train"], ["epoch 1"]);
    more(&space, r#"Run(run: "test", epoch: 1)"#).succeeds().says("export");
    assert!(!space.executed().contains_key("train"), "the first start is still known");
}

#[test]
fn a_run_again_that_comes_to_the_same_weights_trains_nothing_and_one_that_does_not_does() {
    let space = spaces();
    space.call(&["run", "more.ron"]).succeeds();
    space.run_with(&["--set", "train.epochs=3"]).succeeds();
    space.call(&["run", "more.ron"]).succeeds().says("nothing to do");
    space.run_with(&["--set", "train.seed=7"]).succeeds();
    space.call(&["run", "more.ron"]).succeeds();
    assert_eq!(space.executed()["train"], ["epoch 1"]);
}

#[test]
fn a_start_that_is_not_there_is_told_before_anything_runs() {
    let space = spaces();
    let fresh = ["run", "more.ron", "--store", "elsewhere"];
    space.call(&fresh).fails(1, &["no run `test` in this store that has trained", "sd3pipe runs"]);
    for (init, said) in [
        (r#"Run(run: "99")"#, "there is no run `99` in this store that has trained"),
        (r#"Run(run: "mills")"#, "there is no run `mills`"),
        (r#"Run(run: "test", epoch: 9)"#, "there is no epoch 9 of train in run 1; it has 1 to 2"),
        (r#"Run(run: "test", stage: "tain")"#, "run 1 trained in the stages train; say which"),
        (r#"Run(run: "more")"#, "`more` is this pipeline, whose last run is another one each time"),
        (r#"File("model/clip_l.safetensors")"#, "model/clip_l.safetensors"),
    ] {
        more(&space, init).fails(1, &["train: ", said]);
    }
    more(&space, r#"File("nowhere.safetensors")"#).fails(2, &["there is no file or folder `nowhere.safetensors`"]);
    space.write("out/more/checkpoints/x.safetensors", space.read(FIRST));
    more(&space, r#"File("out/more/checkpoints/x.safetensors")"#)
        .fails(2, &["`init` starts from what `more` writes itself", "name the run that made it"]);
    assert!(!space.path("out/more/contact-sheet.png").exists());
}

#[test]
fn weights_that_the_store_has_lost_are_told_and_not_looked_for_for_ever() {
    let space = spaces();
    let weights = space.files(".sd3pipe/objects").into_iter().filter(|(_, bytes)| {
        safetensors::SafeTensors::deserialize(bytes).is_ok_and(|file| file.names().contains(&"pos_embed"))
    });
    for (path, mut bytes) in weights {
        *bytes.last_mut().unwrap() ^= 1;
        space.write(path.to_str().unwrap(), bytes);
    }
    let said = "the weights of train in run 1 are not in the store any more; make them again with `sd3pipe run … --force train`";
    space.call(&["run", "more.ron"]).fails(1, &[said]);
    space.run_with(&["--force", "train"]).succeeds();
    space.call(&["run", "more.ron"]).succeeds();
}
