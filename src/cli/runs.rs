//! `sd3pipe runs`: the runs of a store, newest first.

use super::{Failure, Location, print, text};
use clap::Args;
use sd3pipe_cache::{Run, Store};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub(super) struct Runs {
    #[command(flatten)]
    location: Location,
    /// How many to list.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

/// A run as cells: number, pipeline, when, how it ended, how long it took.
pub(super) fn line(run: &Run) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let took = run.finished.map_or(String::new(), |end| text::duration(end.saturating_sub(run.started) as f64));
    let when = format!("{} ago", text::duration(now.saturating_sub(run.started) as f64));
    vec![format!("#{}", run.id), run.pipeline.clone(), when, run.outcome.clone(), took]
}

/// The run that was named on the command line: by its number, or as `last`.
pub(super) fn find(store: &Store, name: &str) -> Result<Run, Failure> {
    let run = match name.trim_start_matches('#').parse() {
        Ok(id) => store.run(id)?,
        Err(_) if name == "last" => store.runs(1)?.into_iter().next(),
        Err(_) => {
            return Err(Failure::Usage(format!(
                "`{name}` is not the number of a run\nhint: `sd3pipe runs` lists them"
            )));
        }
    };
    run.ok_or_else(|| Failure::Usage(format!("there is no run {name}\nhint: `sd3pipe runs` lists them")))
}

impl Runs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = self.location.read()?;
        // A list of runs is no place to refuse for a pin.
        let pins = store.pins().unwrap_or_default();
        let pinned = |run: &Run| match pins.iter().find(|pin| pin.is_of(run)) {
            Some(pin) => format!("pinned {}", pin.note.as_deref().unwrap_or_default()).trim_end().to_owned(),
            None => String::new(),
        };
        let rows: Vec<Vec<String>> =
            store.runs(self.limit)?.iter().map(|run| [line(run), vec![pinned(run)]].concat()).collect();
        print(&text::table(&rows))
    }
}
