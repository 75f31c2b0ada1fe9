//! `sd3pipe show`: what one run did.

use super::{Failure, Location, print, runs, text};
use crate::run::Journal;
use clap::Args;
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
        if self.json {
            return print(&format!(
                "{:#}\n",
                serde_json::json!({ "id": run.id, "outcome": run.outcome, "journal": run.document })
            ));
        }
        let journal: Journal = serde_json::from_value(run.document.clone()).unwrap_or_default();
        let mut out = text::table(&[runs::line(&run)]);
        // Writing to a `String` can't fail.
        let _ = writeln!(out, "\n{}\n", journal.pipeline);
        for stage in &journal.stages {
            let result = stage.result.map_or("failed".to_owned(), |digest| digest.short());
            let _ = writeln!(
                out,
                "{} ({})   key {}   made {result}",
                stage.name,
                stage.kind,
                stage.key.get(..6).unwrap_or_default()
            );
            for label in &stage.executed {
                let _ = writeln!(out, "  {}", text::one_line(label));
            }
        }
        if let Some(error) = &journal.error {
            let _ = writeln!(out, "\n{error}");
        }
        print(&out)
    }
}
