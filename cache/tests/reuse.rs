//! What is reused and what is not, with a toy stage that works item by item.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use sd3pipe_cache::{Digest, Fingerprint, Output, Preimage, Record, Store, diff};

/// A dataset of captions and a store, and two stages: one that normalises each caption, and one that counts the
/// letters of each normalised text.
struct Space {
    folder: tempfile::TempDir,
    store: Store,
}

/// The results of both stages by item, and which items each of them worked on.
#[derive(Debug, PartialEq)]
struct Outcome {
    results: BTreeMap<String, String>,
    normalised: Vec<String>,
    counted: Vec<String>,
}

impl Space {
    fn new() -> Space {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let space = Space { folder, store };
        space.write("a.txt", "A lighthouse");
        space.write("b.txt", "A harbour at dusk");
        space.write("c.txt", "A boat");
        space
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn write(&self, item: &str, text: &str) {
        fs::write(self.data().join(item), text).unwrap();
    }

    fn run(&self) -> Outcome {
        self.run_in(&self.store)
    }

    fn run_in(&self, store: &Store) -> Outcome {
        let mut outcome = Outcome { results: BTreeMap::new(), normalised: Vec::new(), counted: Vec::new() };
        let mut files = store.digests("bytes", &self.data()).unwrap();
        let mut items: Vec<String> =
            fs::read_dir(self.data()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        items.sort();
        for item in items {
            let path = self.data().join(&item);
            let mut preimage = Preimage::new("normalise", 1);
            preimage.read("caption", &files.digest(&path).unwrap()).unwrap();
            let normal = act(store, &item, preimage, &mut outcome.normalised, || {
                fs::read_to_string(&path).unwrap().trim().to_lowercase()
            });
            let mut preimage = Preimage::new("count", 1);
            // The output's digest and not the key of what made it: equal texts go no further.
            preimage.read("text", &normal.digest).unwrap();
            let count = act(store, &item, preimage, &mut outcome.counted, || {
                store.read(&normal.digest).unwrap().len().to_string()
            });
            outcome.results.insert(item, String::from_utf8(store.read(&count.digest).unwrap()).unwrap());
        }
        files.save().unwrap();
        outcome
    }
}

fn act(store: &Store, item: &str, preimage: Preimage, worked: &mut Vec<String>, make: impl Fn() -> String) -> Output {
    if let Some(outputs) = store.outputs(&preimage.key()).unwrap() {
        if outputs.iter().all(|output| store.file(&output.digest).is_ok()) {
            return outputs[0].clone();
        }
        for output in outputs {
            store.forget(&output.digest).unwrap();
        }
    }
    worked.push(item.to_owned());
    let object = store.put(make().as_bytes()).unwrap();
    let output = Output {
        role: "text".to_owned(),
        // Not the item: equal inputs share one record, whatever their names.
        item: String::new(),
        digest: object.digest,
        length: object.length,
        content: None,
    };
    let record = Record { preimage, label: item.to_owned(), outputs: vec![output.clone()], seconds: 0.5 };
    store.publish(&[record]).unwrap();
    output
}

/// The results of a run from an empty store.
fn afresh(space: &Space) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    space.run_in(&Store::open(folder.path()).unwrap()).results
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_second_run_does_nothing() {
    let space = Space::new();
    assert_eq!(space.run().normalised, ["a.txt", "b.txt", "c.txt"]);
    let second = space.run();
    assert_eq!((second.normalised.len(), second.counted.len()), (0, 0));
}

#[test]
fn an_edit_redoes_one_item() {
    let space = Space::new();
    space.run();
    space.write("b.txt", "A harbour at dawn and noon");
    let edited = space.run();
    assert_eq!(
        (edited.normalised.as_slice(), edited.counted.as_slice()),
        (&["b.txt".to_owned()][..], &["b.txt".to_owned()][..])
    );
    assert_eq!(edited.results, afresh(&space));
}

#[test]
fn an_edit_that_normalises_to_the_same_text_goes_no_further() {
    let space = Space::new();
    space.run();
    space.write("b.txt", "  a HARBOUR at dusk\n");
    let edited = space.run();
    assert_eq!(edited.normalised, ["b.txt"]);
    assert_eq!(edited.counted, NOTHING);
    assert_eq!(edited.results, afresh(&space));
}

#[test]
fn two_inputs_swapped_swap_their_results_and_work_on_nothing() {
    let space = Space::new();
    let before = space.run();
    space.write("a.txt", "A boat");
    space.write("c.txt", "A lighthouse");
    let after = space.run();
    assert_eq!((after.results["a.txt"].as_str(), after.results["c.txt"].as_str()), ("6", "12"));
    assert_eq!((before.results["a.txt"].as_str(), before.results["c.txt"].as_str()), ("12", "6"));
    assert_eq!(after.normalised, NOTHING);
}

#[test]
fn two_inputs_of_one_action_swapped_are_another_action() {
    let of = |image: &str, caption: &str| {
        let mut preimage = Preimage::new("pair", 1);
        preimage.read("image", &Digest::of(image.as_bytes())).unwrap();
        preimage.read("caption", &Digest::of(caption.as_bytes())).unwrap();
        preimage
    };
    let (one, other) = (of("x", "y"), of("y", "x"));
    assert_ne!(one.key(), other.key());
    let paths: Vec<String> = diff(&one, &other).into_iter().map(|change| change.path).collect();
    assert_eq!(paths, ["caption", "image"]);
}

#[test]
fn an_edit_undone_is_a_hit() {
    let space = Space::new();
    let first = space.run();
    space.write("b.txt", "something else");
    assert_eq!(space.run().normalised, ["b.txt"]);
    space.write("b.txt", "A harbour at dusk");
    let undone = space.run();
    assert_eq!(undone.normalised, NOTHING);
    assert_eq!(undone.results, first.results);
}

#[test]
fn any_sequence_of_edits_ends_as_a_run_from_nothing_does() {
    let space = Space::new();
    let texts = ["A lighthouse", "a lighthouse", "A boat", "", "A harbour at dawn"];
    let mut state = 7_u64;
    for _ in 0..40 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let item = ["a.txt", "b.txt", "c.txt", "d.txt"][(state >> 33) as usize % 4];
        match (state >> 40) % 6 {
            5 => drop(fs::remove_file(space.data().join(item))),
            text => space.write(item, texts[text as usize]),
        }
        assert_eq!(space.run().results, afresh(&space));
    }
}

#[test]
fn an_output_that_is_damaged_cut_short_or_gone_is_made_again() {
    let space = Space::new();
    let first = space.run();
    let object = |text: &str| space.store.file(&Digest::of(text.as_bytes())).unwrap();
    let replace = |path: &Path, bytes: &[u8]| {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    // Of the first stage's results; the same text is made again, so the second stage has nothing to do.
    replace(&object("a boat"), b"A goat");
    replace(&object("a lighthouse"), b"a light");
    fs::remove_file(object("a harbour at dusk")).unwrap();
    let healed = space.run();
    assert_eq!(healed.normalised, ["a.txt", "b.txt", "c.txt"]);
    assert_eq!(healed.counted, NOTHING);
    assert_eq!(healed.results, first.results);
    let notices = space.store.notices();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices.iter().all(|notice| notice.contains("moved to quarantine, it will be made again")));
    assert_eq!(fs::read_dir(space.store.root().join("quarantine")).unwrap().count(), 2);
    assert_eq!(space.run().normalised, NOTHING);
}

#[test]
fn a_fresh_file_is_read_again_and_an_old_one_is_not() {
    let space = Space::new();
    let path = space.data().join("a.txt");
    let known = || {
        let files = space.store.digests("bytes", &space.data()).unwrap();
        files.known(&path, &Fingerprint::of(&fs::metadata(&path).unwrap()))
    };
    assert_eq!(known(), None);
    space.run();
    assert_eq!(known(), None, "a second edit within the clock's grain would not show");
    sleep(Duration::from_millis(2100));
    space.run();
    assert_eq!(known(), Some(Digest::of(b"A lighthouse")));

    // An edit of equal size, in place, with the time put back.
    let before = fs::metadata(&path).unwrap();
    space.write("a.txt", "A lighthOUSE");
    fs::File::options().write(true).open(&path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.modified().unwrap(), after.len()), (before.modified().unwrap(), before.len()));
    assert_ne!(Fingerprint::of(&before), Fingerprint::of(&after));
    assert_eq!(known(), None);
    assert_eq!(space.run().normalised, ["a.txt"]);

    // Another old file moved to an old one's name.
    let path = space.data().join("b.txt");
    let known = || {
        let files = space.store.digests("bytes", &space.data()).unwrap();
        files.known(&path, &Fingerprint::of(&fs::metadata(&path).unwrap()))
    };
    assert!(known().is_some());
    fs::rename(space.data().join("c.txt"), &path).unwrap();
    assert_eq!(known(), None);
}

#[test]
fn the_aspects_and_folders_of_the_stat_cache_are_kept_apart() {
    let space = Space::new();
    space.write("a.txt.bak", "x");
    fs::create_dir(space.data().join("a")).unwrap();
    fs::create_dir(space.data().join("a-b")).unwrap();
    for item in ["a/1.txt", "a/2.txt", "a-b/1.txt"] {
        space.write(item, item);
    }
    sleep(Duration::from_millis(2100));
    let learn = |aspect: &str, root: &Path, items: &[&str]| {
        let mut files = space.store.digests(aspect, root).unwrap();
        for item in items {
            files.digest_with(&space.data().join(item), |_| Ok(Digest::of(aspect.as_bytes()))).unwrap();
        }
        files.save().unwrap();
    };
    let known = |aspect: &str, root: &Path, item: &str| {
        let path = space.data().join(item);
        space.store.digests(aspect, root).unwrap().known(&path, &Fingerprint::of(&fs::metadata(&path).unwrap()))
    };
    let (data, inner) = (space.data(), space.data().join("a"));
    learn("bytes", &data, &["a/1.txt", "a/2.txt", "a-b/1.txt", "a.txt.bak"]);
    learn("tensors:vae", &data.join("a.txt"), &["a.txt"]);
    assert_eq!(known("bytes", &data, "a/1.txt"), Some(Digest::of(b"bytes")));
    assert_eq!(known("bytes", &inner.join(""), "a/1.txt"), Some(Digest::of(b"bytes")));
    assert_eq!(known("bytes", &inner, "a-b/1.txt"), None, "not below that root");
    assert_eq!(known("tensors:vae", &data, "a/1.txt"), None);
    assert_eq!(known("tensors:vae", &data.join("a.txt"), "a.txt"), Some(Digest::of(b"tensors:vae")));
    // Saving drops what was not asked for, below the root only.
    learn("bytes", &inner, &["a/1.txt"]);
    assert_eq!(known("bytes", &data, "a/2.txt"), None);
    assert_eq!(known("bytes", &data, "a/1.txt"), Some(Digest::of(b"bytes")));
    assert_eq!(known("bytes", &data, "a-b/1.txt"), Some(Digest::of(b"bytes")));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_remembered() {
    let space = Space::new();
    let path = space.data().join("a.txt");
    let mut files = space.store.digests("bytes", &space.data()).unwrap();
    let result = files.digest_with(&path, |_| {
        space.write("a.txt", "A lighthouse and more");
        Ok(Digest::of(b"A lighthouse"))
    });
    assert!(result.unwrap_err().to_string().contains("keeps changing while it is read"));
    assert_eq!(files.digest(&path).unwrap(), Digest::of(b"A lighthouse and more"));
}
