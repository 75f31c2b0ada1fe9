//! `sd3pipe show`: what one run did.

use super::{Failure, Location, print, runs, text};
use crate::{
    plan::StageResult,
    run::{Journal, StageEntry},
};
use clap::Args;
use sd3pipe_cache::Store;
use sd3pipe_stages::{
    stage::Kind,
    train::validation::{Losses, Report, VALIDATION, best},
};
use std::fmt::Write;

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The run's number, or `last`.
    run: String,
    #[command(flatten)]
    location: Location,
    /// Prints JSON for programs.
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = self.location.read()?;
        let run = runs::find(&store, &self.run)?;
        let journal: Journal = serde_json::from_value(run.document.clone()).unwrap_or_default();
        if self.json {
            let found = |stage: &StageEntry| Some((stage.name.clone(), serde_json::json!(reports(stage, &store)?)));
            let validations: serde_json::Map<_, _> = journal.stages.iter().filter_map(found).collect();
            let mut shown = serde_json::json!({ "id": run.id, "outcome": run.outcome, "journal": run.document });
            if !validations.is_empty() {
                shown["validations"] = validations.into();
            }
            return print(&format!("{shown:#}\n"));
        }
        let mut out = text::table(&[runs::line(&run)]);
        // Writing to a `String` can't fail.
        let _ = writeln!(out, "\n{}\n", journal.pipeline);
        for stage in &journal.stages {
            let result = match (stage.result, stage.left) {
                (Some(digest), _) => format!("made {}", digest.short()),
                (None, Some(left)) => format!("left {} to other shards", text::count(left)),
                (None, None) => "made failed".to_owned(),
            };
            let _ = writeln!(
                out,
                "{} ({})   key {}   {result}",
                stage.name,
                stage.kind,
                stage.key.get(..6).unwrap_or_default()
            );
            for label in &stage.executed {
                let _ = writeln!(out, "  {}", text::one_line(label));
            }
            for line in reports(stage, &store).map_or(String::new(), validations).lines() {
                let _ = writeln!(out, "  {line}");
            }
        }
        if let Some(error) = &journal.error {
            let _ = writeln!(out, "\n{error}");
        }
        print(&out)
    }
}

/// What the validations of a training found; nothing where there were none, or the store does not have them any more.
fn reports(stage: &StageEntry, store: &Store) -> Option<Vec<Report>> {
    if stage.kind != Kind::Train.to_string() {
        return None;
    }
    let artifact = StageResult::stored(stage.result?).artifact(Some(store)).ok()?;
    let read = |digest| Report::from_bytes(&store.read(digest).ok()?).ok();
    let reports: Vec<_> = artifact.of(VALIDATION).filter_map(|entry| read(&entry.digest)).collect();
    (!reports.is_empty()).then_some(reports)
}

/// A line for each validation: the losses on what is held out and on what is trained, and the former at each timestep.
fn validations(reports: Vec<Report>) -> String {
    let mut rows = Vec::new();
    for (average, name) in [(false, "loss"), (true, "loss of the average")] {
        let best = best(reports.clone(), average);
        let losses = |report: &Report| if average { report.average.clone() } else { Some(report.trained.clone()) };
        let Some(first) = reports.iter().find(|report| losses(report).is_some()) else { continue };
        let mut head = vec![name.to_owned(), "held out".to_owned(), "trained".to_owned()];
        head.extend(first.timesteps.iter().map(|timestep| format!("at {timestep}")));
        rows.push(head);
        for report in &reports {
            let Some(Losses { held_out, seen }) = losses(report) else { continue };
            let mut row = vec![format!("epoch {}", report.epoch)];
            row.extend([held_out.mean, seen.mean].iter().chain(&held_out.losses).map(|loss| format!("{loss:.4}")));
            row.extend((best == Some(report.epoch)).then(|| "best".to_owned()));
            rows.push(row);
        }
    }
    text::table(&rows)
}
