//! `sd3pipe doctor`: what this machine has for a pipeline, what it lacks, and the remedy.

use super::{Failure, Location, print, text};
use crate::{
    hub::{self, Cache},
    pipeline,
    run::free_bytes,
};
use clap::Args;
use sd3pipe_cache::Store;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    location: Location,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// What to do, where something is to be done.
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Good,
    /// Nothing can go wrong for it, but something could go better.
    Note,
    /// A run will fail.
    Bad,
}

impl Finding {
    fn new(what: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { what, state, found: found.into(), remedy: None }
    }

    fn hint(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// A store with less room than this will hardly hold the checkpoints of a training.
const LITTLE_ROOM: u64 = 50 << 30;

/// With less memory SD3-medium can't be loaded.
const LITTLE_MEMORY: u64 = 12 << 30;

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut findings = vec![program()];
        findings.extend(processor());
        findings.extend(graphics(Path::new("/proc/driver/nvidia"), &nvidia_smi()));
        findings.push(self.room());
        findings.push(self.store());
        findings.extend(hugging_face());
        findings.extend(self.pipeline());
        let word = |state| match state {
            State::Good => "good",
            State::Note => "note",
            State::Bad => "bad",
        };
        let rows = findings.iter().flat_map(|Finding { what, state, found, remedy }| {
            let row = vec![(*what).to_owned(), word(*state).to_owned(), found.clone()];
            let remedy = remedy.iter().map(|remedy| vec![String::new(), String::new(), format!("→ {remedy}")]);
            [row].into_iter().chain(remedy)
        });
        print(&text::table(&rows.collect::<Vec<_>>()))?;
        match findings.iter().filter(|finding| finding.state == State::Bad).count() {
            0 => Ok(()),
            bad => Err(Failure::Unwell(bad)),
        }
    }

    fn room(&self) -> Finding {
        let folder = self.location.folder();
        match free_bytes(&folder) {
            None => Finding::new("disk", State::Note, format!("{} does not say how much is free", folder.display())),
            Some(free) => {
                let found = format!("{} free for {}", text::size(free), folder.display());
                if free > LITTLE_ROOM {
                    return Finding::new("disk", State::Good, found);
                }
                let remedy =
                    "`sd3pipe plan` says what a run will write; `sd3pipe gc` frees some, --store names another disk";
                Finding::new("disk", State::Note, found).hint(remedy)
            }
        }
    }

    fn store(&self) -> Finding {
        let folder = self.location.folder();
        match Store::open_read_only(&folder) {
            Ok(None) => Finding::new("store", State::Good, format!("{} is made by the first run", folder.display())),
            Ok(Some(store)) => match store.runs(usize::MAX) {
                Ok(runs) => Finding::new(
                    "store",
                    State::Good,
                    format!("{}, {}", folder.display(), text::units(runs.len(), "runs")),
                ),
                Err(error) => Finding::new("store", State::Bad, error.to_string()).hint("`sd3pipe verify --repair`"),
            },
            Err(error) => Finding::new("store", State::Bad, error.to_string()),
        }
    }

    /// What is wrong with the pipeline, if one was named.
    fn pipeline(&self) -> Option<Finding> {
        let path = &self.location.pipeline;
        if path.is_dir() {
            return None;
        }
        Some(match pipeline::load(path, &[]) {
            Err(found) => {
                let first = found.list.first().map(|first| first.message.clone()).unwrap_or_default();
                let mistakes = text::units(found.list.len(), "mistakes");
                let remedy = format!("`sd3pipe plan {}` shows them where they stand", path.display());
                Finding::new("pipeline", State::Bad, format!("{mistakes}: {first}")).hint(remedy)
            }
            Ok(resolved) => match resolved.missing().count() {
                0 => Finding::new(
                    "pipeline",
                    State::Good,
                    format!("{} is right, and its model is there", path.display()),
                ),
                missing => {
                    let state = if hub::is_offline() { State::Bad } else { State::Note };
                    let found = format!("{} to be downloaded", text::units(missing, "files"));
                    Finding::new("pipeline", state, found).hint(format!("`sd3pipe fetch {}`", path.display()))
                }
            },
        })
    }
}

/// The program, and what was built into it.
fn program() -> Finding {
    let parts = [
        ("networks", cfg!(feature = "compute")),
        ("CUDA", cfg!(feature = "cuda")),
        ("downloads", cfg!(feature = "hub")),
    ];
    let has =
        |wanted: bool| parts.iter().filter(|(_, there)| *there == wanted).map(|(part, _)| *part).collect::<Vec<_>>();
    let without = has(false);
    let mut found = format!("sd3pipe {} with {}", env!("CARGO_PKG_VERSION"), has(true).join(", "));
    if !without.is_empty() {
        found += &format!("; without {}", without.join(", "));
    }
    if !cfg!(feature = "compute") {
        return Finding::new("program", State::Bad, found)
            .hint("it can plan and explain; build with the default features to run");
    }
    Finding::new("program", State::Good, found)
}

/// Processors and memory.
fn processor() -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut findings = vec![Finding::new("processors", State::Good, text::units(cores, "threads"))];
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let (Some(total), Some(free)) = (kibibytes(&memory, "MemTotal:"), kibibytes(&memory, "MemAvailable:")) {
        let found = format!("{}, {} of it free", text::size(total), text::size(free));
        findings.push(if free >= LITTLE_MEMORY {
            Finding::new("memory", State::Good, found)
        } else {
            Finding::new("memory", State::Note, found)
                .hint("SD3-medium needs more to be loaded; `sd3pipe plan` says how much a run needs")
        });
    }
    findings
}

/// A line of /proc/meminfo, in bytes.
fn kibibytes(memory: &str, name: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// What `nvidia-smi` says: a line a GPU with its name, its memory and what of that is free, in MiB.
fn nvidia_smi() -> Option<String> {
    let query = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// GPUs, and whether driver and program can use them.
fn graphics(driver: &Path, listed: &Option<String>) -> Vec<Finding> {
    let version = fs::read_to_string(driver.join("version")).ok();
    let version = version.as_deref().and_then(|text| text.lines().next()).and_then(driver_version);
    let gpus: Vec<&str> = listed.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty()).collect();
    let mut findings = Vec::new();
    for gpu in &gpus {
        let cells: Vec<&str> = gpu.split(',').map(str::trim).collect();
        let mebibytes = |cell: usize| {
            cells
                .get(cell)
                .and_then(|cell| cell.parse::<u64>().ok())
                .map_or("?".to_owned(), |amount| text::size(amount << 20))
        };
        let found = format!("{}, {}, {} of it free", cells.first().unwrap_or(&"?"), mebibytes(1), mebibytes(2));
        findings.push(Finding::new("GPU", State::Good, found));
    }
    match version {
        Some(version) => {
            let library = Finding::new("driver", State::Good, format!("NVIDIA {version}"));
            findings.push(match (gpus.is_empty(), has_library("libcuda.so.1")) {
                (_, false) => Finding { state: State::Bad, ..library }
                    .hint("libcuda.so.1 is not to be found: install the driver's CUDA part; in a container start it with `--gpus all`"),
                (true, true) => Finding { state: State::Note, ..library }
                    .hint("nvidia-smi lists no GPU: look at what it says"),
                (false, true) => library,
            });
            if cfg!(feature = "cuda") && !has_libdevice() {
                let none = Finding::new(
                    "CUDA",
                    State::Bad,
                    "nvvm/libdevice/libdevice.10.bc of the toolkit is not to be found",
                );
                findings
                    .push(none.hint("install the CUDA toolkit, its compiler at least; CUDA_PATH says where it lies"));
            }
            if !cfg!(feature = "cuda") {
                let remedy = "build with `--features cuda` to use the GPU";
                findings.push(Finding::new("CUDA", State::Note, "this program has none").hint(remedy));
            }
        }
        None => {
            let none = Finding::new("GPU", State::Note, "no NVIDIA driver: the CPU computes");
            findings
                .push(none.hint("that is enough for the demo; a real model wants a GPU of NVIDIA with 24 GB or more"));
        }
    }
    findings
}

/// The version out of the driver's own line, `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  …`.
fn driver_version(line: &str) -> Option<String> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version).map(str::to_owned)
}

/// Whether the linker would find a library: by its own list, and in the folders that it is told of.
fn has_library(name: &str) -> bool {
    let listed = ["ldconfig", "/sbin/ldconfig"].iter().find_map(|ldconfig| {
        let output = Command::new(ldconfig).arg("-p").output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).contains(name))
    });
    let told = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    listed == Some(true) || env::split_paths(&told).any(|folder| folder.join(name).exists())
}

/// Whether there is what compiled kernels take of the toolkit: functions that a GPU has no instruction for. Looked for where burn does.
fn has_libdevice() -> bool {
    let told = env::var_os("CUDA_PATH").map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"].map(PathBuf::from);
    let mut roots = told.map_or(usual.to_vec(), |told| vec![told]).into_iter();
    roots.any(|root| root.join("nvvm/libdevice/libdevice.10.bc").is_file())
}

/// The cache of downloads and the token.
fn hugging_face() -> Vec<Finding> {
    let cache = match Cache::of_user() {
        Some(cache) => Finding::new("downloads", State::Good, format!("kept in {}", cache.folder.display())),
        None => Finding::new("downloads", State::Note, "there is no folder for them").hint("name one, HF_HOME=…"),
    };
    let token = match (hub::is_offline(), hub::has_token()) {
        (true, _) => Finding::new("", State::Note, "HF_HUB_OFFLINE: nothing is downloaded"),
        (false, true) => Finding::new("", State::Good, "with a token for gated models"),
        (false, false) => {
            Finding::new("", State::Note, "no token, which gated models ask for").hint("`hf auth login`, or HF_TOKEN=…")
        }
    };
    vec![cache, token]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_driver_are_read_as_linux_writes_them() {
        let memory = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(
            (kibibytes(memory, "MemTotal:"), kibibytes(memory, "MemAvailable:")),
            (Some(16 << 20), Some(8 << 20))
        );
        assert_eq!(kibibytes(memory, "Swap:"), None);
        let line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024";
        assert_eq!(driver_version(line).as_deref(), Some("550.54.15"));
    }

    #[test]
    fn a_machine_with_and_without_a_gpu_is_told_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let none = graphics(folder.path(), &None);
        assert!(none[0].found.contains("no NVIDIA driver") && none[0].remedy.is_some());
        fs::write(folder.path().join("version"), "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n")
            .unwrap();
        let found = graphics(folder.path(), &Some("NVIDIA H100, 81559, 81000\n".to_owned()));
        assert_eq!(found[0].found, "NVIDIA H100, 80 GiB, 79 GiB of it free");
        assert_eq!(found[1].found, "NVIDIA 550.54.15");
        assert_eq!(found.len(), if cfg!(feature = "cuda") { 2 } else { 3 });
    }
}
