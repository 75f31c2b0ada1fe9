//! What can be watched of a training: its curves, and how a run has ended.

use crate::space::TestSpace;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

const LINES: &str = "out/test/tensorboard/train/metrics.jsonl";
const EVENTS: &str = "out/test/tensorboard/train/events.out.tfevents.sd3pipe";

/// How many points each curve has.
fn curves(space: &TestSpace) -> BTreeMap<String, usize> {
    let mut curves = BTreeMap::new();
    for line in String::from_utf8(space.read(LINES)).expect("a text").lines() {
        let point: Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(point["value"].is_f64() && point["step"].is_u64(), "{line}");
        *curves.entry(point["tag"].as_str().expect("a name").to_owned()).or_default() += 1;
    }
    curves
}

#[test]
fn curves_are_written_while_a_training_goes_on_and_are_the_same_after_a_kill() {
    let two_epochs = || {
        let space = TestSpace::small();
        space.edit("test.ron", "epochs: 1", "epochs: 2");
        space
    };
    let space = two_epochs();
    space.run_with(&["--until", "train"]).succeeds();
    let (lines, events) = (space.read(LINES), space.read(EVENTS));
    let steps = curves(&space)["loss/train"];
    assert!(steps > 1, "{:?}", curves(&space));
    assert_eq!(curves(&space)["train/learning_rate"], steps);

    // What was lost or scribbled over is put right by the next run, which trains nothing.
    space.write(LINES, "garbage");
    space.remove(EVENTS);
    space.run_with(&["--until", "train"]).succeeds().says("nothing to do");
    assert!(space.read(LINES) == lines && space.read(EVENTS) == events);

    let killed = two_epochs();
    // In the second epoch, so that there are steps before it, and some that are done twice.
    let fault = [("SD3PIPE_FAULT", "kill@state.rename:3")];
    let output = killed.command(&["run", "test.ron", "--until", "train"]).envs(fault).output().expect("it runs");
    assert!(!output.status.success());
    let so_far = killed.read(LINES);
    assert!(!so_far.is_empty() && lines.starts_with(&so_far), "written while it went on");
    killed.run_with(&["--until", "train"]).succeeds();
    assert!(killed.read(LINES) == lines && killed.read(EVENTS) == events);
}

#[test]
fn validations_are_among_the_curves() {
    let space = TestSpace::demo();
    space.edit("test.ron", "Train(", "Train(validation: (share: 0.5, timesteps: [300, 700]), ");
    space.run_with(&["--until", "train"]).succeeds();
    let curves = curves(&space);
    let epochs = curves["loss/held_out"];
    assert!(epochs > 0 && ["loss/seen", "held_out_at/300", "held_out_at/700"].iter().all(|tag| curves[*tag] == epochs));
}

/// By TensorBoard's own reader, where it is at hand: `SD3PIPE_TENSORBOARD` names a Python that has it.
#[test]
fn tensorboard_reads_the_curves() {
    let Some(python) = std::env::var_os("SD3PIPE_TENSORBOARD") else {
        return eprintln!("skipped: SD3PIPE_TENSORBOARD is not set");
    };
    let space = TestSpace::small();
    space.run_with(&["--until", "train"]).succeeds();
    let tool = crate::space::repository().join("tools/check_tensorboard.py");
    let output = Command::new(python).arg(tool).arg(space.path("out")).output().expect("a Python");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("loss/train"), "{said}");
}

#[test]
fn a_training_whose_curves_can_not_be_written_is_none_the_worse() {
    let space = TestSpace::small();
    space.write("out/test/tensorboard", "a file in the way");
    let said = space.run_with(&["--until", "train"]).succeeds().stderr;
    assert!(said.contains("note: no curves for TensorBoard"), "{said}");
}

#[test]
fn a_command_hears_how_a_run_has_ended_and_its_failure_is_none_of_the_run() {
    let space = TestSpace::small();
    let command = "echo \"$SD3PIPE_PIPELINE #$SD3PIPE_RUN: $SD3PIPE_OUTCOME, $SD3PIPE_ERROR\" > heard";
    space.run_with(&["--until", "captions", "--notify", command]).succeeds();
    assert_eq!(space.read("heard"), b"test #1: done, \n");
    space.write("photos/fig.txt", "a fig, edited");
    let fault = [("SD3PIPE_NOTIFY", command), ("SD3PIPE_FAULT", "ENOSPC@object.write:1")];
    let failed = space.command(&["run", "test.ron"]).envs(fault).output().expect("it runs");
    assert_eq!(failed.status.code(), Some(3));
    let heard = String::from_utf8(space.read("heard")).expect("a text");
    assert!(heard.starts_with("test #2: failed, ") && heard.len() > 20, "{heard}");
    let said = space.run_with(&["--until", "captions", "--notify", "exit 3"]).succeeds().stderr;
    assert!(said.contains("note: the notification's command ended with exit status: 3"), "{said}");
}

#[test]
fn samples_in_between_leave_the_same_bytes_and_are_there_while_the_training_goes_on() {
    let (plain, watched) = (TestSpace::small(), TestSpace::small());
    for space in [&plain, &watched] {
        space.edit("test.ron", "epochs: 1", "epochs: 3");
    }
    plain.run().succeeds();
    // Ends while the second part is trained.
    let fault = [("SD3PIPE_FAULT", "kill@state.rename:3")];
    let run = ["run", "test.ron", "--sample-every", "1"];
    let killed = watched.command(&run).envs(fault).output().expect("it runs");
    assert!(!killed.status.success());
    assert!(watched.path("out/test/samples/epoch-1-prompt-1-seed-1.png").exists());
    assert!(!watched.path("out/test/samples/epoch-3-prompt-1-seed-1.png").exists());
    watched.call(&run).succeeds();
    assert!(watched.files("out") == plain.files("out"));
    // Nothing was drawn or exported twice, and there is nothing left to do.
    watched.run().succeeds().says("nothing to do");
    let executed = watched.call(&["show", "2", "--json"]).succeeds().json();
    let stages = executed["journal"]["stages"].as_array().expect("stages");
    let sample = stages.iter().find(|stage| stage["name"] == "sample").expect("the samples");
    let mut drawn: Vec<&str> =
        sample["executed"].as_array().expect("labels").iter().filter_map(Value::as_str).collect();
    drawn.retain(|label| *label != "contact sheet");
    drawn.sort_unstable();
    let all = drawn.len();
    drawn.dedup();
    assert_eq!(drawn.len(), all, "{drawn:?}");
}

/// What stands on a terminal in the end that knows lines up and down, the start of a line, and a cleared line.
fn on_screen(output: &str) -> Vec<String> {
    let (mut lines, mut row, mut column) = (vec![Vec::new()], 0_usize, 0);
    let mut rest = output.chars();
    while let Some(symbol) = rest.next() {
        match symbol {
            '\r' => column = 0,
            '\n' => row += 1,
            '\u{1b}' => match rest.by_ref().take(3).collect::<String>().as_str() {
                "[1A" => row = row.checked_sub(1).expect("a line above"),
                "[1B" => row += 1,
                "[2K" => lines[row].clear(),
                other => panic!("a terminal is asked for {other:?}"),
            },
            symbol => {
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = symbol;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn on_a_terminal_a_bar_stays_in_its_line_and_leaves_nothing() {
    if !Command::new("script").arg("--version").output().is_ok_and(|said| said.status.success()) {
        eprintln!("skipped: it takes a terminal, which `script` makes");
        return;
    }
    let space = TestSpace::demo();
    let mut command = Command::new("script");
    let run = format!("{} run test.ron", space.command(&[]).get_program().display());
    command.args(["-qefc", &run, "/dev/null"]).current_dir(space.path("")).env_remove("SD3PIPE_STORE");
    let output = command.env("NO_COLOR", "1").stdin(Stdio::null()).output().expect("`script` starts");
    let raw = String::from_utf8(output.stdout).expect("a text");
    assert!(output.status.success(), "{raw}");
    assert!(
        raw.contains('█') && raw.contains(" left · ") && raw.contains("epoch 2 · loss "),
        "no bar was drawn: {raw}"
    );
    let screen = on_screen(&raw);
    assert!(
        !screen.iter().any(|line| line.contains('█') || line.contains('░') || line.contains(" left")),
        "{screen:#?}"
    );
    for said in ["curves: tensorboard --logdir out/test/tensorboard", "wrote out/test/report.html"] {
        assert_eq!(screen.iter().filter(|line| *line == said).count(), 1, "{said}: {screen:#?}");
    }
    assert!(screen.iter().any(|line| line.starts_with("train      ran    2 of 2")), "{screen:#?}");
}
