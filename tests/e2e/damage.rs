//! Whatever is damaged in a store is found, named in a line, and made again: just that, to the same bytes.

use crate::{layouts, space::TestSpace};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Reads texts, latents, the optimizer's state and, as `out/` is gone, whatever is delivered.
const LONGER: [&str; 2] = ["--set", "train.epochs=3"];

type Files = BTreeMap<PathBuf, Vec<u8>>;
type Executed = BTreeMap<String, Vec<String>>;

/// Puts a folder back as it was.
fn restore(space: &TestSpace, folder: &str, files: &Files) {
    drop(fs::remove_dir_all(space.path(folder)));
    for (path, bytes) in files {
        space.write(path.to_str().unwrap(), bytes);
    }
}

/// Flips a bit, cuts off a byte, cuts off everything, or removes the file.
fn damage(path: &Path, bytes: &[u8], how: usize) {
    fs::remove_file(path).unwrap();
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    match how % 4 {
        0 => bytes[middle] ^= 4,
        1 => drop(bytes.pop()),
        2 => bytes.clear(),
        _ => return,
    }
    fs::write(path, bytes).unwrap();
}

/// What was carried out beyond what would have been anyway.
fn surplus(runs: &[Executed], expected: &Executed) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (stage, labels) in runs.iter().flatten() {
        *counts.entry(stage.clone()).or_default() += labels.len();
    }
    for (stage, labels) in expected {
        let count = counts.get_mut(stage).unwrap_or_else(|| panic!("{stage} was not carried out: {runs:?}"));
        *count -= labels.len();
    }
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// The stage that makes such an object, if its journal tells.
fn maker(purpose: &str) -> Option<&'static str> {
    match purpose.split(' ').next().unwrap() {
        "text" => Some("text"),
        "latents" => Some("latents"),
        "weights" | "losses" | "state" => Some("train"),
        "checkpoint" | "file" => Some("export"),
        "image" | "sample-latents" | "sheet" => Some("sample"),
        // Of lists and items every action is known; prompts are encoded on the way, and verdicts found.
        "artifact" | "items" | "memo" | "verdicts" => None,
        other => panic!("{other}"),
    }
}

/// Damages each object of a store in turn, in one of four ways, and sees that a run, a repair and another run mend it.
fn each_object_is_mended(space: &TestSpace, longer: &[&str]) -> BTreeMap<String, usize> {
    space.run().succeeds();
    let store = space.files(".sd3pipe");
    space.run_with(longer).succeeds();
    let (expected, out) = (space.executed(), space.files("out"));
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let objects: Vec<&PathBuf> = store.keys().filter(|path| path.starts_with(".sd3pipe/objects")).collect();
    for (number, object) in objects.iter().enumerate() {
        restore(space, ".sd3pipe", &store);
        fs::remove_dir_all(space.path("out")).unwrap();
        damage(&space.path(object.to_str().unwrap()), &store[*object], number);
        let told = space.call(&["verify"]).fails(1, &["is damaged", "verify --repair"]).stdout;
        assert_eq!(told.lines().filter(|line| line.starts_with("object ")).count(), 1, "{told}");
        assert!(told.contains("1 fault"), "{told}");
        let purpose = told.split(['(', ')']).nth(1).unwrap().to_owned();

        let run = space.run_with(longer).succeeds();
        assert_eq!(space.files("out"), out, "{purpose}");
        let name = told.split(' ').nth(1).unwrap();
        let lines = run.stderr.lines().filter(|line| line.contains(name)).count();
        assert!(lines <= 1, "{purpose}: {}", run.stderr);
        let first = space.executed();
        space.call(&["verify", "--repair"]).succeeds();
        fs::remove_dir_all(space.path("out")).unwrap();
        space.run_with(longer).succeeds();
        assert_eq!(space.files("out"), out, "{purpose}");
        space.call(&["verify"]).succeeds().says("all sound");
        let surplus = surplus(&[first, space.executed()], &expected);
        // An epoch is reached from the first one, unless the state before it is kept.
        let most = if maker(&purpose) == Some("train") { 2 } else { 1 };
        let allowed = |(stage, count): (&String, &usize)| maker(&purpose) == Some(stage.as_str()) && *count <= most;
        assert!(surplus.iter().all(allowed), "{purpose}: {surplus:?}");
        *seen.entry(purpose.split(' ').next().unwrap().to_owned()).or_default() += usize::from(!surplus.is_empty());
    }
    seen
}

#[test]
fn each_object_that_is_damaged_is_made_again_and_nothing_else() {
    let seen = each_object_is_mended(&TestSpace::demo(), &LONGER);
    let roles: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(
        roles,
        [
            "artifact",
            "checkpoint",
            "image",
            "items",
            "latents",
            "losses",
            "memo",
            "sample-latents",
            "sheet",
            "state",
            "text",
            "verdicts",
            "weights"
        ]
    );
    for (role, made) in seen {
        // The longer run draws another sheet.
        assert_eq!(made > 0, maker(&role).is_some() && role != "sheet", "{role}");
    }
}

#[test]
fn each_file_of_a_folder_that_is_damaged_is_written_again() {
    let space = layouts::space("Export(layout: Diffusers, epochs: Last)");
    space.edit("test.ron", "epochs: 2", "epochs: 1");
    // Changes nothing: what is read is what is delivered.
    let seen = each_object_is_mended(&space, &["--set", "latents.batch=3"]);
    assert!(seen["file"] > 5 && seen["sheet"] == 1 && seen["image"] == 2, "{seen:?}");
}

#[test]
fn an_index_damaged_anywhere_is_told_by_verify_and_costs_time_only() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let (out, store) = (space.files("out"), space.files(".sd3pipe"));
    let index = Path::new(".sd3pipe/index.sqlite");
    let sound = &store[index];
    for part in 0..12 {
        restore(&space, ".sd3pipe", &store);
        fs::remove_dir_all(space.path("out")).unwrap();
        let mut bytes = sound.clone();
        let place = bytes.len() * part / 12 + 97 * part;
        bytes[place] ^= 0x5a;
        space.write(index.to_str().unwrap(), bytes);
        let told = space.call(&["verify"]);
        assert!(matches!(told.code, Some(0 | 1)), "{told:?}");
        space.run().succeeds();
        assert_eq!(space.files("out"), out, "byte {place}");
        space.call(&["verify", "--repair"]).succeeds();
        space.call(&["verify"]).succeeds().says("all sound");
        space.run().succeeds();
        assert_eq!(space.files("out"), out, "byte {place}");
    }
}

#[test]
fn a_damaged_journal_of_the_index_costs_time_only() {
    let space = TestSpace::demo();
    let mut child = space.command(&["run", "test.ron"]).stderr(Stdio::null()).spawn().unwrap();
    let journal = space.path(".sd3pipe/index.sqlite-wal");
    while fs::metadata(&journal).map_or(0, |metadata| metadata.len()) < 40_000 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let store = space.files(".sd3pipe");
    let sound = fs::read(&journal).unwrap();
    assert!(sound.len() >= 40_000, "it was killed in time");
    let undisturbed = TestSpace::demo();
    undisturbed.run().succeeds();
    for part in 0..6 {
        restore(&space, ".sd3pipe", &store);
        let mut bytes = sound.clone();
        let place = bytes.len() * part / 6 + 41 * part;
        bytes[place] ^= 0x5a;
        fs::write(&journal, bytes).unwrap();
        space.run().succeeds();
        assert_eq!(space.files("out"), undisturbed.files("out"), "byte {place} of the journal");
        space.call(&["verify"]).succeeds().says("all sound");
    }
}
