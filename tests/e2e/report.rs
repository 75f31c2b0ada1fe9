//! The page that a run writes: there, whole, true to the run, kept while nothing changes, and fit for a browser.

use crate::space::{TestSpace, repository};
use std::{path::Path, process::Command};

const PAGE: &str = "out/test/report.html";

fn page(space: &TestSpace) -> String {
    String::from_utf8(space.read(PAGE)).expect("a text")
}

#[test]
fn a_run_writes_a_page_and_one_that_finds_everything_leaves_it() {
    let space = TestSpace::small();
    let said = space.run().succeeds();
    assert!(said.stderr.contains("wrote out/test/report.html"), "{}", said.stderr);
    let first = page(&space);
    for shown in [
        "Which checkpoint",
        "epoch 1",
        "a cat",
        "fig.png",
        "loss by step",
        "learning rate",
        "64 × 64",
        "data:image/jpeg",
    ] {
        assert!(first.contains(shown), "{shown}");
    }
    let again = space.run().succeeds();
    assert!(again.stdout.contains("nothing to do") && page(&space) == first, "{}", again.stdout);
    // What was deleted or scribbled over is put back.
    for harm in [first.replace("epoch 1", "epoch 9"), String::new()] {
        space.write(PAGE, harm);
        space.run().succeeds();
        assert!(page(&space).contains("epoch 1") && page(&space).ends_with(" -->\n"));
    }
    space.remove(PAGE);
    space.run().succeeds();
    assert!(space.path(PAGE).exists());
    // Other results are another page.
    let before = page(&space);
    space.edit("test.ron", "\"a cat\"", "\"a dog\"");
    space.run().succeeds();
    assert!(page(&space) != before && page(&space).contains("a dog"));
}

#[test]
fn no_page_is_written_where_none_is_wanted() {
    let space = TestSpace::small();
    space.call(&["run", "test.ron", "--until", "train"]).succeeds();
    assert!(!space.path(PAGE).exists(), "a part of a pipeline is not judged");
    space.edit("test.ron", "device: Cpu,", "device: Cpu, report: false,");
    space.run().succeeds();
    assert!(!space.path(PAGE).exists());
    // But it can be asked for, and no stage runs for it.
    let said = space.call(&["report", "test.ron"]).succeeds();
    assert!(said.stdout.contains("report.html") && page(&space).contains("Which checkpoint"), "{}", said.stdout);
}

#[test]
fn the_page_can_be_made_again_of_any_run_and_the_verdicts_be_read_by_programs() {
    let space = TestSpace::small();
    let unknown = space.call(&["report", "test.ron"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("never run here"), "{}", unknown.stderr);
    space.run().succeeds();
    let verdicts: serde_json::Value =
        serde_json::from_str(&space.call(&["report", "test.ron", "--json"]).succeeds().stdout).unwrap();
    let checkpoint = &verdicts["verdicts"]["sample"]["checkpoints"][0];
    assert_eq!((&checkpoint["name"], checkpoint["verdicts"].as_array().unwrap().len()), (&"epoch 1".into(), 5));
    space.call(&["report", "test.ron", "--run", "1", "--output", "elsewhere.html"]).succeeds();
    assert!(space.path("elsewhere.html").exists());
    let wrong = space.call(&["report", "test.ron", "--run", "7"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("no run 7"), "{}", wrong.stderr);
    // Verdicts are kept like samples: a collection leaves them, and they are found by their key.
    let objects = || space.files(".sd3pipe/objects").len();
    let before = objects();
    space.call(&["gc", "test.ron"]).succeeds();
    assert_eq!(objects(), before);
}

#[test]
fn what_the_store_lost_is_left_out_and_trains_nothing() {
    let space = TestSpace::small();
    space.run().succeeds();
    let first = page(&space);
    // Every object, one after another, and the pictures at last.
    for path in space.files(".sd3pipe/objects").into_keys() {
        let (path, bytes) = (path.display().to_string(), space.read(&path.display().to_string()));
        space.remove(&path);
        space.call(&["report", "test.ron"]).succeeds();
        space.write(&path, bytes);
    }
    space.rename("photos", "moved");
    space.write("photos/fig.txt", "no picture");
    space.call(&["report", "test.ron"]).succeeds();
    assert!(page(&space).contains("changed or moved since") && !first.contains("changed or moved since"));
}

#[test]
fn captions_and_prompts_stay_text() {
    let space = TestSpace::small();
    let evil = "</script><img src=x onerror=alert(1)> & 'x'";
    space.write("photos/fig.txt", evil);
    space.edit("test.ron", "\"a cat\"", &format!("{evil:?}"));
    space.run().succeeds();
    let page = page(&space);
    assert!(!page.contains("<img src=x") && page.contains("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; &amp;"));
    assert_eq!(page.matches("</script>").count(), 1);
}

#[test]
fn a_browser_has_nothing_to_complain_of() {
    let space = TestSpace::small();
    space.edit("test.ron", "epochs: 1", "epochs: 2, validation: (share: 0.5)");
    space.write("photos/fig.txt", "a \"fig\" <b>");
    space.run().succeeds();
    opens_in_a_browser(&space.path(PAGE));
}

/// It opens, its slider moves, it asks for nothing, nothing is wider than a phone.
pub fn opens_in_a_browser(page: &Path) {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|said| said.status.success());
    if !there("python3") || !["chromium", "chromium-browser", "google-chrome", "chrome"].into_iter().any(there) {
        eprintln!("skipped: it takes Chromium and Python (apt-get install chromium)");
        return;
    }
    let script = repository().join("tools/check_report.py");
    let checked = Command::new("python3").arg(script).arg(page).output().expect("Python is there");
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}
