//! A disk that is full, broken or closed: the run says so with the path and the remedy, leaves nothing torn, and goes on later.

use crate::{
    lab::{LEFT_COPY, Lab, STEPS, Scenario},
    space::{Outcome, TestSpace},
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

/// Steps whose failure leaves something in the way and is nothing to fail for.
const TOLERATED: [&str; 3] = ["deliver.sweep", "lock.remove", "sweep.remove"];
/// What an error may advise.
const REMEDIES: [&str; 5] =
    ["make room", "let this user write there", "check the disk", "check its permissions", "raise the limit"];

/// It ended because it could not write, and said what people need to know.
fn refused(space: &TestSpace, outcome: &Outcome, why: &str) {
    let (code, said) = (outcome.code, &outcome.stderr);
    assert!([Some(1), Some(3)].contains(&code), "{why}: {code:?}\n{said}");
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{why}: {said}"));
    assert!(error.contains(&*space.path("").to_string_lossy()), "{why}: no path: {error}");
    assert!(REMEDIES.iter().any(|remedy| error.contains(remedy)), "{why}: no remedy: {error}");
}

/// Promise 7, for every step that can fail, once and from then on.
#[test]
fn a_run_that_can_not_write_says_so_and_the_next_goes_on_to_the_same_bytes() {
    let lab = Lab::new(&Scenario::ALL);
    let mut cases = Vec::new();
    let mut seen = BTreeSet::new();
    for scenario in Scenario::ALL {
        for (step, count) in lab.passages(scenario) {
            // In the first scenario that comes by the step, in the middle.
            if seen.insert(step.to_owned()) {
                let passage = count.div_ceil(2);
                for kind in ["ENOSPC", "EIO", "EACCES"] {
                    cases.extend(["", "+"].map(|on| (scenario, (kind, step, format!("{passage}{on}")))));
                }
            }
        }
    }
    assert_eq!(seen, STEPS.map(str::to_owned).into());
    lab.each(&cases, |space, scenario, (kind, step, passage)| {
        let fault = format!("{kind}@{step}:{passage}");
        let why = format!("{scenario:?}, {fault}");
        let output = space.command(&["run", "test.ron"]).env("SD3PIPE_FAULT", &fault).output().expect("it runs");
        let outcome = Outcome::of(output);
        if TOLERATED.contains(step) {
            assert_eq!(outcome.code, Some(0), "{why}: {}", outcome.stderr);
            // In `out/` the next copy would try again.
            drop(fs::remove_file(space.path(LEFT_COPY)));
        } else {
            refused(space, &outcome, &why);
            let counted = ["object.create", "object.write", "object.sync", "tensors.", "format.write", "deliver.copy"];
            if *kind == "ENOSPC" && counted.iter().any(|counted| step.starts_with(counted)) {
                assert!(outcome.stderr.contains("bytes were to be written"), "{why}: {}", outcome.stderr);
            }
        }
        lab.goes_on(space, scenario, &why);
    });
    println!("{} failures of {} steps", cases.len(), seen.len());
}

/// The product's own words, once: path, bytes, remedy.
#[test]
fn a_full_disk_is_told_with_the_path_the_bytes_and_the_remedy() {
    let lab = Lab::new(&[Scenario::Fresh]);
    lab.each(&[(Scenario::Fresh, ())], |space, _, ()| {
        let full = |fault: &str| {
            let mut command = space.command(&["run", "test.ron"]);
            Outcome::of(command.env("SD3PIPE_FAULT", fault).output().expect("it runs"))
        };
        full("ENOSPC@tensors.write:3").fails(
            1,
            &[
                "error: train: cannot write ",
                "No space left on device (os error 28); ",
                " bytes were to be written; make room on the disk and run again, what was finished is kept; \
                 or choose another store with --store or SD3PIPE_STORE",
            ],
        );
        let space_left = "error: export: cannot write ";
        full("ENOSPC@deliver.copy:1+")
            .fails(1, &[space_left, "test-epoch-0001.safetensors", "bytes were to be written"]);
        full("ENOSPC@record.commit:1+").fails(1, &["index.sqlite: ", "database or disk is full", "make room"]);
        // What could not be recorded is not said to be kept.
        space.call(&["show", "last"]).succeeds();
        assert!(!space.executed().contains_key("sample"), "{:?}", space.executed());
    });
}

/// The real thing, from outside: files may not grow beyond some size.
#[test]
fn a_limit_on_the_size_of_files_is_told_or_kills_and_loses_nothing() {
    let lab = Lab::new(&[Scenario::Fresh]);
    // In blocks of 512 bytes: too little for the index, and too little for weights, a checkpoint and a training's state.
    let cases: Vec<_> = [20, 100, 400, 4000]
        .into_iter()
        .flat_map(|blocks| [true, false].map(|told| (Scenario::Fresh, (blocks, told))))
        .collect();
    lab.each(&cases, |space, scenario, (blocks, told)| {
        // Without a trap the system kills the program that writes too much.
        let trap = if *told { "trap '' XFSZ; " } else { "" };
        let script = format!("{trap}ulimit -f {blocks}; exec \"$0\" run test.ron");
        let program = space.command(&[]).get_program().to_owned();
        let output = Command::new("sh").args(["-c", &script]).arg(program).current_dir(space.path("")).output();
        let output = output.expect("sh starts");
        let why = format!("{blocks} blocks, told: {told}");
        match told {
            true => refused(space, &Outcome::of(output), &why),
            false => assert!(output.status.code().is_none(), "{why}: {}", output.status),
        }
        lab.goes_on(space, scenario, &why);
    });
}

/// The real thing: a small file system of its own for the store. Needs the right to mount one.
#[test]
fn a_disk_that_is_really_full_is_told_and_loses_nothing() {
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let lab = Lab::new(&[Scenario::Fresh]);
    let cases = [200, 700, 2000, 5000, 8000].map(|kibibytes| (Scenario::Fresh, kibibytes));
    lab.each(&cases, |space, scenario, kibibytes| {
        let script = format!(
            "mkdir .sd3pipe && mount -t tmpfs -o size={kibibytes}k none .sd3pipe || exit 99
            \"$0\" run test.ron --ignore-space; code=$?; cp -a .sd3pipe kept; exit $code"
        );
        let program = space.command(&[]).get_program().to_owned();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).arg(program).current_dir(space.path(""));
        let outcome = Outcome::of(command.output().expect("unshare starts"));
        let why = format!("{kibibytes} KiB");
        refused(space, &outcome, &why);
        assert!(outcome.stderr.contains("make room"), "{why}: {}", outcome.stderr);
        fs::remove_dir(space.path(".sd3pipe")).expect("the mount is gone");
        space.rename("kept", ".sd3pipe");
        lab.goes_on(space, scenario, &why);
    });
}

/// The real thing: folders in which this user may not write.
#[test]
fn a_folder_that_may_not_be_written_is_told_and_loses_nothing() {
    let lab = Lab::new(&[Scenario::Edited]);
    let folders = [
        ".sd3pipe",
        ".sd3pipe/tmp",
        ".sd3pipe/locks",
        ".sd3pipe/work",
        ".sd3pipe/objects",
        "out/test/checkpoints",
        "out/test/samples",
    ];
    lab.each(&folders.map(|folder| (Scenario::Edited, folder)), |space, scenario, folder| {
        let mut command = space.command(&["run", "test.ron"]);
        if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
            // Nothing is closed to root.
            give_away(&space.path(""));
            command.uid(NOBODY).gid(NOBODY);
        }
        let set = |mode: u32| fs::set_permissions(space.path(folder), fs::Permissions::from_mode(mode));
        set(0o555).expect("a folder of this user");
        let output = command.output();
        set(0o755).expect("a folder of this user");
        match output {
            Ok(output) => refused(space, &Outcome::of(output), folder),
            Err(error) => println!("skipped: the program can't be started by another user: {error}"),
        }
        lab.goes_on(space, scenario, folder);
    });
}

const NOBODY: u32 = 65534;

fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    if path.is_dir() {
        fs::read_dir(path).expect("a folder").for_each(|entry| give_away(&entry.expect("an entry").path()));
    }
}
