//! What grows with the number of items: plans, keys, look-ups, the index and collections, at ten thousand, a hundred thousand and a million.
//!
//!     cargo bench --bench million                    # about 5 million files: give it a folder with TMPDIR
//!     cargo bench --bench million -- 1000 10000
//!
//! Pictures and captions are real files, each another one, a thousand in a folder. What networks would make of them is simulated: an
//! object for each that says its key. Each measurement is a process of its own, told on standard error as it ends, those that are compared
//! started in turn; medians of the processor time that they took, so that others may use the machine too, in brackets what of it is the
//! kernel's, and the most memory that any of them had (VmHWM). Exponents are those of the growth between the last two sizes, with and
//! without the kernel's time: the kernel's grows when files no longer fit in its caches, the program's has no such excuse.

use sd3pipe::{
    pipeline,
    run::{Engine, Journal, Options, Runner},
};
use sd3pipe_cache::Store;
use sd3pipe_stages::{
    action::output,
    error::StageError,
    job::Job,
    work::{Interrupt, Silent, Work},
};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
const A_FOLDER: usize = 1000;

/// Makes of every action an object that says its key.
struct Simulated;

impl Engine for Simulated {
    fn run(&self, job: &Job, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
        let role = if matches!(job, Job::Text(_)) { "text" } else { "latents" };
        for action in missing.iter().map(|index| &job.actions()[*index]) {
            let object = work.store.put(action.key.to_string().as_bytes())?;
            work.publish(action, vec![output(role, "", object)], 0.0)?;
        }
        Ok(())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--walk", folder] => return println!("{}", bare_walk(Path::new(folder), false)),
        ["--read", folder] => return println!("{}", bare_walk(Path::new(folder), true)),
        ["--fill", folder] => return fill(Path::new(folder)),
        _ => {}
    }
    let chosen: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if chosen.is_empty() { SIZES.to_vec() } else { chosen };
    let columns: Vec<Vec<Figure>> = sizes.iter().map(|items| figures(*items)).collect();
    let heads: Vec<String> = sizes.iter().map(|items| format!(" {items} items |")).collect();
    println!("| |{} exponent | without the kernel's time |", heads.concat());
    println!("|---|{}---|---|", "---|".repeat(sizes.len()));
    for (row, first) in columns[0].iter().enumerate() {
        let cells: Vec<String> = columns.iter().map(|column| format!(" {} |", column[row].shown)).collect();
        let exponent = |value: fn(&Figure) -> f64| {
            columns.len().checked_sub(2).map_or(String::new(), |before| {
                let growth = value(&columns[before + 1][row]) / value(&columns[before][row]);
                format!("{:.2}", growth.ln() / (sizes[before + 1] as f64 / sizes[before] as f64).ln())
            })
        };
        println!("| {} |{} {} | {} |", first.what, cells.concat(), exponent(|it| it.value), exponent(|it| it.own));
    }
}

/// A line of the table at one size.
struct Figure {
    what: &'static str,
    /// What grows.
    value: f64,
    /// The same without the kernel's share.
    own: f64,
    shown: String,
}

/// What a process took.
#[derive(Clone, Copy)]
struct Cost {
    /// Seconds of processor time.
    time: f64,
    /// Those of them that were the kernel's.
    kernel: f64,
    /// The most memory that it had, in bytes.
    memory: f64,
}

fn figures(items: usize) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    make(folder.path(), items);
    eprintln!("{items} items are made");
    let this = |arguments: [&str; 2]| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(arguments).current_dir(folder.path());
        command
    };
    let sd3pipe = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sd3pipe"));
        command.args(arguments).current_dir(folder.path()).env_remove("SD3PIPE_STORE");
        cost(&mut command)
    };
    // What was never read is not in the page cache either.
    let read = cost(&mut this(["--read", "photos"]));
    let new = sd3pipe(&["plan", "bench.ron"]);
    let filled = cost(&mut this(["--fill", "."]));
    // Files as young as these are read again once: their times say nothing yet.
    std::thread::sleep(Duration::from_secs(3));
    sd3pipe(&["run", "bench.ron"]);
    let rounds = if items > 200_000 { 3 } else { 7 };
    let (mut bare, mut idle, mut plan, mut added) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        bare.push(cost(&mut this(["--walk", "photos"])));
        idle.push(sd3pipe(&["run", "bench.ron"]));
        plan.push(sd3pipe(&["plan", "bench.ron"]));
        picture(folder.path(), "new.png", usize::MAX - round);
        added.push(sd3pipe(&["plan", "bench.ron"]));
        fs::remove_file(folder.path().join("photos/new.png")).expect("removed");
        fs::remove_file(folder.path().join("photos/new.txt")).expect("removed");
    }
    let [bare, idle, plan, added] = [bare, idle, plan, added].map(median);
    let index = fs::metadata(folder.path().join(".sd3pipe/index.sqlite")).expect("an index").len() as f64;
    let kept = sd3pipe(&["gc", "bench.ron", "--keep-runs", "2"]);
    let removed = sd3pipe(&["gc", "bench.ron", "--keep-runs", "0"]);
    let left = walkdir::WalkDir::new(folder.path().join(".sd3pipe/objects")).min_depth(2).into_iter().count();
    assert_eq!(left, 0, "what nobody needs was left");

    let time = |what, cost: Cost| {
        let shown = format!("{:.2} s ({:.2})", cost.time, cost.kernel);
        Figure { what, value: cost.time, own: cost.time - cost.kernel, shown }
    };
    let beside = |what, cost: Cost, bare: Cost| {
        let figure = time(what, cost);
        Figure { shown: format!("{} = {:.2} ×", figure.shown, cost.time / bare.time), ..figure }
    };
    let size = |what, bytes: f64, more: String| Figure {
        what,
        value: bytes,
        own: bytes,
        shown: format!("{:.0} MiB{more}", bytes / 1_048_576.0),
    };
    let memory = |what, cost: Cost| size(what, cost.memory, String::new());
    let most = if kept.memory > removed.memory { kept } else { removed };
    vec![
        time("bare sorted walk and stat of the files", bare),
        beside("`run` with nothing to do", idle, bare),
        time("`plan` with nothing to do", plan),
        time("`plan` when one picture was added: every key, every look-up", added),
        time("the same walk, each file read", read),
        beside("`plan` without a store: every file read, every key", new, read),
        time("filling the store, encoding simulated", filled),
        time("`gc` that finds everything needed", kept),
        time("`gc` that removes everything", removed),
        size("index", index, format!(", {:.0} bytes an item", index / items as f64)),
        memory("memory of `run` with nothing to do", idle),
        memory("memory of `plan` without a store", new),
        memory("memory of `plan` when one picture was added", added),
        memory("memory of filling the store", filled),
        memory("memory of `gc`", most),
    ]
}

fn cost(command: &mut Command) -> Cost {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("it starts");
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{}/{name}", child.id())).expect("it is a child until it is waited for")
    };
    let mut peak = 0.0_f64;
    loop {
        let status = read("status");
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        // Of a process that has ended there is no such line.
        let most = line("VmHWM:").and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(most.unwrap_or(0.0) * 1024.0);
        if line("State:").is_some_and(|state| state.trim().starts_with('Z')) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Of its only thread, in nanoseconds; whole hundredths of a second are all that is told of a process with several.
    let time: f64 = read("schedstat").split(' ').next().and_then(|time| time.parse().ok()).expect("nanoseconds");
    // After the name, which is in brackets; in hundredths of a second.
    let stat = read("stat");
    let kernel = stat.rsplit(')').next().and_then(|after| after.split(' ').nth(13)?.parse::<f64>().ok());
    assert!(child.wait().expect("a child").success(), "{command:?}");
    let cost = Cost { time: time / 1e9, kernel: kernel.expect("hundredths of a second") / 100.0, memory: peak };
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let (what, passed, mebibytes) = (arguments.join(" "), begun.elapsed().as_secs_f64(), cost.memory / 1_048_576.0);
    eprintln!(
        "{what}: {:.2} s, {:.2} of them the kernel's, within {passed:.0} s; {mebibytes:.0} MiB",
        cost.time, cost.kernel
    );
    cost
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|one, other| one.time.total_cmp(&other.time));
    costs[costs.len() / 2]
}

fn bare_walk(folder: &Path, read: bool) -> u64 {
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("its metadata");
        bytes += metadata.len();
        if read && metadata.is_file() {
            bytes += fs::read(entry.path()).expect("it can be read").len() as u64;
        }
    }
    bytes
}

/// Runs the pipeline as the command line does, but for the networks.
fn fill(folder: &Path) {
    let resolved = pipeline::load(&folder.join("bench.ron"), &[]).expect("the pipeline is right");
    let store = Store::open(&folder.join(".sd3pipe")).expect("a store");
    let id = store.begin_run("bench", &serde_json::Value::Null).expect("a run");
    let (interrupt, options) = (&Interrupt::new(), Options { ignore_space: true, ..Options::default() });
    let runner = Runner {
        resolved: &resolved,
        store: &store,
        engine: &Simulated,
        progress: &Silent,
        interrupt,
        options,
        remote: None,
    };
    let (journal, result): (Journal, _) = runner.run(Default::default());
    result.expect("it ends well");
    store.update_run(id, "done", &serde_json::to_value(&journal).expect("JSON")).expect("noted");
}

/// A picture of one colour with a caption.
fn picture(folder: &Path, name: &str, number: usize) {
    let [blue, green, red, ..] = number.to_le_bytes();
    let path = folder.join("photos").join(name);
    image::RgbImage::from_pixel(64, 64, image::Rgb([red, green, blue])).save(&path).expect("written");
    fs::write(path.with_extension("txt"), format!("a picture in {red}, {green} and {blue}")).expect("written");
}

fn make(folder: &Path, items: usize) {
    for number in 0..items {
        if number % A_FOLDER == 0 {
            fs::create_dir_all(folder.join(format!("photos/{:04}", number / A_FOLDER))).expect("a folder");
        }
        picture(folder, &format!("{:04}/{number:07}.png", number / A_FOLDER), number);
    }
    let path = |name: &str| format!("{:?}", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model").join(name));
    let pipeline = format!(
        "Pipeline(name: \"bench\", device: Cpu, model: (checkpoint: {}, clip_l: {}, clip_g: {}), stages: {{
            \"captions\": Captions(data: [(path: \"photos\")]),
            \"text\": EncodeText(precision: F32),
            \"latents\": EncodeImages(resolution: 64, buckets: None),
        }})",
        path("sd3_tiny.safetensors"),
        path("clip_l.safetensors"),
        path("clip_g.safetensors"),
    );
    fs::write(folder.join("bench.ron"), pipeline).expect("written");
}
