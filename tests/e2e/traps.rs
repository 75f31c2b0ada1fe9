//! Six traps in which other build tools and pipeline runners were caught, each tried with a released version: an edit during the run,
//! an edit that hides from the file's time, a damaged object, an object that is recorded before it is on the disk, a torn index, and
//! two inputs that trade places.

use crate::space::{Outcome, TestSpace, wait_until};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

const MODEL: &str = "model/sd3_tiny.safetensors";
/// Long enough to be caught in the middle.
const LONG: &str = "train.epochs=40";

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a run from an empty store makes of the folder as it is. What lies in `out/` is gone afterwards.
fn clean(space: &TestSpace, arguments: &[&str]) -> Files {
    fs::remove_dir_all(space.path("out")).expect("an earlier run");
    let _ = fs::remove_dir_all(space.path("empty-store"));
    space.run_with(&[&["--store", "empty-store"], arguments].concat()).succeeds();
    let files = space.files("out");
    fs::remove_dir_all(space.path("out")).expect("what was made");
    files
}

/// Runs, and compares with a run from an empty store.
fn ends_right(space: &TestSpace, arguments: &[&str]) {
    space.run_with(arguments).succeeds();
    let found = space.files("out");
    for (path, bytes) in clean(space, arguments) {
        assert!(found.get(&path) == Some(&bytes), "{} differs from a run from an empty store", path.display());
    }
}

fn start(space: &TestSpace, arguments: &[&str]) -> Child {
    let all = [&["run", "test.ron"], arguments].concat();
    space.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn start_training(space: &TestSpace) -> Child {
    let child = start(space, &["--until", "train", "--set", LONG]);
    wait_until("a saved state", || space.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors")));
    child
}

/// What somebody does to an input.
type Edit = fn(&TestSpace);

/// Trap 1: a stage reads a file, the file is edited while the stage runs. DVC, Snakemake and n2 record the result of the old content
/// as that of the new one, and say "nothing to do" ever after.
#[test]
fn an_edit_of_any_input_during_the_run_is_not_taken_for_done() {
    let edits: [(&str, Edit); 4] = [
        ("owl.txt", |space| space.write("photos/owl.txt", "written meanwhile")),
        ("owl.png", |space| space.picture("photos/owl.png", (96, 64), 99)),
        ("sd3_tiny", |space| space.change_tensor(MODEL, "model.diffusion_model.final_layer.linear.bias")),
        ("clip_tokenizer.json", |space| {
            space.edit("model/clip_tokenizer.json", "\"a\": 38,", "\"a\": 52,");
            space.edit("model/clip_tokenizer.json", "\"o\": 52,", "\"o\": 38,");
        }),
    ];
    for (named, edit) in edits {
        let space = TestSpace::small();
        let child = start_training(&space);
        edit(&space);
        Outcome::of(child.wait_with_output().expect("an end")).fails(5, &["changed during the run", named]);
        ends_right(&space, &[]);
    }
}

/// Trap 1 again, in the moment in which the images are read.
#[test]
fn an_image_that_is_replaced_before_its_turn_is_not_encoded_under_the_old_key() {
    let space = TestSpace::small();
    for number in 0..60 {
        space.picture(&format!("photos/picture-{number}.png"), (512, 512), number);
        space.write(&format!("photos/picture-{number}.txt"), "a picture");
    }
    let child = start(&space, &["--until", "latents"]);
    let objects = || space.files(".sd3pipe/objects").len();
    wait_until("the first objects", || objects() > 8);
    // Its turn is the last but for the three of other shapes.
    space.picture("photos/picture-59.png", (512, 512), 200);
    space.picture("photos/picture-9.png", (512, 512), 201);
    Outcome::of(child.wait_with_output().expect("an end")).fails(5, &["picture-59.png"]);
    // All others were kept.
    space.run_with(&["--until", "latents"]).succeeds();
    let executed = &space.executed()["latents"];
    assert!(executed.contains(&"picture-59.png".to_owned()) && executed.len() <= 2, "{executed:?}");
}

/// Trap 1 once more: files of the model are written to, again and again, while runs read them. Whatever was kept on the way belongs
/// to what was read: both states of the model end as they do from an empty store.
#[test]
fn a_model_that_is_written_to_while_it_is_loaded_leaves_nothing_wrong_behind() {
    let space = TestSpace::small();
    let tensors = [
        (MODEL, "first_stage_model.encoder.conv_out.bias"),
        ("model/clip_g.safetensors", "text_projection.weight"),
        ("model/t5xxl.safetensors", "shared.weight"),
    ];
    let (mut whole, mut noticed) = (0, 0);
    for round in 0..8 {
        let mut child = start(&space, &["--until", "train", "--force", "text", "--force", "latents"]);
        let mut turns = 0;
        while child.try_wait().expect("a child").is_none() {
            // Longer than the grain of a file's times, within which no program can see an edit.
            sleep(Duration::from_millis(15 + round));
            let (file, tensor) = tensors[turns % tensors.len()];
            space.change_tensor(file, tensor);
            turns += 1;
        }
        let outcome = Outcome::of(child.wait_with_output().expect("an end"));
        match outcome.code {
            Some(0) => whole += 1,
            // Noticed while digests were taken, or later.
            Some(1) if outcome.stderr.contains("it changed while it was read") => noticed += 1,
            Some(5) => noticed += 1,
            _ => panic!("{}\n{}", outcome.stdout, outcome.stderr),
        }
    }
    assert!(noticed > 0, "no edit came in time; {whole} runs saw none");
    for (file, tensor) in tensors {
        ends_right(&space, &[]);
        space.change_tensor(file, tensor);
    }
}

/// Trap 2: `printf Z > in; touch -r ref in`. DVC, Snakemake (above 1 MB) and redun trust size and mtime, and see nothing.
#[test]
fn a_same_size_edit_with_its_time_put_back_is_noticed_in_every_kind_of_input() {
    let edits: [(&str, &str, Edit); 3] = [
        ("photos/owl.txt", "text", |space| space.write("photos/owl.txt", "an elk")),
        ("photos/owl.bmp", "latents", |space| {
            let mut bytes = space.read("photos/owl.bmp");
            let last = bytes.len() - 1;
            bytes[last] ^= 0x80;
            space.write("photos/owl.bmp", bytes);
        }),
        (MODEL, "latents", |space| space.change_tensor(MODEL, "first_stage_model.encoder.conv_out.bias")),
    ];
    let space = TestSpace::small();
    space.remove("photos/owl.png");
    space.write("photos/owl.bmp", bitmap(64, 64));
    space.run().succeeds();
    // Beyond the window in which no time is trusted: this run writes down digests that the next one will trust.
    sleep(Duration::from_millis(2100));
    space.run().succeeds();
    for (path, stage, edit) in edits {
        let before = fs::metadata(space.path(path)).expect("the input");
        edit(&space);
        let file = File::options().write(true).open(space.path(path)).expect("the input");
        file.set_modified(before.modified().expect("a time")).expect("put back");
        let after = fs::metadata(space.path(path)).expect("the input");
        assert_eq!((after.len(), after.modified().ok()), (before.len(), before.modified().ok()), "{path}");
        assert!(space.planned(&[]).contains_key(stage), "{path}: {:?}", space.planned(&[]));
        ends_right(&space, &[]);
    }
}

/// A picture without compression or checksum, so that an edit of one byte is a sound picture of the same size.
fn bitmap(width: u32, height: u32) -> Vec<u8> {
    let pixels = width * height * 3;
    let mut bytes = b"BM".to_vec();
    for number in [54 + pixels, 0, 54, 40, width, height, 1 | 24 << 16, 0, pixels, 2835, 2835, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend((0..pixels).map(|index| (index % 251) as u8));
    bytes
}

/// Trap 3: `chmod u+w obj; printf Q > obj; chmod 444 obj`. DVC takes an object of mode 0444 for sound, and checks out the bad bytes.
#[test]
fn no_damaged_object_ever_comes_into_out() {
    let space = TestSpace::small();
    space.run().succeeds();
    let right = space.files("out");
    let objects: Vec<String> =
        space.files(".sd3pipe/objects").keys().map(|path| path.to_str().expect("plain").to_owned()).collect();
    let damage = |name: &str, bit: u8| {
        let path = space.path(name);
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        let mut bytes = space.read(name);
        let middle = bytes.len() / 2;
        bytes[middle] ^= bit;
        mode(0o644);
        fs::write(&path, bytes).expect("damaged");
        mode(0o444);
    };
    for object in &objects {
        damage(object, 1);
        fs::remove_dir_all(space.path("out")).expect("the last results");
        space.run().succeeds();
        assert!(space.files("out") == right, "after damage to {object}");
    }
    // Those that were not needed, and so not found, are damaged still. What is done anew reads all.
    objects.iter().filter(|object| space.path(object).exists()).for_each(|object| damage(object, 2));
    fs::remove_dir_all(space.path("out")).expect("the last results");
    space.run_with(&["--force", "train", "--force", "export", "--force", "sample"]).succeeds();
    assert!(space.files("out") == right, "after damage to all");
    assert!(!space.files(".sd3pipe/quarantine").is_empty());
}

/// Trap 4: `strace -e fsync,rename dvc add big` shows an object that gets its name without any sync. Here each object is synced before
/// it gets its name, and its folder before the index says that it is there.
#[test]
fn objects_are_on_the_disk_before_their_records() {
    let space = TestSpace::small();
    let calls = "trace=openat,fsync,fdatasync,rename,renameat,renameat2,pwrite64,write";
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "0", "-o", "calls.txt", "-e", calls]).arg(crate::space::program());
    let traced = command.args(["run", "test.ron"]).current_dir(space.path("")).env_remove("SD3PIPE_STORE").output();
    let log = match &traced {
        Ok(output) if output.status.success() => String::from_utf8(space.read("calls.txt")).expect("UTF-8"),
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("ptrace") => panic!("{output:?}"),
        _ => return println!("skipped: strace is not there or not allowed: {traced:?}"),
    };
    let store = fs::canonicalize(space.path(".sd3pipe")).expect("the store");
    let order = Order::of(&log, store.to_str().expect("plain"));
    assert_eq!(order.objects, space.files(".sd3pipe/objects").len(), "every object was seen");
    assert!(order.publications > 5, "{} writes of records were seen", order.publications);
}

/// What a log of system calls shows of a store.
#[derive(Default)]
struct Order {
    objects: usize,
    publications: usize,
}

impl Order {
    /// Panics at the first call out of order. Calls that were interrupted by another thread's are taken at their end, but for
    /// writes of the index, which count from their start.
    fn of(log: &str, store: &str) -> Self {
        let mut order = Self::default();
        // Files below tmp/ that were synced; folders that have got a new entry since their last sync.
        let (mut synced, mut unsynced): (Vec<String>, Vec<String>) = Default::default();
        let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
        for line in log.lines() {
            let (process, call) = line.split_once(' ').expect("a process and its call");
            let call = call.trim_start();
            if call.ends_with("<unfinished ...>") {
                unfinished.insert(process, call);
            }
            let start = match call.starts_with("<... ") {
                true => unfinished.get(process).copied().unwrap_or_default(),
                false => call,
            };
            let name = start.split('(').next().unwrap_or_default();
            let ended = !call.ends_with("<unfinished ...>");
            // `-y` writes a descriptor as `7</the/path>`, and paths stand in quotes.
            let path = |text: &str, open: char, close: char| {
                text.split(open).nth(1).and_then(|rest| rest.split(close).next()).unwrap_or_default().to_owned()
            };
            match name {
                "fsync" | "fdatasync" if ended && call.ends_with("= 0") => {
                    let what = path(start, '<', '>');
                    unsynced.retain(|folder| *folder != what);
                    synced.push(what);
                }
                "rename" | "renameat" | "renameat2" if ended && call.ends_with("= 0") => {
                    let quoted: Vec<&str> = start.split('"').collect();
                    // `rename` into a shard that is not there yet fails, and then stands in the log once more.
                    let (from, to) = (quoted[1], quoted[3]);
                    if to.starts_with(&format!("{store}/objects/")) {
                        assert!(synced.iter().any(|path| path == from), "{to} got its name before it was synced");
                        order.objects += 1;
                        unsynced.push(Path::new(to).parent().expect("a shard").display().to_string());
                    }
                }
                "pwrite64" | "write"
                    if !call.starts_with("<... ") && path(start, '<', '>').ends_with("index.sqlite-wal") =>
                {
                    assert!(unsynced.is_empty(), "the index was written while these were not synced: {unsynced:?}");
                    order.publications += 1;
                }
                _ => {}
            }
        }
        order
    }
}

/// Trap 5: n2 refuses to start when its log lost 1, 2, 3, 5 or 9 bytes at its end. A torn index costs time at most.
#[test]
fn a_torn_index_is_never_a_refusal_and_never_a_wrong_answer() {
    let space = TestSpace::small();
    space.run().succeeds();
    let right = space.files("out");
    // Killed, so that the journal lies there.
    let mut child = start_training(&space);
    child.kill().expect("killed");
    child.wait().expect("an end");
    let (index, journal) = (".sd3pipe/index.sqlite", ".sd3pipe/index.sqlite-wal");
    let sound = [index, journal].map(|name| (name, space.read(name)));
    assert!(sound.iter().all(|(_, bytes)| bytes.len() > 4096), "both have pages");
    let put_back = || {
        drop(fs::remove_file(space.path(".sd3pipe/index.sqlite-shm")));
        sound.iter().for_each(|(name, bytes)| space.write(name, bytes));
    };
    for (name, bytes) in &sound {
        let length = bytes.len();
        let cuts =
            [1, 2, 3, 5, 9, 100, 4096, length / 2, length - 100, length - 16, length].map(|off| &bytes[..length - off]);
        let garbage = [16, 100, length / 3, length / 2, length - 200].map(|place| {
            let mut bytes = bytes.clone();
            bytes[place..(place + 150).min(length)].fill(0xA5);
            bytes
        });
        for damaged in cuts.into_iter().chain(garbage.iter().map(Vec::as_slice)) {
            put_back();
            space.write(name, damaged);
            let what = || format!("{name} with {} of {length} bytes", damaged.len());
            assert_eq!(space.call(&["plan", "test.ron"]).code, Some(0), "plan, {}", what());
            fs::remove_dir_all(space.path("out")).expect("the last results");
            let outcome = space.run();
            assert_eq!(outcome.code, Some(0), "{}\n{}", what(), outcome.stderr);
            assert!(space.files("out") == right, "{}", what());
            // What only the page looks at, the course of earlier runs, may be found torn after everything was made.
            space.run().succeeds();
            space.run().succeeds().says("nothing to do");
        }
    }
}

/// Trap 6: Snakemake's cache between workflows hashes the sorted digests of all inputs, so that two inputs whose contents trade places
/// are the same to it. Each input here is in the key under its role and its item.
#[test]
fn inputs_that_trade_places_are_a_change() {
    let trade = |space: &TestSpace, one: &str, other: &str| {
        space.rename(one, "between");
        space.rename(other, one);
        space.rename("between", other);
    };
    let space = TestSpace::small();
    // A second folder whose items have the names of the first one's.
    space.edit(
        "test.ron",
        "[(path: \"photos\")]",
        "[(path: \"photos\"), (path: \"more\", name: \"more\", repeats: 2)]",
    );
    for (number, name) in ["fig", "owl"].into_iter().enumerate() {
        space.picture(&format!("more/{name}.png"), (64, 96), 50 + number as u8);
        space.write(&format!("more/{name}.txt"), format!("another {name}"));
    }
    // Encoders of one shape, so that only what is in them tells them apart.
    space.write("model/clip_l.safetensors", space.read("model/clip_g.safetensors"));
    space.change_tensor("model/clip_l.safetensors", "text_model.final_layer_norm.bias");
    space.run().succeeds();
    let first = space.files("out");
    let trades = [
        ("photos/fig.txt", "photos/owl.txt", "train"),
        ("photos/fig.png", "photos/hut.png", "train"),
        ("photos/owl.png", "more/owl.png", "train"),
        ("model/clip_l.safetensors", "model/clip_g.safetensors", "text"),
    ];
    for (one, other, stage) in trades {
        trade(&space, one, other);
        assert!(space.planned(&[]).contains_key(stage), "{one}: {:?}", space.planned(&[]));
        ends_right(&space, &[]);
        trade(&space, one, other);
        space.run().succeeds().says("nothing to do");
        assert!(space.files("out") == first, "{one} and {other} back in their places");
    }
}
