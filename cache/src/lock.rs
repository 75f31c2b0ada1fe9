//! Locks between processes: files that somebody holds, signed by who does.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::files::step;
use crate::store::is_link;

/// Opens a file to lock, without changing what is in it.
pub(crate) fn open_lock_file(path: &Path) -> Result<File, StoreError> {
    // Its holder is written into it, which must not go into somebody's file.
    if is_link(path) {
        fs::remove_file(path).map_err(StoreError::write(path))?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    step("lock.open", || options.open(path)).map_err(StoreError::write(path))
}

/// Locks a file that stays where it is; while another has it, tells `on_wait` once who that is and waits.
pub(crate) fn lock_alone(path: &Path, on_wait: &mut dyn FnMut(&str)) -> Result<File, StoreError> {
    let mut file = open_lock_file(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            on_wait(&holder(&mut file));
            file.lock().map_err(StoreError::lock(path))?;
        }
        Err(TryLockError::Error(reason)) => return Err(StoreError::Lock { path: path.to_owned(), reason }),
    }
    file.set_len(0).and_then(|()| sign(&file, "")).map_err(StoreError::write(path))?;
    Ok(file)
}

/// Writes into a lock file who has it, as in "4711: sd3pipe run lighthouses.ron", and what else there is to say.
pub(crate) fn sign(mut file: &File, text: &str) -> std::io::Result<()> {
    let signature = format!("{}: {}\n{text}", std::process::id(), command());
    step("lock.sign", || file.write_all(signature.as_bytes()))
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(length) if length > 0 => format!("process {}", text.trim_end()),
        // It has locked the file and not yet signed it.
        _ => "another process".to_owned(),
    }
}

/// What the user typed, in one line, with the program by its name alone.
fn command() -> String {
    let mut words = std::env::args_os();
    let program = words.next().map(PathBuf::from).unwrap_or_default();
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for word in words {
        line.push(' ');
        line.push_str(&word.to_string_lossy());
    }
    line.replace(['\n', '\r'], " ")
}
