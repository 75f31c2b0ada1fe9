//! The page that tells what a run did: one file, made of the run's journal and of what the store holds of its results.

mod chart;
mod charts;
mod comparison;
mod data;
mod gather;
mod grid;
mod html;
mod page;
mod stages;
mod verdicts;
mod write;

pub use gather::Gathered;
pub use write::{REPORT, comparison_path, is_current, path, write};

use crate::run::{Comparison, Journal};
use sd3pipe_cache::Digest;
use sd3pipe_stages::report::Verdicts;

/// Raised by hand whenever equal results give another page, so that older pages are written anew.
const REVISION: u32 = 2;

/// What a page shows, apart from when and how fast it was made: a page with another is out of date.
fn identity(journal: &Journal) -> Digest {
    let stages = journal.stages.iter().map(|stage| (&stage.name, &stage.key, &stage.result));
    let shown = serde_json::json!([REVISION, journal.pipeline, stages.collect::<Vec<_>>()]);
    Digest::of(shown.to_string().as_bytes())
}

/// The page of a run, or the one of its grid.
fn page(gathered: &Gathered<'_>, comparison: Option<&Comparison>) -> String {
    let body = comparison.map_or_else(|| page::body(gathered), |comparison| comparison::body(gathered, comparison));
    page::page(gathered, &identity(&gathered.journal), &body)
}

/// What is said of the checkpoints, by the names of the `Sample` stages.
pub fn verdicts<'g>(gathered: &'g Gathered<'_>) -> impl Iterator<Item = (&'g str, &'g Verdicts)> {
    gathered.galleries.iter().filter_map(|gallery| Some((gallery.name.as_str(), gallery.verdicts.as_ref()?)))
}
