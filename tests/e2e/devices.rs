//! Runs on several devices: so many threads of the CPU.

use crate::space::{TestSpace, wait_until};
use serde_json::Value;
use std::process::{Command, Stdio};

const TRAIN: &str = r#"Train(epochs: 2, batch: 2, accumulate: 2, learning_rate: 1e-3, precision: F32, average: (), save_every: 1,
    schedule: Constant(), optimizer: AdamW8bit(), validation: (share: 0.4)),"#;
const LINE: &str =
    r#"Train(epochs: 2, batch: 2, learning_rate: 1e-3, schedule: Constant(), precision: F32, save_every: 1),"#;

fn space(devices: &str) -> TestSpace {
    let space = TestSpace::demo();
    space.edit("test.ron", LINE, TRAIN);
    space.edit("test.ron", "device: Cpu", devices);
    space
}

/// Each step's loss, which the store has by epoch.
fn losses(space: &TestSpace) -> Vec<f64> {
    let of_epoch = |bytes: Vec<u8>| serde_json::from_slice::<Vec<Value>>(&bytes).ok();
    let steps = space.files(".sd3pipe/objects").into_values().filter_map(of_epoch).flatten();
    let number = |step: &Value, field: &str| step.get(field).and_then(Value::as_f64);
    let mut losses: Vec<(f64, f64)> =
        steps.filter_map(|step| Some((number(&step, "step")?, number(&step, "loss")?))).collect();
    losses.sort_by(|one, other| one.0.total_cmp(&other.0));
    losses.into_iter().map(|(_, loss)| loss).collect()
}

#[test]
fn several_devices_have_the_losses_of_one_and_the_same_key() {
    let alone = space("device: Cpu");
    alone.run().succeeds();
    let expected = losses(&alone);
    assert!(expected.len() >= 4, "{expected:?}");
    for devices in ["devices: Cpu(2)", "devices: Cpu(3)"] {
        let several = space(devices);
        several.run().succeeds();
        let found = losses(&several);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() < 1e-3, "{devices}: {found} and not {expected}");
        }
        // What is made is made, on however many.
        several.edit("test.ron", devices, "device: Cpu");
        several.run().succeeds().says("nothing to do");
    }
}

/// The state is whole whatever device owned which part of it.
#[test]
fn a_training_that_is_stopped_on_two_devices_goes_on_on_one_and_on_three() {
    let epochs = ["--set", "train.epochs=30"];
    let run = |space: &TestSpace| space.call(&[&["run", "test.ron", "--until", "train"][..], &epochs].concat());
    let alone = space("device: Cpu");
    run(&alone).succeeds();
    let several = space("devices: Cpu(2)");
    let mut command = several.command(&[&["run", "test.ron", "--until", "train"][..], &epochs].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    wait_until("a saved state", || {
        several.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors"))
    });
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let before = losses(&several).len();
    several.edit("test.ron", "devices: Cpu(2)", "devices: Cpu(3)");
    several.call(&[&["run", "test.ron", "--until", "train"][..], &["--set", "train.epochs=29"]].concat()).succeeds();
    several.edit("test.ron", "devices: Cpu(3)", "device: Cpu");
    run(&several).succeeds();
    let (found, expected) = (losses(&several), losses(&alone));
    assert!(
        before < expected.len() && found.len() == expected.len(),
        "{before}, {} and {}",
        found.len(),
        expected.len()
    );
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} and not {expected}");
    }
}

#[test]
fn devices_that_cannot_be_had_are_refused() {
    let space = space("devices: Cuda([])");
    space.call(&["plan", "test.ron"]).fails(2, &["names no GPU", "devices: All"]);
    space.edit("test.ron", "devices: Cuda([])", "device: Cpu, devices: Cpu(2)");
    space.call(&["plan", "test.ron"]).fails(2, &["`devices` says where it computes too"]);
}
