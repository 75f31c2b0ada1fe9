//! The one layer through which the bytes that matter reach the disk: every step of it has a name.
//!
//! A name says what is written and what is done with it: `object.write`, `object.sync`, `object.rename`. A build with the
//! feature `faults`, which only tests turn on, can fail or be killed at each of them (see injection.rs); in any other build a
//! step is the plain call.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

#[cfg(feature = "faults")]
use crate::injection;

/// Carries out the step `name`: one call, or a few that are as good as one, that change something on the disk.
///
/// # Errors
/// Those of `act`.
pub fn step<T>(name: &'static str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(feature = "faults")]
    let _passage = injection::pass(name).map_err(injection::Failure::io)?;
    #[cfg(not(feature = "faults"))]
    let _ = name;
    act()
}

/// [`step`] for what SQLite writes.
pub(crate) fn index_step<T>(name: &'static str, act: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    #[cfg(feature = "faults")]
    let _passage = injection::pass(name).map_err(injection::Failure::sqlite)?;
    #[cfg(not(feature = "faults"))]
    let _ = name;
    act()
}

/// The names of a new file's steps.
#[derive(Debug, Copy, Clone)]
pub struct Steps {
    /// The file comes into being.
    pub create: &'static str,
    /// Some of its bytes are written.
    pub write: &'static str,
}

/// Makes a new file of `length` bytes in the place of any that is there, by `write`, and gives what that gives. The
/// bytes are not synced. Nothing is left of a file that failed.
///
/// # Errors
/// What went wrong, with the number of bytes that were to be written.
pub fn write_new<T>(
    steps: Steps,
    path: &Path,
    length: u64,
    write: impl FnOnce(&mut NewFile) -> io::Result<T>,
) -> io::Result<T> {
    // Never into what lies there already: it may be a link to somebody's file.
    let _ = fs::remove_file(path);
    let file = step(steps.create, || File::create_new(path)).map_err(of_bytes(length))?;
    let written = write(&mut NewFile { file, step: steps.write });
    if written.is_err() {
        // The first error is the one to tell, and room may be what is lacking.
        let _ = fs::remove_file(path);
    }
    written.map_err(of_bytes(length))
}

/// A file that is being written. Every write goes to the disk as it is: wrap it for small ones.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    step: &'static str,
}

impl NewFile {
    /// A file that was created in the step before, and is written in this one.
    pub(crate) fn new(file: File, step: &'static str) -> NewFile {
        NewFile { file, step }
    }

    /// Makes the bytes durable, in the step `name`.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self, name: &'static str) -> io::Result<()> {
        step(name, || self.file.sync_data())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "faults")]
        injection::tear(self.step, || self.file.write_all(&bytes[..bytes.len() / 2]));
        step(self.step, || self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the entries of a folder durable, in the step `name`.
///
/// # Errors
/// What the system says.
pub fn sync_folder(name: &'static str, path: &Path) -> io::Result<()> {
    match step(name, || File::open(path)?.sync_all()) {
        // Some network file systems know no such thing; there is nothing better to do on those.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Adds to an error how many bytes were to be written: on a full disk, what people need to know.
pub fn of_bytes(length: u64) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{error}; {length} bytes were to be written"))
}
