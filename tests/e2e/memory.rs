//! Optimizers and ways to save memory, through the whole program.

use crate::space::TestSpace;
use std::{thread::sleep, time::Duration};

const SMALL: [&str; 10] = [
    "--set",
    "train.optimizer=AdamW8bit(weight_decay: 0.1)",
    "--set",
    "train.weights=Bf16Stochastic",
    "--set",
    "train.checkpointing=Blocks",
    "--set",
    "train.groups=[(match: \"joint_blocks.0-0.*\", learning_rate: 0.5)]",
    "--set",
    "train.freeze=[\"context_embedder.*\"]",
];

#[test]
fn ways_to_go_about_a_step_change_no_byte_and_are_in_no_key() {
    let space = TestSpace::demo();
    space.run_with(&SMALL).succeeds();
    let expected = space.files("out");
    let other = [&SMALL[..], &["--set", "train.fused_step=true", "--set", "train.block_swap=1"]].concat();
    assert!(space.planned(&other).is_empty(), "they are in the key");
    std::fs::remove_dir_all(space.path("out")).unwrap();
    space.run_with(&[&other[..], &["--store", "empty-store"]].concat()).succeeds();
    assert_eq!(space.files("out"), expected);
}

/// States in 8 bits, weights in bf16, an account of an average: all of it is saved in the middle of an epoch, and goes on.
#[test]
fn a_killed_training_of_each_kind_goes_on_to_the_same_bytes() {
    for optimizer in ["AdamW8bit()", "AdamWScheduleFree()"] {
        let setting = format!("train.optimizer={optimizer}");
        let arguments = [&SMALL[2..], &["--set", &setting, "--set", "train.epochs=20", "--until", "export"]].concat();
        let undisturbed = TestSpace::demo();
        undisturbed.run_with(&arguments).succeeds();
        let space = TestSpace::demo();
        let mut child = space.command(&[&["run", "test.ron"], &arguments[..]].concat()).spawn().unwrap();
        let saved = || space.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors"));
        while !saved() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        space.run_with(&arguments).succeeds();
        assert_eq!(space.files("out"), undisturbed.files("out"), "{optimizer}");
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_an_error_of_the_plan_that_names_the_nearest() {
    let space = TestSpace::demo();
    for (setting, said) in [
        ("train.freeze=[\"joint_blocks.0-9.x_blok.*\"]", "joint_blocks.0.x_block."),
        ("train.groups=[(match: \"pos_embed\")]", "matches no tensor that is trained"),
        ("train.freeze=[\"*\"]", "nothing is left to train"),
    ] {
        space.call(&["plan", "test.ron", "--set", setting]).fails(1, &[said]);
    }
    let swap = ["plan", "test.ron", "--set", "train.checkpointing=Blocks", "--set", "train.block_swap=3"];
    space.call(&swap).fails(1, &["the model has 2 blocks"]);
}
