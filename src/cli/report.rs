//! `sd3pipe report`: the page of the last run, and the one of its grid, made again.

use super::{Failure, Target, print, runs, text};
use crate::{
    report,
    run::{Comparison, Journal},
};
use clap::Args;
use sd3pipe_cache::{Run, Store};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Report {
    #[command(flatten)]
    target: Target,
    /// The run's number, in the place of the pipeline's last one.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Writes the page there [default: out/<pipeline>/report.html].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Prints the verdicts as JSON, for programs, and writes nothing.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Report {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.resolve()?;
        let folder = self.target.store(&resolved);
        let name = &resolved.pipeline.name;
        let none = || {
            Failure::Usage(format!("`{name}` was never run here\nhint: sd3pipe run {}", self.target.pipeline.display()))
        };
        let store = Store::open_read_only(&folder)?.ok_or_else(none)?;
        let run = match &self.run {
            Some(run) => runs::find(&store, run)?,
            None => last(&store, name)?.ok_or_else(none)?,
        };
        if run.pipeline != *name {
            let message = format!("run {} is of `{}` and not of `{name}`", run.id, run.pipeline);
            return Err(Failure::Usage(format!("{message}\nhint: `sd3pipe runs` lists them")));
        }
        let gathered = report::Gathered::of(&run, &store, &resolved.folder, false)?;
        if self.json {
            let verdicts: serde_json::Map<_, _> = report::verdicts(&gathered)
                .map(|(stage, verdicts)| (stage.to_owned(), serde_json::json!(verdicts)))
                .collect();
            return print(&format!("{:#}\n", serde_json::json!({ "run": run.id, "verdicts": verdicts })));
        }
        let write = |comparison: Option<&Comparison>, path: &Path| {
            let length = report::write(&gathered, comparison, path).map_err(|error| Failure::plan(name, error))?;
            print(&format!("run #{} in {} ({})\n", run.id, path.display(), text::size(length as u64)))
        };
        // What the store has lost is left out: then of a grid there is no page.
        let comparison = Comparison::of(&resolved, &gathered.journal, &store).ok().flatten();
        match (&self.output, comparison) {
            (Some(path), _) => write(None, path),
            (None, None) => write(None, &report::path(&resolved)),
            (None, Some(comparison)) => {
                write(None, &report::path(&resolved))?;
                write(Some(&comparison), &report::comparison_path(&resolved))
            }
        }
    }
}

/// The newest run of a pipeline that came to anything.
fn last(store: &Store, name: &str) -> Result<Option<Run>, Failure> {
    let came = |run: &Run| {
        let journal = serde_json::from_value::<Journal>(run.document.clone()).unwrap_or_default();
        run.pipeline == name && journal.stages.iter().any(|stage| stage.result.is_some())
    };
    Ok(store.runs(usize::MAX)?.into_iter().find(came))
}
