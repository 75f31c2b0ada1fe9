//! Input that means harm: nothing gets out of its folder, nothing overwhelms the program, and nothing gives orders to a terminal.

use crate::space::{Outcome, TestSpace};
use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

/// What was printed has no character in it that a terminal would obey.
fn is_safe(outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[test]
fn a_name_that_is_no_plain_one_names_no_folder() {
    let space = TestSpace::demo();
    let long = "a".repeat(101);
    for name in ["../../home", "/tmp/x", "", ".", "..", "a/b", "a\\\\b", "a\\u{0}", "a\\n", "con:", long.as_str()] {
        let written = format!("name=\"{name}\"");
        is_safe(&space.run_with(&["--set", &written]).fails(2, &["can't name a folder", "letters, digits"]));
        let stage = format!("\"{name}\": Sample(");
        space.write(
            "stage.ron",
            String::from_utf8(space.read("test.ron")).unwrap().replace("\"sample\": Sample(", &stage),
        );
        is_safe(&space.call(&["run", "stage.ron"]).fails(2, &["can't name a stage"]));
    }
    assert!(!space.path("out").exists() && !space.path(".sd3pipe").exists());
}

#[test]
fn nested_brackets_are_an_error_and_not_a_crash() {
    let space = TestSpace::demo();
    for bracket in ["(", "[", "{", "a(", "[(", "/*", "Some("] {
        space.write("deep.ron", bracket.repeat(10_000));
        is_safe(&space.call(&["plan", "deep.ron"]).fails(2, &["deep.ron"]));
        space.write("deep.ron", format!("(name: {})", bracket.repeat(10_000)));
        is_safe(&space.call(&["plan", "deep.ron"]).fails(2, &["deep.ron"]));
        is_safe(&space.run_with(&["--set", &format!("train.epochs={}", bracket.repeat(10_000))]).fails(2, &["--set"]));
    }
    space.write("model/clip_tokenizer.json", format!("{{\"normalizer\": {}", "[".repeat(100_000)));
    is_safe(&space.run().fails(1, &["clip_tokenizer.json", "recursion limit"]));
}

#[test]
fn a_pipeline_that_does_not_end_is_not_read_to_its_end() {
    let space = TestSpace::demo();
    space.call(&["plan", "/dev/zero"]).fails(2, &["/dev/zero", "1048576 bytes"]);
    space.write("heir.ron", "(extends: \"/dev/zero\")");
    space.call(&["plan", "heir.ron"]).fails(2, &["heir.ron:1:", "1048576 bytes"]);
}

/// Each of these took time by the square of its length.
#[test]
fn a_pipeline_of_a_hundred_thousand_entries_is_answered_at_once() {
    let space = TestSpace::demo();
    let doubled = format!("(stages: {{{}}})", "\"a\": Export(), ".repeat(60_000));
    let distinct: String = (0..30_000).map(|index| format!("\"a{index}\": Export(train: \"b\"), ")).collect();
    let distinct =
        String::from_utf8(space.read("test.ron")).unwrap().replace("stages: {", &format!("stages: {{{distinct}"));
    let fields: String = (0..60_000).map(|index| format!("a{index}: 1, ")).collect();
    space.write("base.ron", format!("({fields})"));
    let start = Instant::now();
    for (text, said) in [
        (&doubled, "59899 more like these"),
        (&distinct, "1000 are the most"),
        (&format!("(extends: \"base.ron\", {fields})"), "unknown field `a0`"),
    ] {
        space.write("long.ron", text);
        space.call(&["plan", "long.ron"]).fails(2, &[said]);
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn numbers_that_no_training_has_are_refused() {
    let space = TestSpace::demo();
    space.run_with(&["--set", "train.epochs=4294967295"]).fails(2, &["4294967295 epochs", "repeats"]);
    space
        .run_with(&["--set", "captions.data=[(path: \"photos\", repeats: 4294967295)]"])
        .fails(2, &["4294967295 repeats", "epochs"]);
}

#[test]
fn files_of_absurd_size_are_named_with_what_to_do() {
    let space = TestSpace::demo();
    let grow = |name: &str, length: u64| {
        let before = space.path(name).exists().then(|| space.read(name));
        fs::File::options().create(true).append(true).open(space.path(name)).unwrap().set_len(length).unwrap();
        before
    };
    let caption = grow("photos/wall-clock.txt", 1 << 26);
    let photo = space.read("photos/coffee-cup.png");
    let mut bomb = photo.clone();
    bomb[16..24].copy_from_slice(&[100_000_u32.to_be_bytes(), 100_000_u32.to_be_bytes()].concat());
    // The checksum is that of the header with this size.
    let checksum = png_checksum(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&checksum);
    space.write("photos/coffee-cup.png", bomb);
    space
        .run()
        .fails(1, &["wall-clock.txt", "65536 bytes", "shorten it", "coffee-cup.png", "too large", "make it smaller"]);
    space.write("photos/wall-clock.txt", caption.unwrap());
    space.write("photos/coffee-cup.png", photo);
    grow("model/clip_tokenizer.json", 300 << 20);
    space.run().fails(1, &["clip_tokenizer.json", "no tokenizer is larger", "name its tokenizer instead"]);
}

/// The checksum of PNG chunks (PNG specification, annex D), bit by bit.
fn png_checksum(bytes: &[u8]) -> u32 {
    let bits = |remainder: u32| (0..8).fold(remainder, |r, _| if r & 1 == 1 { (r >> 1) ^ 0xedb8_8320 } else { r >> 1 });
    !bytes.iter().fold(!0, |remainder, byte| bits(remainder ^ u32::from(*byte)))
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let space = TestSpace::demo();
    let pipe = space.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for field in ["checkpoint", "clip_l", "tokenizers.clip", "tokenizers.t5"] {
        for path in ["pipe", "/dev/zero"] {
            space.run_with(&["--set", &format!("model.{field}=\"{path}\"")]).fails(1, &[path, "no"]);
        }
    }
    fs::rename(&pipe, space.path("photos/pipe.png")).unwrap();
    space.call(&["plan", "test.ron"]).succeeds();
}

#[test]
fn a_terminal_is_given_no_orders() {
    let space = TestSpace::demo();
    let order = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}";
    space.write("photos/wall-clock.txt", format!("a clock {order}"));
    is_safe(&space.run_with(&["--until", "text"]).succeeds());
    space.write("photos/wall-clock.txt", format!("another clock {order}"));
    for arguments in [
        &["plan", "test.ron"][..],
        &["why", "test.ron", "text"],
        &["plan", "test.ron", "--json"],
        &["show", "last"],
        &["status", "test.ron"],
    ] {
        is_safe(&space.call(arguments).succeeds());
    }
    for wrong in [
        format!("(name: \"{order}\") // {order}"),
        format!("(na{order}me: 1)"),
        format!("(extends: \"{order}\")"),
        String::from_utf8(space.read("test.ron")).unwrap().replace("photos", &format!("{order}/\n/photos")),
        String::from_utf8(space.read("test.ron")).unwrap().replace("\"sample\"", &format!("\"{order}\"")),
    ] {
        space.write("wrong.ron", wrong);
        is_safe(&space.call(&["plan", "wrong.ron"]).fails(2, &["error: "]));
    }
    is_safe(&space.run_with(&["--set", &format!("train.{order}=1")]).fails(2, &["error: "]));
    space.rename("photos/wall-clock.jpg", &format!("photos/{order}.jpg"));
    space.write("photos/a\nerror: b.jpg", "");
    let said = space.run().fails(1, &[r"a\nerror: b.jpg", "the name has a control character", "rename it"]);
    is_safe(&said);
}

#[test]
fn links_to_files_are_followed_and_what_they_name_is_never_written() {
    let space = TestSpace::demo();
    space.rename("photos", "elsewhere");
    fs::create_dir(space.path("photos")).unwrap();
    for name in ["wall-clock.jpg", "wall-clock.txt", "coffee-cup.png", "coffee-cup.txt"] {
        symlink(space.path("elsewhere").join(name), space.path("photos").join(name)).unwrap();
    }
    // A store and results on another disk are folders that links lead to.
    for name in [".sd3pipe", "out"] {
        fs::create_dir(space.path(&format!("disk{name}"))).unwrap();
        symlink(space.path(&format!("disk{name}")), space.path(name)).unwrap();
    }
    space.write("victim", "untouched");
    fs::create_dir(space.path("out/test")).unwrap();
    symlink(space.path("victim"), space.path("out/test/contact-sheet.png")).unwrap();
    let (photos, elsewhere) = (space.files("photos"), space.files("elsewhere"));
    space.run().succeeds();
    assert!(space.path("disk.sd3pipe/FORMAT").is_file() && space.path("diskout/test/checkpoints").is_dir());
    assert_eq!(space.read("victim"), b"untouched");
    assert!(space.read("out/test/contact-sheet.png").starts_with(b"\x89PNG"));
    assert_eq!((space.files("photos"), space.files("elsewhere")), (photos, elsewhere));
    symlink(space.path("photos"), space.path("photos/loop")).unwrap();
    space.run().fails(1, &["photos/loop", "a link to a folder that it lies in"]);
}

/// The library that reads tokenizers panics on some that contradict themselves; that is an error like any other.
#[test]
fn a_tokenizer_that_contradicts_itself_is_an_error_without_a_panic() {
    let space = TestSpace::demo();
    // A trie of one unit: looking a letter up reads far behind it.
    let normalizer = r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="}, "#;
    let json = String::from_utf8(space.read("model/t5_tokenizer.json")).unwrap();
    let (before, rest) = json.split_once("\"normalizer\":").unwrap();
    let (_, after) = rest.split_once("\"pre_tokenizer\":").unwrap();
    space.write("model/t5_tokenizer.json", format!("{before}{normalizer}\"pre_tokenizer\":{after}"));
    let said = space.run().fails(1, &["t5_tokenizer.json cannot encode", "get a fresh copy"]);
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
}
