//! `sd3pipe unpack`: puts what a bundle holds into the store of a pipeline, and listings where its pictures would be.

use super::{Failure, Target, print, progress, say_notices, text};
use crate::{bundle, pipeline};
use clap::Args;
use sd3pipe_cache::Store;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Unpack {
    /// What `sd3pipe pack` has written.
    bundle: PathBuf,
    #[command(flatten)]
    target: Target,
}

impl Unpack {
    pub(super) fn run(self) -> Result<(), Failure> {
        let manifest = bundle::manifest(&self.bundle)?;
        // The folders of the data are not there yet.
        let resolved = pipeline::load_anywhere(&self.target.pipeline, &self.target.settings)?;
        let places = manifest.places(&resolved)?;
        let store = Store::open(&self.target.store(&resolved))?;
        let journal = serde_json::to_value(manifest.journal(&resolved)).unwrap_or_default();
        // It is written down as a run, so that a collection keeps what it holds.
        let id = store.begin_run(&resolved.pipeline.name, &journal)?;
        let unpacked = bundle::unpack(&self.bundle, &manifest, &store, &*progress::new());
        let outcome = if unpacked.is_ok() { "unpacked" } else { "failed" };
        store.update_run(id, outcome, &journal)?;
        say_notices(&store);
        unpacked?;
        let mut lines = Vec::new();
        for (folder, listing) in places {
            let shown = folder.strip_prefix(&resolved.folder).unwrap_or(&folder).display();
            let files = text::units(listing.files.len(), "files");
            lines.push(match bundle::stand_in(&folder, listing)? {
                true => format!("{shown}: a listing stands for {files} that are elsewhere\n"),
                false => format!("{shown}: has files already, and those count\n"),
            });
        }
        let stages: Vec<&str> = manifest.stages.iter().map(|stage| stage.name.as_str()).collect();
        print(&format!("{}unpacked {}\n", lines.concat(), stages.join(", ")))
    }
}
