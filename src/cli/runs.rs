//! `sd3pipe runs`: the runs of a store, newest first.

use super::{Failure, StorePlace, print, text};
use clap::Args;
use sd3pipe_cache::{Run, Store};
use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

#[derive(Debug, Args)]
pub(super) struct Runs {
    /// A pipeline file, or the folder that it lies in: its store is listed.
    #[arg(default_value = ".")]
    pipeline: PathBuf,
    #[command(flatten)]
    place: StorePlace,
    /// How many to list.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

/// The store beside a pipeline file or in a folder, or the one that was named.
pub(super) fn open(place: &StorePlace, pipeline: &std::path::Path) -> Result<Store, Failure> {
    let beside = if pipeline.is_dir() { pipeline } else { pipeline.parent().unwrap_or(std::path::Path::new("")) };
    let folder = place.folder(beside);
    Store::open_read_only(&folder)?.ok_or_else(|| {
        let hint = "name the pipeline file, or the store with --store";
        Failure::Usage(format!("there is no store at {}\nhint: {hint}", folder.display()))
    })
}

/// A run as cells: number, pipeline, when, how it ended, how long it took.
pub(super) fn line(run: &Run) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let took = run.finished.map_or(String::new(), |end| text::duration(end.saturating_sub(run.started) as f64));
    let when = format!("{} ago", text::duration(now.saturating_sub(run.started) as f64));
    vec![format!("#{}", run.id), run.pipeline.clone(), when, run.outcome.clone(), took]
}

impl Runs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = open(&self.place, &self.pipeline)?;
        let rows: Vec<Vec<String>> = store.runs(self.limit)?.iter().map(line).collect();
        print(&text::table(&rows))
    }
}
