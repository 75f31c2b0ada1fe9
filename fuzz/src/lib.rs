//! What the targets share: a folder for the files that the program is to read, and the cutting up of one input into several.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("sd3pipe-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
});

/// The folder of this process. What lies in it from the input before is overwritten.
pub fn folder() -> &'static Path {
    &FOLDER
}

/// Writes a file into the folder and gives its path.
pub fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = FOLDER.join(name);
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
    fs::write(&path, content).expect("a temporary file");
    path
}

/// The parts of an input: what stands between bytes 0xFF, which no text has.
pub fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == 0xFF)
}
