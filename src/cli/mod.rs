//! The command line: one file a verb; nothing else in the program talks to the terminal.

mod diagnostics;
mod failure;
mod graph;
mod init;
mod plan;
mod progress;
mod run;
mod runs;
mod show;
mod status;
mod text;
mod why;

pub use failure::Failure;

use crate::{
    pipeline::{self, Resolved},
    plan::{Estimate, Examined, Planner},
    run::previous_keys,
};
use clap::{Args, Parser, Subcommand};
use sd3pipe_cache::{Key, Store};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::PathBuf,
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
    /// Lists the runs of a store.
    Runs(runs::Runs),
    /// Shows one run.
    Show(show::Show),
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
    fn folder(&self, beside: &std::path::Path) -> PathBuf {
        let chosen = self
            .store
            .clone()
            .or_else(|| std::env::var_os("SD3PIPE_STORE").filter(|value| !value.is_empty()).map(PathBuf::from));
        chosen.unwrap_or_else(|| beside.join(".sd3pipe"))
    }
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
    let outcome = match CommandLine::parse().verb {
        Verb::Init(verb) => verb.run(),
        Verb::Plan(verb) => verb.run(),
        Verb::Run(verb) => verb.run(),
        Verb::Why(verb) => verb.run(),
        Verb::Status(verb) => verb.run(),
        Verb::Graph(verb) => verb.run(),
        Verb::Runs(verb) => verb.run(),
        Verb::Show(verb) => verb.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints to standard output. Whoever stopped listening, `head` for one, is no error.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
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
            let survey = planner.survey(wanted.iter().copied());
            match survey.and_then(|examined| Ok((planner.estimate(&examined)?, examined))) {
                Ok((estimate, examined)) => return Ok(Self { planner, examined, estimate, previous }),
                Err((index, error)) => match error.lost_object() {
                    // A run makes a lost object again; this only counts it as missing.
                    Some(digest) => planner.lose(digest),
                    None => return Err(Failure::plan(&resolved.stages[index].name, error)),
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
