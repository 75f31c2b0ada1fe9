//! The command line: one file a verb; nothing else in the program talks to the terminal.

pub mod diagnostics;
mod failure;
mod gc;
mod graph;
mod init;
mod pin;
mod plan;
mod progress;
mod report;
mod run;
mod runs;
mod show;
mod status;
mod store;
pub(crate) mod text;
mod verify;
mod why;

pub use failure::Failure;

use crate::{
    pipeline::{self, Resolved},
    plan::{Estimate, Examined, Planner},
    run::previous_keys,
};
use clap::{Args, Parser, Subcommand};
use sd3pipe_cache::{Key, Store};
use sd3pipe_stages::text::tokenizer::panics_are_caught;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    panic,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Fine-tunes Stable Diffusion 3 from a declarative pipeline file, and reruns only what changed.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Writes a commented pipeline for a folder of images.
    Init(init::Init),
    /// Says what a run would do, and why. Loads no model and writes nothing.
    Plan(plan::Plan),
    /// Runs what changed and reuses the rest.
    Run(run::Run),
    /// Compares the key of a stage with that of the last run, field by field, root cause first.
    Why(why::Why),
    /// Says which stages are up to date.
    Status(status::Status),
    /// Draws the stages and what they read from each other.
    Graph(graph::Graph),
    /// Writes the page of the last run again: losses, samples, verdicts on the checkpoints.
    Report(report::Report),
    /// Lists the runs of a store.
    Runs(runs::Runs),
    /// Shows one run.
    Show(show::Show),
    /// Says what takes how much room in a store, and which pipeline needs it.
    Store(store::Usage),
    /// Removes from a store what no pin, no run that is under way and none of the last runs needs.
    Gc(gc::Gc),
    /// Keeps the results of a run whatever `gc` is asked to remove.
    Pin(pin::Pin),
    /// Takes a pin off a run.
    Unpin(pin::Unpin),
    /// Reads everything in a store and says what is damaged.
    Verify(verify::Verify),
}

/// Which pipeline, with which settings, on which store.
#[derive(Debug, Args)]
struct Target {
    /// The pipeline file.
    pipeline: PathBuf,
    /// Sets a field for this once: `--set train.learning_rate=5e-5`. May be given several times.
    #[arg(long = "set", value_name = "STAGE.FIELD=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    place: StorePlace,
}

/// Which store.
#[derive(Debug, Args)]
struct StorePlace {
    /// The store [default: $SD3PIPE_STORE, or `.sd3pipe` beside the pipeline].
    #[arg(long, value_name = "FOLDER")]
    store: Option<PathBuf>,
}

impl StorePlace {
    fn folder(&self, beside: &Path) -> PathBuf {
        let chosen = self
            .store
            .clone()
            .or_else(|| std::env::var_os("SD3PIPE_STORE").filter(|value| !value.is_empty()).map(PathBuf::from));
        chosen.unwrap_or_else(|| beside.join(".sd3pipe"))
    }
}

/// The store beside a pipeline, or the one that was named.
#[derive(Debug, Args)]
struct Location {
    /// A pipeline file, or the folder that it lies in: its store is meant.
    #[arg(default_value = ".")]
    pipeline: PathBuf,
    #[command(flatten)]
    place: StorePlace,
}

impl Location {
    fn folder(&self) -> PathBuf {
        let beside =
            if self.pipeline.is_dir() { &self.pipeline } else { self.pipeline.parent().unwrap_or(Path::new("")) };
        self.place.folder(beside)
    }

    /// Opens the store for reading.
    fn read(&self) -> Result<Store, Failure> {
        let folder = self.folder();
        Store::open_read_only(&folder)?.ok_or_else(|| {
            let hint = "name the pipeline file, or the store with --store";
            Failure::Usage(format!("there is no store at {}\nhint: {hint}", folder.display()))
        })
    }

    /// Opens the store, which must be there, for writing.
    fn write(&self) -> Result<Store, Failure> {
        drop(self.read()?);
        Ok(Store::open(&self.folder())?)
    }
}

/// What the store has to tell its user.
fn say_notices(store: &Store) {
    store.notices().iter().for_each(|notice| eprintln!("note: {notice}"));
}

impl Target {
    fn resolve(&self) -> Result<Resolved, Failure> {
        Ok(pipeline::load(&self.pipeline, &self.settings)?)
    }

    fn store(&self, resolved: &Resolved) -> PathBuf {
        self.place.folder(&resolved.folder)
    }
}

/// Parses the command line, carries it out and turns what came of it into an exit code.
pub fn main() -> ExitCode {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // Others are the program's own mistakes, and are told.
        if !panics_are_caught() {
            usual(panic);
        }
    }));
    let outcome = match CommandLine::parse().verb {
        Verb::Init(verb) => verb.run(),
        Verb::Plan(verb) => verb.run(),
        Verb::Run(verb) => verb.run(),
        Verb::Why(verb) => verb.run(),
        Verb::Status(verb) => verb.run(),
        Verb::Graph(verb) => verb.run(),
        Verb::Report(verb) => verb.run(),
        Verb::Runs(verb) => verb.run(),
        Verb::Show(verb) => verb.run(),
        Verb::Store(verb) => verb.run(),
        Verb::Gc(verb) => verb.run(),
        Verb::Pin(verb) => verb.run(),
        Verb::Unpin(verb) => verb.run(),
        Verb::Verify(verb) => verb.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints to standard output, with nothing in it that a terminal would obey. Whoever stopped listening, `head` for one, is no error.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text::safe(text).as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Usage(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Everything that `plan`, `why`, `status` and `graph` need, without writing anything.
struct Survey<'s> {
    planner: Planner<'s>,
    examined: Vec<Option<Examined>>,
    estimate: Estimate,
    previous: BTreeMap<String, Key>,
}

impl<'s> Survey<'s> {
    fn take(
        resolved: &'s Resolved,
        store: Option<&'s Store>,
        forced: BTreeSet<usize>,
        until: Option<usize>,
    ) -> Result<Self, Failure> {
        let previous = previous_keys(resolved, store).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
        let mut planner = Planner::new(resolved, store, forced, previous.clone());
        let wanted = match until {
            Some(last) => planner.ancestors(last),
            None => (0..resolved.stages.len()).collect::<BTreeSet<_>>(),
        };
        for &index in &wanted {
            planner.check(index).map_err(|error| Failure::plan(&resolved.stages[index].name, error))?;
        }
        loop {
            let survey = planner.survey(wanted.iter().copied(), &mut vec![None; resolved.stages.len()]);
            match survey.and_then(|examined| Ok((planner.estimate(&examined)?, examined))) {
                Ok((estimate, examined)) => return Ok(Self { planner, examined, estimate, previous }),
                Err((index, error)) => match error.lost_object() {
                    // A run makes a lost object again; this only counts it as missing.
                    Some(digest) => planner.lose(digest),
                    None => return Err(Failure::plan(&resolved.stages[index].name, *error)),
                },
            }
        }
    }
}

/// The index of a stage that was named on the command line.
fn stage_index(resolved: &Resolved, name: &str) -> Result<usize, Failure> {
    resolved.index(name).ok_or_else(|| {
        let names: Vec<&str> = resolved.stages.iter().map(|stage| stage.name.as_str()).collect();
        let hint = pipeline::suggestion(name, names.iter().copied())
            .unwrap_or_else(|| format!("the stages are {}", names.join(", ")));
        Failure::Usage(format!("there is no stage `{name}`\nhint: {hint}"))
    })
}
