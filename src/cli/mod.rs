//! The command line: one file a verb; nothing else in the program talks to the terminal.

mod data;
pub mod diagnostics;
mod diff;
mod doctor;
mod examples;
mod failure;
mod fetch;
mod gc;
mod graph;
mod import;
mod init;
mod inspect;
mod manual;
mod notify;
mod pack;
mod pin;
mod plan;
mod progress;
mod pull;
mod push;
mod report;
mod run;
mod runs;
mod sample;
mod shard;
mod show;
mod status;
mod store;
mod submit;
pub(crate) mod text;
mod unpack;
mod verify;
mod why;

pub use failure::Failure;

use crate::{
    pipeline::{self, Resolved, ResolvedStage},
    plan::{Estimate, Examined, Planner},
    run::{fetched, previous_keys},
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
    #[command(after_help = examples::INIT)]
    Init(init::Init),
    /// Downloads what a pipeline names by its address at Hugging Face; `run` does too.
    #[command(after_help = examples::FETCH)]
    Fetch(fetch::Fetch),
    /// Reports on the data: sizes, captions, buckets, pictures that look alike. Needs no model and writes nothing.
    #[command(after_help = examples::DATA)]
    Data(data::Data),
    /// Writes the pipeline of a training of sd-scripts.
    #[command(after_help = examples::IMPORT)]
    Import(import::Import),
    /// Says what a run would do, and why. Loads no model and writes nothing.
    #[command(after_help = examples::PLAN)]
    Plan(plan::Plan),
    /// Runs what changed and reuses the rest.
    #[command(after_help = examples::RUN)]
    Run(run::Run),
    /// Hands a pipeline to a cluster's scheduler: an array of jobs that encode a share each, and one that trains once they are done.
    #[command(after_help = examples::SUBMIT)]
    Submit(submit::Submit),
    /// Draws more samples with checkpoints that a run has trained. Trains nothing.
    #[command(after_help = examples::SAMPLE)]
    Sample(Box<sample::Sample>),
    /// Compares the key of a stage with that of the last run, field by field, root cause first.
    #[command(after_help = examples::WHY)]
    Why(why::Why),
    /// Says which stages are up to date.
    #[command(after_help = examples::STATUS)]
    Status(status::Status),
    /// Draws the stages and what they read from each other.
    #[command(after_help = examples::GRAPH)]
    Graph(graph::Graph),
    /// Says what is in a safetensors file: networks, a LoRA's rank and targets, precision, where it comes from.
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::Inspect),
    /// Writes the page of the last run again: losses, samples, verdicts on the checkpoints.
    #[command(after_help = examples::REPORT)]
    Report(report::Report),
    /// Sends all that the store has of a pipeline to the remote store that it names.
    #[command(after_help = examples::PUSH)]
    Push(push::Push),
    /// Brings all that the remote store has of a pipeline. Computes nothing.
    #[command(after_help = examples::PULL)]
    Pull(pull::Pull),
    /// Writes what stages made into one file, for a machine without the pictures.
    #[command(after_help = examples::PACK)]
    Pack(pack::Pack),
    /// Puts what `pack` has written into a pipeline's store, so that it trains without the pictures.
    #[command(after_help = examples::UNPACK)]
    Unpack(unpack::Unpack),
    /// Lists the runs of a store.
    #[command(after_help = examples::RUNS)]
    Runs(runs::Runs),
    /// Shows one run.
    #[command(after_help = examples::SHOW)]
    Show(show::Show),
    /// Compares two runs: parameters, data, losses, samples.
    #[command(after_help = examples::DIFF)]
    Diff(diff::Diff),
    /// Says what takes how much room in a store, and which pipeline needs it.
    #[command(after_help = examples::STORE)]
    Store(store::Usage),
    /// Removes from a store what no pin, no run that is under way and none of the last runs needs.
    #[command(after_help = examples::GC)]
    Gc(gc::Gc),
    /// Keeps the results of a run whatever `gc` is asked to remove.
    #[command(after_help = examples::PIN)]
    Pin(pin::Pin),
    /// Takes a pin off a run.
    #[command(after_help = examples::UNPIN)]
    Unpin(pin::Unpin),
    /// Reads everything in a store and says what is damaged.
    #[command(after_help = examples::VERIFY)]
    Verify(verify::Verify),
    /// Says what this machine has and lacks for a pipeline: GPU, driver, memory, disk, store, models.
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::Doctor),
    /// Prints a script that completes this program's command lines in a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(manual::Completions),
    /// Prints the manual page, or writes one for each verb.
    #[command(after_help = examples::MAN)]
    Man(manual::Man),
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
    /// The store [default: $SD3PIPE_STORE, or what the pipeline names, or `.sd3pipe` beside it].
    #[arg(long, value_name = "FOLDER")]
    store: Option<PathBuf>,
}

impl StorePlace {
    /// The one that was named.
    fn chosen(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("SD3PIPE_STORE").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.store.clone().or_else(variable)
    }

    /// That of a pipeline file that need not be right, or of the folder that it lies in.
    fn folder_at(&self, pipeline: &Path) -> PathBuf {
        self.chosen().unwrap_or_else(|| {
            let beside = if pipeline.is_dir() { pipeline } else { pipeline.parent().unwrap_or(Path::new("")) };
            pipeline::local_store(pipeline).unwrap_or_else(|| beside.join(pipeline::STORE))
        })
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
        self.place.folder_at(&self.pipeline)
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
        self.place.chosen().unwrap_or_else(|| resolved.pipeline.store.local.clone())
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
        Verb::Data(verb) => verb.run(),
        Verb::Fetch(verb) => verb.run(),
        Verb::Import(verb) => verb.run(),
        Verb::Plan(verb) => verb.run(),
        Verb::Run(verb) => verb.run(),
        Verb::Submit(verb) => verb.run(),
        Verb::Sample(verb) => verb.run(),
        Verb::Why(verb) => verb.run(),
        Verb::Status(verb) => verb.run(),
        Verb::Graph(verb) => verb.run(),
        Verb::Inspect(verb) => verb.run(),
        Verb::Report(verb) => verb.run(),
        Verb::Push(verb) => verb.run(),
        Verb::Pull(verb) => verb.run(),
        Verb::Pack(verb) => verb.run(),
        Verb::Unpack(verb) => verb.run(),
        Verb::Runs(verb) => verb.run(),
        Verb::Show(verb) => verb.run(),
        Verb::Diff(verb) => verb.run(),
        Verb::Store(verb) => verb.run(),
        Verb::Gc(verb) => verb.run(),
        Verb::Pin(verb) => verb.run(),
        Verb::Unpin(verb) => verb.run(),
        Verb::Verify(verb) => verb.run(),
        Verb::Doctor(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(),
        Verb::Man(verb) => verb.run(),
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
        until: &BTreeSet<usize>,
    ) -> Result<Self, Failure> {
        if let Some(file) = resolved.missing().next() {
            return Err(fetch::not_there(file));
        }
        let previous = previous_keys(resolved, store).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
        let mut planner = Planner::new(resolved, store, forced, previous.clone());
        planner.take_as_far(fetched(resolved, store).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?);
        let wanted = planner.needed::<()>(until, &BTreeMap::new());
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

/// The indices of the stages that were named on the command line: of a stage that a grid has made several of all, or those at a
/// part of a point: `train@seed=1`.
fn stage_indices(resolved: &Resolved, name: &str) -> Result<BTreeSet<usize>, Failure> {
    let (base, point) = pipeline::base_and_point(name);
    let is_named = |stage: &ResolvedStage| {
        let (of, at) = stage.base_and_point();
        stage.name == name || (of == base && point.is_none_or(|point| pipeline::is_at(at.unwrap_or_default(), point)))
    };
    let named: BTreeSet<usize> =
        resolved.stages.iter().enumerate().filter(|(_, stage)| is_named(stage)).map(|(index, _)| index).collect();
    if named.is_empty() {
        let names: Vec<&str> = resolved.stages.iter().map(|stage| stage.name.as_str()).collect();
        let hint = pipeline::suggestion(name, names.iter().copied())
            .unwrap_or_else(|| format!("the stages are {}", names.join(", ")));
        return Err(Failure::Usage(format!("there is no stage `{name}`\nhint: {hint}")));
    }
    Ok(named)
}

/// The index of the one stage that was named on the command line.
fn stage_index(resolved: &Resolved, name: &str) -> Result<usize, Failure> {
    let named = stage_indices(resolved, name)?;
    let names: Vec<&str> = named.iter().map(|index| resolved.stages[*index].name.as_str()).collect();
    match (named.first(), named.len()) {
        (Some(index), 1) => Ok(*index),
        _ => Err(Failure::Usage(format!("`{name}` is several stages\nhint: say which: {}", names.join(" or ")))),
    }
}
