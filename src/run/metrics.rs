//! The curves of a training in `out/`, for TensorBoard and as lines of JSON: written while it goes on, and put right at its end.
//!
//! They can be made again from the store at any time, so no run fails for them.

use super::events;
use crate::{
    pipeline::Resolved,
    plan::{PlanError, StageResult},
};
use sd3pipe_cache::{Output, Store};
use sd3pipe_stages::{
    error::StageError,
    train::metrics::{Scalar, of_store},
    work::Progress,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// What TensorBoard looks for in a name.
const EVENTS: &str = "events.out.tfevents.sd3pipe";
const LINES: &str = "metrics.jsonl";

/// The folder of all curves of a pipeline.
fn folder(resolved: &Resolved) -> PathBuf {
    resolved.results.join("tensorboard")
}

/// Says where the curves of a training will be.
pub fn announce(resolved: &Resolved, progress: &dyn Progress) {
    let folder = folder(resolved);
    let shown = folder.strip_prefix(&resolved.folder).unwrap_or(&folder);
    progress.line(&format!("curves: tensorboard --logdir {}", shown.display()));
}

/// The folder of one training: TensorBoard draws those of a pipeline beside each other.
fn folder_of(resolved: &Resolved, index: usize) -> PathBuf {
    folder(resolved).join(&resolved.stages[index].name)
}

fn line(scalar: &Scalar) -> Vec<u8> {
    // A number that is none is written as null.
    let mut line = serde_json::to_vec(scalar).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Makes the files of a training say what its result does.
///
/// # Errors
/// When the store has lost what was measured, or the files can't be written.
pub fn deliver(resolved: &Resolved, index: usize, result: &StageResult, store: &Store) -> Result<(), PlanError> {
    let artifact = result.artifact(Some(store))?;
    let entries = artifact.entries.iter().map(|entry| (entry.role.as_str(), entry.item.as_str(), &entry.digest));
    let scalars = of_store(entries, store)?;
    let folder = folder_of(resolved, index);
    let events = std::iter::once(events::head()).chain(scalars.iter().map(events::scalar));
    for (name, bytes) in
        [(EVENTS, events.flatten().collect()), (LINES, scalars.iter().flat_map(line).collect::<Vec<u8>>())]
    {
        let path = folder.join(name);
        let fault = |source| PlanError::Deliver { path: path.clone(), source };
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        fs::create_dir_all(&folder).map_err(fault)?;
        fs::write(&path, bytes).map_err(fault)?;
    }
    Ok(())
}

/// Passes on what a stage tells, and adds what is measured to the files of a training.
pub struct Recorder<'r> {
    progress: &'r dyn Progress,
    /// None once they could not be written.
    files: Mutex<Option<Files>>,
}

struct Files {
    events: File,
    lines: File,
    /// The last step of each curve: what is trained again after a kill was measured before.
    last: BTreeMap<String, u64>,
}

impl<'r> Recorder<'r> {
    /// Begins the files with what is known of the training already.
    pub fn new(
        resolved: &Resolved,
        index: usize,
        known: &[Option<Vec<Output>>],
        store: &Store,
        progress: &'r dyn Progress,
    ) -> Self {
        let known = known.iter().flatten().flatten();
        let known = known.map(|output| (output.role.as_str(), output.item.as_str(), &output.digest));
        let files = of_store(known, store).and_then(|scalars| {
            let folder = folder_of(resolved, index);
            let fault = |source| StageError::File { path: folder.clone(), source };
            let mut files = Files::create(&folder).map_err(fault)?;
            files.add(&scalars).map_err(fault)?;
            Ok(files)
        });
        if let Err(error) = &files {
            say(progress, error);
        }
        Self { progress, files: Mutex::new(files.ok()) }
    }
}

/// That there are no curves, for once: the next run makes them.
pub fn say(progress: &dyn Progress, error: &dyn std::fmt::Display) {
    progress.line(&format!("note: no curves for TensorBoard: {error}"));
}

impl Files {
    fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let (mut events, lines) = (File::create(folder.join(EVENTS))?, File::create(folder.join(LINES))?);
        events.write_all(&events::head())?;
        Ok(Self { events, lines, last: BTreeMap::new() })
    }

    fn add(&mut self, scalars: &[Scalar]) -> io::Result<()> {
        let (mut events, mut lines) = (Vec::new(), Vec::new());
        for scalar in scalars {
            if self.last.get(&scalar.tag).is_none_or(|last| scalar.step > *last) {
                self.last.insert(scalar.tag.clone(), scalar.step);
                events.extend(events::scalar(scalar));
                lines.extend(line(scalar));
            }
        }
        self.events.write_all(&events)?;
        self.lines.write_all(&lines)
    }
}

impl Progress for Recorder<'_> {
    fn begin(&self, what: &str, total: u64, unit: &str) {
        self.progress.begin(what, total, unit);
    }

    fn advance(&self, done: u64, note: &str) {
        self.progress.advance(done, note);
    }

    fn end(&self) {
        self.progress.end();
    }

    fn line(&self, text: &str) {
        self.progress.line(text);
    }

    fn measured(&self, scalars: &[Scalar]) {
        if let Ok(mut slot) = self.files.lock()
            && let Some(files) = &mut *slot
            && let Err(error) = files.add(scalars)
        {
            say(self.progress, &error);
            *slot = None;
        }
    }
}
