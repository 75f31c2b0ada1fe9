//! Two machines with stores of their own that share results through a remote one.

use super::{Journal, Options, Space, lines};
use crate::{
    plan::{Planner, State},
    run::fetched,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A remote store, and machines that name it.
struct Team {
    remote: TempDir,
}

impl Team {
    fn new() -> Self {
        Self { remote: tempfile::tempdir().unwrap() }
    }

    fn setting(&self) -> String {
        format!("store.remote={:?}", self.remote.path().join("shared"))
    }

    /// Runs with the remote store and gives the journal; the run ends well.
    fn run(&self, space: &Space, settings: &[&str]) -> Journal {
        self.run_with(space, settings, Options::default())
    }

    fn run_with(&self, space: &Space, settings: &[&str], options: Options) -> Journal {
        let setting = self.setting();
        let (journal, result) = space.run(&[&[setting.as_str()], settings].concat(), options);
        result.expect("the run ends well");
        journal
    }

    fn executed(&self, space: &Space, settings: &[&str]) -> Vec<String> {
        lines(&self.run(space, settings))
    }

    /// Every file of the remote store with its bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(self.remote.path())
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
    files.map(|path| (path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// Checkpoints and samples.
fn results(space: &Space) -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
    ["checkpoints", "samples"].map(|folder| files(&space.path("out/keys").join(folder)))
}

fn has_object(space: &Space, content: &[u8]) -> bool {
    space.store().has(&sd3pipe_cache::Digest::of(content), content.len() as u64)
}

/// What the test's engine makes of an epoch: its action's key.
fn weights(space: &Space, journal: &Journal, epoch: usize) -> Vec<u8> {
    let result = journal.stages.iter().find(|stage| stage.name == "train").unwrap().result.unwrap();
    let artifact = crate::plan::StageResult::stored(result).artifact(Some(&space.store())).unwrap();
    let digest = artifact.of("weights").nth(epoch).unwrap().digest;
    space.store().read(&digest).unwrap()
}

#[test]
fn what_one_machine_made_no_other_makes() {
    let (team, one, other) = (Team::new(), Space::new(), Space::new());
    let made = team.run(&one, &[]);
    let found = team.run(&other, &[]);
    assert_eq!(lines(&found), [""; 0]);
    let counts: Vec<usize> = found.stages.iter().map(|stage| stage.fetched).collect();
    assert!(counts[0] == 0 && counts[1..].iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(made.keys, found.keys);
    assert_eq!(results(&one), results(&other));
    // Weights that nothing has asked for stay where they are.
    let epoch = weights(&one, &made, 0);
    assert!(has_object(&one, &epoch) && !has_object(&other, &epoch));
    assert!(one.notices.borrow().is_empty() && other.notices.borrow().is_empty());
    // What a plan says of it without asking anybody.
    let (resolved, store) = (other.resolve(&[&team.setting()]), other.store());
    let mut planner = Planner::new(&resolved, Some(&store), BTreeSet::new(), BTreeMap::new());
    planner.take_as_far(fetched(&resolved, Some(&store)).unwrap());
    let survey = planner.survey(0..resolved.stages.len(), &mut vec![None; resolved.stages.len()]).unwrap();
    assert!(survey.into_iter().flatten().all(|examined| matches!(examined.state, State::Kept { .. })));
    // A remote store is in no key.
    assert_eq!(Space::new().run(&[], Options::default()).0.keys, made.keys);
}

#[test]
fn a_machine_makes_only_what_no_other_has() {
    let (team, one) = (Team::new(), Space::new());
    let made = team.run(&one, &[]);
    let all_of = |stage: &str, executed: &[String]| executed.iter().all(|line| line.starts_with(stage));

    let other = Space::new();
    let executed = team.executed(&other, &["sample.cfg=3.0"]);
    assert!(!executed.is_empty() && all_of("sample", &executed), "{executed:?}");
    assert!(!has_object(&other, &weights(&one, &made, 0)));

    let other = Space::new();
    let executed = team.executed(&other, &["export.precision=F32", "sample.cfg=3.0"]);
    assert!(!executed.iter().any(|line| line.starts_with("train")), "{executed:?}");
    assert!(has_object(&other, &weights(&one, &made, 0)), "an export reads it");

    let other = Space::new();
    assert_eq!(team.executed(&other, &["train.epochs=3"])[0], "train: epoch 3");

    let other = Space::new();
    fs::write(other.path("photos/b.txt"), "another").unwrap();
    let executed = team.executed(&other, &[]);
    assert_eq!(executed[..2], ["text: b.png", "train: epoch 1"]);
    // And what that one has made the first needs not make.
    fs::write(one.path("photos/b.txt"), "another").unwrap();
    assert_eq!(team.executed(&one, &[]), [""; 0]);
}

#[test]
fn what_was_made_before_is_sent_by_the_next_run() {
    let (team, one, other) = (Team::new(), Space::new(), Space::new());
    one.executed(&[]);
    assert_eq!(team.executed(&one, &[]), [""; 0]);
    let sent = team.files();
    assert!(!sent.is_empty());
    assert_eq!(team.executed(&other, &[]), [""; 0]);
    team.run(&one, &[]);
    assert_eq!(team.files(), sent, "nothing is sent twice");
}

#[test]
fn what_is_damaged_there_is_made_here() {
    let (team, one, right) = (Team::new(), Space::new(), Space::new());
    team.run(&one, &[]);
    let settings = ["export.precision=F32", "store.mode=ReadOnly"];
    right.executed(&settings[..1]);
    let sound = team.files();
    let mut made = Vec::new();
    for (number, path) in sound.keys().enumerate().step_by(2) {
        let place = team.remote.path().join(path);
        match number % 3 {
            0 => fs::remove_file(&place).unwrap(),
            1 => fs::write(&place, sound[path].iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()).unwrap(),
            _ => fs::write(&place, &sound[path][1..]).unwrap(),
        }
        let other = Space::new();
        made.push(team.executed(&other, &settings).len());
        assert_eq!(results(&other), results(&right), "{}", path.display());
        fs::write(&place, &sound[path]).unwrap();
    }
    // Two checkpoints, their pictures and the sheet; more where something was damaged that they are made of.
    assert!(made.iter().all(|count| *count >= 5) && made.iter().any(|count| *count > 5), "{made:?}");
}

#[test]
fn what_is_damaged_there_is_mended_by_who_makes_it() {
    let (team, one, other, third) = (Team::new(), Space::new(), Space::new(), Space::new());
    team.run(&one, &[]);
    let sound = team.files();
    for path in sound.keys().filter(|path| path.iter().any(|part| part == "objects")) {
        fs::write(team.remote.path().join(path), "something else").unwrap();
    }
    assert_eq!(team.executed(&other, &[]).len(), 4 + 3 + 2 + 2 + 4);
    assert!(other.notices.borrow()[0].contains("came with other bytes"), "{:?}", other.notices);
    assert_eq!(team.executed(&third, &[]), [""; 0]);
    assert_eq!(results(&third), results(&one));
}

#[test]
fn who_only_reads_changes_nothing_there() {
    let (team, one, other) = (Team::new(), Space::new(), Space::new());
    team.run(&one, &[]);
    let before = team.files();
    let executed = team.executed(&other, &["store.mode=ReadOnly", "train.epochs=3"]);
    assert_eq!(executed[0], "train: epoch 3");
    assert_eq!(team.files(), before);
}

#[test]
fn without_anybody_there_a_run_goes_on_alone() {
    let (team, space) = (Team::new(), Space::new());
    let executed = team.executed(&space, &["store.mode=ReadOnly"]);
    assert_eq!(executed.len(), 4 + 3 + 2 + 2 + 4);
    let notices = space.notices.borrow();
    assert!(notices.len() == 1 && notices[0].contains("going on with the local one"), "{notices:?}");
}

#[test]
fn what_was_pulled_is_there_without_the_remote_store() {
    let (team, one, other) = (Team::new(), Space::new(), Space::new());
    team.run(&one, &[]);
    let journal = team.run_with(&other, &[], Options { only_fetch: true, ..Options::default() });
    assert!(lines(&journal).is_empty() && !other.path("out").exists());
    assert_eq!(other.executed(&[]), [""; 0]);
    // Item by item too, and all that a longer training goes on from.
    assert_eq!(other.executed(&["train.epochs=3"])[0], "train: epoch 3");
    // Of what is not there nothing is made.
    let third = Space::new();
    let journal =
        team.run_with(&third, &["latents.resolution=128"], Options { only_fetch: true, ..Options::default() });
    assert!(lines(&journal).is_empty() && journal.stages.iter().any(|stage| stage.name == "text"));
}
