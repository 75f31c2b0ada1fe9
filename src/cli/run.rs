//! `sd3pipe run`: runs what changed and reuses the rest.

use super::{
    Failure, Target,
    notify::{Ending, notify},
    print, progress, shard, stage_indices, text,
};
use crate::{
    pipeline::Resolved,
    plan::EpochLosses,
    remote::{self, Remote, RemoteFault},
    report,
    run::{Comparison, Journal, Networks, Options, RunError, Runner, Shard, StageEntry, previous_keys},
};
use clap::Args;
use sd3pipe_cache::{Key, Run as Entry, Store};
use sd3pipe_stages::{
    device::Devices,
    work::{Interrupt, Progress},
};
use std::{collections::BTreeMap, path::PathBuf, time::Instant};

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
    /// Exports and draws the samples of a training after every so many epochs, before it goes on. Costs loading and saving in between.
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    sample_every: Option<u32>,
    /// Makes only a share of the texts and latents, and trains nothing: `2/8` for the second of eight, `auto` in a job array of Slurm,
    /// `auto/8` in an indexed job of Kubernetes with eight completions. All shards work on one store.
    #[arg(long, value_name = "NUMBER/COUNT", value_parser = shard::parse, conflicts_with = "sample_every")]
    shard: Option<Shard>,
    /// A command to run in a shell at the end, however the run ends [default: $SD3PIPE_NOTIFY]. It finds SD3PIPE_OUTCOME, _PIPELINE, _RUN,
    /// _SECONDS, _ERROR and _OUT in its environment; its failure is no failure of the run.
    #[arg(long, value_name = "COMMAND")]
    notify: Option<String>,
}

pub(super) static INTERRUPT: Interrupt = Interrupt::new();

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let progress = progress::new();
        let resolved = self.target.fetch(&*progress)?;
        let forced =
            self.force.iter().map(|name| stage_indices(&resolved, name)).collect::<Result<Vec<_>, Failure>>()?;
        let options = Options {
            until: self.until.as_deref().map(|name| stage_indices(&resolved, name)).transpose()?.unwrap_or_default(),
            force: forced.into_iter().flatten().collect(),
            ignore_space: self.ignore_space,
            sample_every: self.sample_every.map(|every| every as usize),
            shard: self.shard,
            ..Options::default()
        };
        if self.shard.is_some() {
            shard::refuse_whole(&resolved, options.until.iter().chain(&options.force))?;
        }
        let folder = self.target.store(&resolved);
        sd3pipe_stages::device::keep_kernels(&folder);
        let store = Store::open(&folder)?;
        let previous =
            previous_keys(&resolved, Some(&store)).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
        let notify = self.notify.or_else(|| std::env::var("SD3PIPE_NOTIFY").ok());
        let beside = Beside {
            report: self.until.is_none() && resolved.pipeline.report,
            notify: notify.filter(|command| !command.is_empty()),
        };
        carry_out(&resolved, &store, options, &resolved.pipeline.name, previous, &*progress, &beside)
    }
}

/// What a run does beside its stages.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Whether it writes the page.
    report: bool,
    /// A command to run at its end.
    notify: Option<String>,
}

/// The first Ctrl-C lets the stage save its state; the second ends the program where it is, which loses no more than a kill.
pub(super) fn catch_interrupts() {
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
}

/// Runs a pipeline, writes it down as a run of `name`, and says what was done.
pub(super) fn carry_out(
    resolved: &Resolved,
    store: &Store,
    options: Options,
    name: &str,
    previous: BTreeMap<String, Key>,
    progress: &dyn Progress,
    beside: &Beside,
) -> Result<(), Failure> {
    let start = Instant::now();
    if let Some(lacking) = resolved.pipeline.devices.as_ref().and_then(Devices::lacking) {
        progress.line(&lacking);
    }
    let (remote, only_fetch) = (remote::open(&resolved.pipeline.store)?, options.only_fetch);
    catch_interrupts();
    // A run that is killed leaves this: it hides nothing of what the runs before it knew.
    let document = serde_json::to_value(Journal::new(resolved, &previous)).unwrap_or_default();
    let id = store.begin_run(name, &document)?;
    let (engine, interrupt, remote) = (&Networks, &INTERRUPT, remote.as_ref());
    let runner = Runner { resolved, store, remote, engine, progress, interrupt, options };
    let (mut journal, result) = runner.run(previous);
    let comparison = match result.is_ok() && !only_fetch {
        true => Comparison::of(resolved, &journal, store),
        false => Ok(None),
    };
    // While the run is under way, so that no collection takes what the pages are made of.
    let reported = match (&comparison, result.is_ok() && beside.report) {
        (Ok(comparison), true) => write_pages(resolved, store, id, &mut journal, comparison.as_ref()),
        _ => Ok(Vec::new()),
    };
    for path in reported.iter().flatten() {
        progress.line(&format!("wrote {}", path.display()));
    }
    let outcome = match &result {
        Ok(()) if only_fetch => "pulled",
        Ok(()) => "done",
        Err(RunError::Interrupted) => "interrupted",
        Err(RunError::Changed { .. }) => "inputs changed",
        Err(_) => "failed",
    };
    let noted = store.update_run(id, outcome, &serde_json::to_value(&journal).unwrap_or_default());
    let told = [store.notices(), remote.map(Remote::notices).unwrap_or_default()].concat();
    told.iter().for_each(|notice| eprintln!("note: {}", text::safe(notice)));
    print(&summary(resolved, &journal, result.is_ok(), start.elapsed().as_secs_f64()))?;
    let fault = |error| Failure::plan(&resolved.pipeline.name, error);
    if let Some(comparison) = comparison.map_err(fault)? {
        comparison.write(resolved).map_err(fault)?;
        print(&compared(&comparison))?;
    }
    if let Some(command) = &beside.notify {
        let (pipeline, error) = (&*resolved.pipeline.name, journal.error.as_deref());
        let (seconds, out) = (start.elapsed().as_secs_f64(), &resolved.results);
        notify(command, &Ending { outcome, pipeline, run: id, seconds, error, out });
    }
    // How the run ended comes first: what the journal lacks may have the same cause.
    if let (Err(_), Err(error)) = (&result, &noted) {
        eprintln!("note: the journal does not know how this run ended: {error}");
    }
    result?;
    noted?;
    if let Some(remote) = remote.filter(|remote| only_fetch && (remote.is_gone() || remote.lacks_something())) {
        return Err(RemoteFault::Unfinished { address: remote.address().to_owned() }.into());
    }
    reported.map(drop)
}

/// Writes the pages of a run that trained or drew, unless those that are there show the same: its own, and the one of its grid.
fn write_pages(
    resolved: &Resolved,
    store: &Store,
    id: u64,
    journal: &mut Journal,
    comparison: Option<&Comparison>,
) -> Result<Vec<PathBuf>, Failure> {
    let of_grid = comparison.map(|comparison| (report::comparison_path(resolved), Some(comparison)));
    let pages = [Some((report::path(resolved), None)), of_grid].into_iter().flatten();
    let pages: Vec<_> = pages.filter(|(path, _)| !report::is_current(path, journal)).collect();
    let tells = journal.stages.iter().any(|stage| ["Train", "Sample"].contains(&stage.kind.as_str()));
    if !tells || pages.is_empty() {
        return Ok(Vec::new());
    }
    let Some(run) = store.run(id)? else { return Ok(Vec::new()) };
    let document = serde_json::to_value(&*journal).unwrap_or_default();
    let run = Entry { outcome: "done".to_owned(), document, ..run };
    // Verdicts that had to be found are kept.
    let gathered = report::Gathered::of(&run, store, &resolved.folder, true)?;
    for (path, comparison) in &pages {
        report::write(&gathered, *comparison, path).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
    }
    for gallery in &gathered.galleries {
        gallery.key.into_iter().for_each(|key| journal.add_verdicts(&gallery.name, key));
    }
    let shown = |path: PathBuf| path.strip_prefix(&resolved.folder).map_or(path.clone(), ToOwned::to_owned);
    Ok(pages.into_iter().map(|(path, _)| shown(path)).collect())
}

/// What was done and what was reused, a line a stage; one line when everything was.
fn summary(resolved: &Resolved, journal: &Journal, whole: bool, seconds: f64) -> String {
    let names: Vec<&str> = journal.stages.iter().map(|stage| stage.name.as_str()).collect();
    let reused = |stage: &StageEntry| stage.left.is_none() && stage.fetched == 0;
    if whole && !journal.did_something() && journal.stages.iter().all(reused) {
        return format!("nothing to do: reused {} ({})\n", names.join(", "), text::duration(seconds));
    }
    let rows: Vec<Vec<String>> = journal
        .stages
        .iter()
        .map(|stage| {
            let of_all =
                |done| format!("{} of {}", text::count(done), stage.actions.map_or(String::new(), text::count));
            let (word, amount) = match (stage.executed.len(), stage.actions, stage.left) {
                (0, _, Some(left)) => ("left", format!("{} to other shards", of_all(left))),
                (done, _, Some(left)) => {
                    ("ran", format!("{}, {} left to other shards", of_all(done), text::count(left)))
                }
                (0, ..) if stage.result.is_none() => ("failed", String::new()),
                (0, Some(items), _) if stage.kind == "Captions" => ("read", text::units(items, "items")),
                (0, ..) if stage.fetched > 0 => ("fetched", text::units(stage.fetched, "results")),
                (0, ..) => ("reused", String::new()),
                (done, Some(_), _) => ("ran", of_all(done)),
                (done, None, _) => ("unfinished", format!("{} done and kept", text::count(done))),
            };
            let time = if stage.executed.is_empty() { String::new() } else { text::duration(stage.seconds) };
            vec![stage.name.clone(), word.to_owned(), amount, time]
        })
        .collect();
    let delivered = journal.stages.iter().any(|stage| ["Export", "Sample"].contains(&stage.kind.as_str()));
    let results = resolved.results.strip_prefix(&resolved.folder).unwrap_or(&resolved.results).display();
    let end = match (whole, delivered) {
        (false, _) => String::new(),
        (true, false) => format!("done ({})\n", text::duration(seconds)),
        (true, true) => format!("results in {results}/ ({})\n", text::duration(seconds)),
    };
    text::table(&rows) + &end
}

/// A line for each point of a grid.
fn compared(comparison: &Comparison) -> String {
    let mut rows = vec![["point", "epochs", "loss", "held out", "lowest", "results"].map(str::to_owned).to_vec()];
    let number = |loss: Option<f64>| loss.map_or(String::new(), |loss| format!("{loss:.4}"));
    for point in &comparison.points {
        let last = point.epochs.last().copied().unwrap_or_default();
        let lowest = EpochLosses::best(&point.epochs);
        rows.push(vec![
            point.point.clone(),
            text::count(point.epochs.len()),
            number(last.trained),
            number(last.held_out),
            lowest.map_or(String::new(), |(epoch, loss)| format!("{loss:.4} at epoch {epoch}")),
            point.folder.as_ref().map_or(String::new(), |folder| format!("{}/", folder.display())),
        ]);
    }
    let best =
        comparison.best().map(|(point, epoch)| format!("lowest on what is held out: {}, epoch {epoch}\n", point.point));
    format!("\n{}{}", text::table(&rows), best.unwrap_or_default())
}
