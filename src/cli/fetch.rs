//! `sd3pipe fetch`: downloads what a pipeline names by its address at Hugging Face.

use super::{Failure, Target, print, progress, text};
use crate::{
    hub::{self, Address, HubFile},
    pipeline::Resolved,
};
use clap::Args;
use sd3pipe_stages::work::Progress;

#[derive(Debug, Args)]
pub(super) struct Fetch {
    #[command(flatten)]
    target: Target,
}

impl Fetch {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.fetch(&*progress::new())?;
        let rows: Vec<Vec<String>> = resolved.hub.iter().map(row).collect();
        match rows.is_empty() {
            true => print("nothing to download: the pipeline names no address `hf://…`\n"),
            false => print(&text::table(&rows)),
        }
    }
}

impl Target {
    /// The pipeline with everything there that it names by its address.
    pub(super) fn fetch(&self, progress: &dyn Progress) -> Result<Resolved, Failure> {
        let mut done = Vec::new();
        loop {
            let resolved = self.resolve()?;
            let missing: Vec<Address> = resolved.missing().map(|file| file.address.clone()).collect();
            // A branch that has moved takes what was there before along: that is linked anew.
            let Some(address) = missing.iter().find(|address| !done.contains(*address)) else {
                let lacking = resolved.missing().next().map(not_there);
                return lacking.map_or(Ok(resolved), Err);
            };
            hub::download(address, progress)?;
            progress.line(&format!("downloaded {address}"));
            done.push(address.clone());
        }
    }
}

/// What is needed and not there.
pub(super) fn not_there(file: &HubFile) -> Failure {
    let hint = "`sd3pipe fetch` downloads it, and so does `sd3pipe run`";
    Failure::Usage(format!("{} is not downloaded yet\nhint: {hint}", file.address))
}

/// What must be downloaded before a plan can be made, and what need not be.
pub(super) fn overview(resolved: &Resolved) -> String {
    let rows: Vec<Vec<String>> = resolved.hub.iter().map(row).collect();
    text::table(&rows) + "`sd3pipe run` downloads these first; what else it would do shows once they are there\n"
}

/// A line for one file: its field, whether it is there, its address and how large it is.
fn row(file: &HubFile) -> Vec<String> {
    let (word, size) = match &file.found {
        Some(path) => ("hit", std::fs::metadata(path).map(|found| text::size(found.len())).unwrap_or_default()),
        None => ("download", size(file).map_or_else(|reason| reason, text::size)),
    };
    vec![file.field.clone(), word.to_owned(), file.address.to_string(), size]
}

/// The size of a file that is not there, or why it is not known.
pub(super) fn size(file: &HubFile) -> Result<u64, String> {
    hub::size(&file.address).map_err(|error| match error {
        hub::HubError::Offline { .. } => "can't be downloaded: HF_HUB_OFFLINE is set".to_owned(),
        hub::HubError::Refused { .. } => "may not be read without a token; `sd3pipe fetch` says more".to_owned(),
        hub::HubError::Absent { .. } => "is not there".to_owned(),
        hub::HubError::Silent { .. } => "of unknown size: the server does not answer".to_owned(),
        _ => "of unknown size".to_owned(),
    })
}
