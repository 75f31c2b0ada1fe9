//! Pins: runs whose results are kept until somebody says otherwise.
//!
//! A pin is a file of its own, so that it outlives the index, and with it the results that it names.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{Steps, step, sync_folder, write_new};
use crate::runs::now;
use crate::{Digest, Key, Run, Store, StoreError};

/// A stage as a run had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStage {
    /// Its name in the pipeline.
    pub name: String,
    /// The key of its record.
    pub key: Key,
    /// The object that lists what it made; none if it was not finished.
    pub result: Option<Digest>,
}

/// A run that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The run's number when it was pinned.
    pub run: u64,
    /// The pipeline's name.
    pub pipeline: String,
    /// When the run began, in seconds since 1970 UTC. An index that was lost numbers its runs anew: this tells them apart.
    pub started: u64,
    /// When it was pinned, likewise.
    pub pinned: u64,
    /// What the user noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What it is made of.
    pub stages: Vec<RunStage>,
}

impl Pin {
    /// Whether it pins this run.
    pub fn is_of(&self, run: &Run) -> bool {
        self.run == run.id && self.started == run.started
    }

    fn file_name(&self) -> String {
        format!("{}-{:x}.json", self.run, self.started)
    }
}

impl Store {
    /// Pins a run, in the place of an older pin of it.
    ///
    /// # Errors
    /// A store that cannot be written, or that was opened for reading.
    pub fn pin(&self, run: &Run, stages: Vec<RunStage>, note: Option<String>) -> Result<Pin, StoreError> {
        self.writable()?;
        let pinned = now().unsigned_abs();
        let pin = Pin { run: run.id, pipeline: run.pipeline.clone(), started: run.started, pinned, note, stages };
        let folder = self.layout().pins();
        let path = folder.join(pin.file_name());
        // Not beside a collection that has looked at the pins and is about to remove.
        let _gate = self.gate()?;
        let write = || {
            let temporary = self.temporary_path();
            let bytes = serde_json::to_vec_pretty(&pin)?;
            let steps = Steps { create: "pin.create", write: "pin.write" };
            write_new(steps, &temporary, bytes.len() as u64, |file| {
                file.write_all(&bytes)?;
                file.sync("pin.sync")
            })?;
            step("pin.rename", || fs::rename(&temporary, &path))?;
            sync_folder("pin.folder", &folder)
        };
        write().map_err(StoreError::write(&path))?;
        Ok(pin)
    }

    /// Removes a pin; gives whether there was one.
    ///
    /// # Errors
    /// As [`Store::pin`].
    pub fn unpin(&self, pin: &Pin) -> Result<bool, StoreError> {
        self.writable()?;
        let folder = self.layout().pins();
        let path = folder.join(pin.file_name());
        let removed = step("pin.remove", || fs::remove_file(&path));
        match removed.and_then(|()| sync_folder("pin.folder", &folder)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(reason) => Err(StoreError::Write { path, reason }),
        }
    }

    /// All pins, by the numbers of their runs.
    ///
    /// # Errors
    /// [`StoreError::Pin`] for one that cannot be understood: what it was to keep must not be thought garbage.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Vec::new();
        for path in pin_files(&self.layout().pins())? {
            pins.push(read(&path)?);
        }
        pins.sort_by_key(|pin: &Pin| (pin.run, pin.started));
        Ok(pins)
    }
}

/// The files of pins. A store that an older program made has no folder for them.
pub(crate) fn pin_files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::read(folder))?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(StoreError::read(folder))).collect()
}

pub(crate) fn read(path: &Path) -> Result<Pin, StoreError> {
    let bytes = fs::read(path).map_err(StoreError::read(path))?;
    serde_json::from_slice(&bytes).map_err(|reason| StoreError::Pin { path: path.to_owned(), reason })
}
