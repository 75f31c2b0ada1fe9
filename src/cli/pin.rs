//! `sd3pipe pin` and `unpin`: runs whose results no collection removes.

use super::{Failure, Location, print, runs};
use crate::{
    pipeline,
    run::{Journal, stages_of},
};
use clap::Args;
use sd3pipe_cache::{Run, RunStage, Store};

#[derive(Debug, Args)]
pub(super) struct Pin {
    /// The run's number, or `last`: of the pipeline, if a file is named, else of the store.
    run: String,
    #[command(flatten)]
    location: Location,
    /// What to remember of it; `runs` shows it.
    #[arg(long)]
    note: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Unpin {
    /// The run's number, or `last`, as for `pin`.
    run: String,
    #[command(flatten)]
    location: Location,
}

/// The run that was named.
fn find(store: &Store, name: &str, location: &Location) -> Result<Run, Failure> {
    if name == "last" && location.pipeline.is_file() {
        let resolved = pipeline::load(&location.pipeline, &[])?;
        if let Some(run) = store.last_run(&resolved.pipeline.name)? {
            return Ok(run);
        }
        let hint = "`sd3pipe runs` lists those of all pipelines";
        return Err(Failure::Usage(format!("{} was never run on this store\nhint: {hint}", resolved.pipeline.name)));
    }
    runs::find(store, name)
}

impl Pin {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = self.location.write()?;
        let run = find(&store, &self.run, &self.location)?;
        let journal: Journal = serde_json::from_value(run.document.clone()).unwrap_or_default();
        // What the run itself came to; not what others before it did.
        let came_to = |stage: &RunStage| journal.stages.iter().any(|entry| entry.name == stage.name);
        let stages: Vec<RunStage> = stages_of(&run).into_iter().filter(came_to).collect();
        let name = format!("#{} of {}", run.id, run.pipeline);
        let mut gone = Vec::new();
        for stage in &stages {
            if store.outputs(&stage.key)?.is_none() {
                gone.push(stage.name.clone());
            }
        }
        if stages.is_empty() || gone.len() == stages.len() {
            let hint = "run the pipeline as it was then, and pin that run";
            return Err(Failure::Usage(format!("nothing of run {name} is in the store any more\nhint: {hint}")));
        }
        let names: Vec<&str> = stages
            .iter()
            .map(|stage| stage.name.as_str())
            .filter(|name| !gone.iter().any(|gone| gone == name))
            .collect();
        let line = format!("pinned run {name}: {}\n", names.join(", "));
        store.pin(&run, stages, self.note)?;
        if !gone.is_empty() {
            eprintln!("note: not in the store any more, or never finished: {}", gone.join(", "));
        }
        print(&line)
    }
}

impl Unpin {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = self.location.write()?;
        let pins = store.pins()?;
        let found = match find(&store, &self.run, &self.location) {
            Ok(run) => pins.iter().find(|pin| pin.is_of(&run)),
            Err(_) => None,
        };
        // The journal may have lost the run that the pin has kept.
        let number = self.run.trim_start_matches('#').parse::<u64>().ok();
        let Some(pin) = found.or_else(|| pins.iter().find(|pin| Some(pin.run) == number)) else {
            let hint = "`sd3pipe runs` shows which are";
            return Err(Failure::Usage(format!("run {} is not pinned\nhint: {hint}", self.run)));
        };
        store.unpin(pin)?;
        print(&format!("run #{} of {} is no longer pinned\n", pin.run, pin.pipeline))
    }
}
