//! A second run, a second pipeline, another folder: what is equal is not made twice.

use crate::space::{PIPELINE, TestSpace};

#[test]
fn a_second_run_executes_nothing_and_names_what_it_reused() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let before = space.files("out");
    space.run().succeeds().says("nothing to do: reused captions, text, latents, train, export, sample");
    assert!(space.executed().is_empty());
    assert_eq!(space.files("out"), before);
}

#[test]
fn a_plan_writes_nothing_anywhere() {
    let space = TestSpace::demo();
    space.call(&["plan", "test.ron"]).succeeds().says("never run before");
    assert!(!space.path(".sd3pipe").exists());
    space.run().succeeds();
    let before = space.files("");
    space.write("photos/wall-clock.txt", "another");
    space.call(&["plan", "test.ron"]).succeeds();
    space.call(&["why", "test.ron", "train"]).succeeds();
    space.call(&["status", "test.ron"]).succeeds();
    space.write("photos/wall-clock.txt", &before[std::path::Path::new("photos/wall-clock.txt")]);
    assert_eq!(space.files(""), before);
}

#[test]
fn the_same_data_in_another_folder_and_on_another_store_gives_the_same_bytes() {
    let (one, other) = (TestSpace::demo(), TestSpace::demo());
    one.run().succeeds();
    other.rename("photos", "pictures of mine");
    other.edit("test.ron", "photos", "pictures of mine");
    other.command(&["run", "test.ron"]).env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert_eq!(one.files("out"), other.files("out"));
}

#[test]
fn two_pipelines_on_one_store_share_what_is_equal() {
    let space = TestSpace::demo();
    space.run_with(&["--until", "latents"]).succeeds();
    space.write(
        "other.ron",
        PIPELINE.replace("name: \"test\"", "name: \"other\"").replace("2, learning_rate", "1, learning_rate"),
    );
    space.call(&["run", "other.ron", "--until", "latents"]).succeeds().says("nothing to do");
}

#[test]
fn a_stage_that_is_forced_is_done_anew_with_the_same_result() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let before = space.files("out");
    space.run_with(&["--force", "train"]).succeeds();
    assert_eq!(
        space.executed().into_iter().collect::<Vec<_>>(),
        [("train".to_owned(), vec!["epoch 1".to_owned(), "epoch 2".to_owned()])]
    );
    assert_eq!(space.files("out"), before);
}

#[test]
fn a_result_that_was_deleted_from_out_is_put_back_without_work() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let before = space.files("out");
    space.remove("out/test/contact-sheet.png");
    space.write("out/test/checkpoints/test-epoch-0001.safetensors", "scribbled over");
    space.run().succeeds().says("nothing to do");
    assert_eq!(space.files("out"), before);
}

/// Promise 8: damage is found on read, and just that is made again.
#[test]
fn a_damaged_or_deleted_object_is_made_again() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let out = space.files("out");
    let objects: Vec<_> = space.files(".sd3pipe/objects").into_iter().collect();
    for (path, bytes) in objects {
        let path = space.path(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        if bytes.len() % 2 == 0 {
            std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
        // Reads everything from the stage after the one whose object is gone.
        std::fs::remove_dir_all(space.path("out")).unwrap();
        space.run_with(&["--force", "sample", "--force", "train"]).succeeds();
        assert_eq!(space.files("out"), out, "after the loss of {}", path.display());
    }
}

#[test]
fn a_damaged_index_costs_time_and_nothing_else() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let out = space.files("out");
    for damage in [&b""[..], b"garbage that is no database at all"] {
        for name in [".sd3pipe/index.sqlite-wal", ".sd3pipe/index.sqlite-shm"] {
            drop(std::fs::remove_file(space.path(name)));
        }
        space.write(".sd3pipe/index.sqlite", damage);
        space.run().succeeds();
        assert_eq!(space.files("out"), out);
    }
}
