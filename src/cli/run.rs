//! `sd3pipe run`: runs what changed and reuses the rest.

use super::{Failure, Target, print, progress, stage_index, text};
use crate::{
    pipeline::Resolved,
    report,
    run::{Journal, Networks, Options, Runner, previous_keys},
};
use clap::Args;
use sd3pipe_cache::{Run as Entry, Store};
use sd3pipe_stages::work::Interrupt;
use std::{collections::BTreeSet, path::PathBuf, time::Instant};

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    target: Target,
    /// The last stage to run, with all that it reads from.
    #[arg(long, value_name = "STAGE")]
    until: Option<String>,
    /// Does a stage anew whatever the store has. May be given several times.
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Begins even if the disk seems to have no room for what will be written.
    #[arg(long)]
    ignore_space: bool,
}

static INTERRUPT: Interrupt = Interrupt::new();

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let start = Instant::now();
        let resolved = self.target.resolve()?;
        let options = Options {
            until: self.until.as_deref().map(|name| stage_index(&resolved, name)).transpose()?,
            force: self.force.iter().map(|name| stage_index(&resolved, name)).collect::<Result<BTreeSet<_>, _>>()?,
            ignore_space: self.ignore_space,
        };
        let store = Store::open(&self.target.store(&resolved))?;
        // The first Ctrl-C lets the stage save its state; the second ends the program where it is, which loses no more than a kill.
        let installed = ctrlc::set_handler(|| {
            if INTERRUPT.asked() {
                std::process::exit(130);
            }
            INTERRUPT.ask();
            eprintln!("\nstopping after this step; once more to stop at once");
        });
        if let Err(error) = installed {
            eprintln!("note: Ctrl-C can't be caught and will end the run like a kill: {error}");
        }
        let progress = progress::new();
        let previous =
            previous_keys(&resolved, Some(&store)).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
        // A run that is killed leaves this: it hides nothing of what the runs before it knew.
        let document = serde_json::to_value(Journal::new(&resolved, &previous)).unwrap_or_default();
        let id = store.begin_run(&resolved.pipeline.name, &document)?;
        let runner = Runner {
            resolved: &resolved,
            store: &store,
            engine: &Networks,
            progress: &*progress,
            interrupt: &INTERRUPT,
            options,
        };
        let (mut journal, result) = runner.run(previous);
        // While the run is under way, so that no collection takes what the page is made of.
        let reported = match result.is_ok() && self.until.is_none() && resolved.pipeline.report {
            true => write_report(&resolved, &store, id, &mut journal),
            false => Ok(None),
        };
        if let Ok(Some(path)) = &reported {
            progress.line(&format!("wrote {}", path.display()));
        }
        let outcome = match &result {
            Ok(()) => "done",
            Err(crate::run::RunError::Interrupted) => "interrupted",
            Err(crate::run::RunError::Changed { .. }) => "inputs changed",
            Err(_) => "failed",
        };
        let noted = store.update_run(id, outcome, &serde_json::to_value(&journal).unwrap_or_default());
        store.notices().iter().for_each(|notice| eprintln!("note: {}", text::safe(notice)));
        print(&summary(&resolved, &journal, result.is_ok(), start.elapsed().as_secs_f64()))?;
        // How the run ended comes first: what the journal lacks may have the same cause.
        if let (Err(_), Err(error)) = (&result, &noted) {
            eprintln!("note: the journal does not know how this run ended: {error}");
        }
        result?;
        noted?;
        reported.map(drop)
    }
}

/// Writes the page of a run that trained or drew, unless the one that is there shows the same.
fn write_report(
    resolved: &Resolved,
    store: &Store,
    id: u64,
    journal: &mut Journal,
) -> Result<Option<PathBuf>, Failure> {
    let path = report::path(resolved);
    let tells = journal.stages.iter().any(|stage| ["Train", "Sample"].contains(&stage.kind.as_str()));
    if !tells || report::is_current(&path, journal) {
        return Ok(None);
    }
    let Some(run) = store.run(id)? else { return Ok(None) };
    let document = serde_json::to_value(&*journal).unwrap_or_default();
    let run = Entry { outcome: "done".to_owned(), document, ..run };
    let written = report::write(&run, store, resolved, &path, true)
        .map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
    written.verdicts.into_iter().for_each(|(stage, key)| journal.add_verdicts(&stage, key));
    Ok(Some(path.strip_prefix(&resolved.folder).unwrap_or(&path).to_owned()))
}

/// What was done and what was reused, a line a stage; one line when everything was.
fn summary(resolved: &Resolved, journal: &Journal, whole: bool, seconds: f64) -> String {
    let names: Vec<&str> = journal.stages.iter().map(|stage| stage.name.as_str()).collect();
    if whole && !journal.did_something() {
        return format!("nothing to do: reused {} ({})\n", names.join(", "), text::duration(seconds));
    }
    let rows: Vec<Vec<String>> = journal
        .stages
        .iter()
        .map(|stage| {
            let (word, amount) = match (stage.executed.len(), stage.actions) {
                (0, _) if stage.result.is_none() => ("failed", String::new()),
                (0, Some(items)) if stage.kind == "Captions" => ("read", text::units(items, "items")),
                (0, _) => ("reused", String::new()),
                (done, Some(total)) => ("ran", format!("{} of {}", text::count(done), text::count(total))),
                (done, None) => ("unfinished", format!("{} done and kept", text::count(done))),
            };
            let time = if stage.executed.is_empty() { String::new() } else { text::duration(stage.seconds) };
            vec![stage.name.clone(), word.to_owned(), amount, time]
        })
        .collect();
    let delivered = journal.stages.iter().any(|stage| ["Export", "Sample"].contains(&stage.kind.as_str()));
    let end = match (whole, delivered) {
        (false, _) => String::new(),
        (true, false) => format!("done ({})\n", text::duration(seconds)),
        (true, true) => format!("results in out/{}/ ({})\n", resolved.pipeline.name, text::duration(seconds)),
    };
    text::table(&rows) + &end
}
