//! What can be wrong with a data set, listed all at once with a remedy for each kind.

use super::items::ItemFault;
use super::listing::LISTING;
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why the `Captions` stage has no result. Its text has a line for each fault, and a hint for each kind of fault.
#[derive(Debug)]
pub enum CaptionsError {
    /// The folders can't be walked, or their files can't be told apart.
    Scan(Vec<ScanFault>),
    /// Files of these items can't be used: the item, the file, and what is wrong with it.
    Items(Vec<(String, PathBuf, ItemFault)>),
}

impl std::error::Error for CaptionsError {}

impl fmt::Display for CaptionsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan(faults) => {
                let lines = faults.iter().map(|fault| (fault.to_string(), fault.remedy()));
                write_grouped(formatter, "the folders with the data cannot be used", lines)
            }
            Self::Items(faults) => {
                let count = faults.len();
                let title = format!("{count} file{} cannot be used", if count == 1 { "" } else { "s" });
                let lines =
                    faults.iter().map(|(_, path, fault)| (format!("{}: {fault}", path.display()), fault.remedy()));
                write_grouped(formatter, &title, lines)
            }
        }
    }
}

/// A title, then every line below the remedy's other lines, the remedies in the order in which they first come up.
fn write_grouped(
    formatter: &mut fmt::Formatter<'_>,
    title: &str,
    lines: impl Iterator<Item = (String, &'static str)>,
) -> fmt::Result {
    let mut groups: Vec<(&'static str, Vec<String>)> = Vec::new();
    for (line, remedy) in lines {
        match groups.iter_mut().find(|group| group.0 == remedy) {
            Some(group) => group.1.push(line),
            None => groups.push((remedy, vec![line])),
        }
    }
    write!(formatter, "{title}")?;
    for (remedy, lines) in groups {
        for line in lines {
            write!(formatter, "\n  {line}")?;
        }
        write!(formatter, "\n  hint: {remedy}")?;
    }
    Ok(())
}

/// What keeps a folder of images from being walked, or its items from being told apart.
#[derive(Debug, Error)]
pub enum ScanFault {
    /// The folder of a dataset does not exist.
    #[error("{}: there is no such folder", path.display())]
    MissingFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A dataset's path names something else than a folder.
    #[error("{}: is not a folder", path.display())]
    NotAFolder {
        /// What it names.
        path: PathBuf,
    },
    /// A folder can't be listed, or a file's metadata can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A folder that has a listing of files that are elsewhere, and files too.
    #[error("{}: has files of its own beside the listing {LISTING}", path.display())]
    ListedAndHere {
        /// The folder.
        path: PathBuf,
    },
    /// A name that can't be written in a pipeline, a report or a key.
    #[error("{}: the name is not UTF-8", path.display())]
    NotUtf8Name {
        /// The file or folder, shown with replacement characters.
        path: PathBuf,
    },
    /// A name that would give orders to a terminal or break a line in two.
    #[error("{:?}: the name has a control character in it, such as the end of a line", path.display().to_string())]
    ControlInName {
        /// The file or folder.
        path: PathBuf,
    },
    /// More files and folders than any data set has.
    #[error("{}: there are more than {most} files and folders in it", path.display())]
    TooMany {
        /// The dataset's folder.
        path: PathBuf,
        /// The most that are looked at.
        most: usize,
    },
    /// A dataset without a single image.
    #[error("{}: there is no image in it (png, jpg, jpeg, webp, bmp)", path.display())]
    NoImage {
        /// The dataset's folder.
        path: PathBuf,
    },
    /// A folder `<number>_<words>` whose number can't be meant as repeats, such as a year.
    #[error("{}: the number in front would be the repeats of its images, and is not from 1 to {most}", path.display())]
    FolderRepeats {
        /// The folder.
        path: PathBuf,
        /// The largest number that is taken for repeats.
        most: u32,
    },
    /// Items of two datasets have the same name.
    #[error("{} and {}: both have {}", first.display(), second.display(), some_of(ids))]
    SameItems {
        /// The folder of the earlier dataset.
        first: PathBuf,
        /// The folder of the later one.
        second: PathBuf,
        /// The names that both have, sorted.
        ids: Vec<String>,
    },
}

impl ScanFault {
    /// What to do about it; equal for faults of one kind.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::MissingFolder { .. } => "relative paths start from the folder of the pipeline file",
            Self::NotAFolder { .. } => "name the folder that the images are in",
            Self::Unreadable { .. } => "make it readable, or move it out of the folder",
            Self::ListedAndHere { .. } => "remove the listing when all of the pictures are back, or else these files",
            Self::NotUtf8Name { .. } | Self::ControlInName { .. } => "rename it",
            Self::TooMany { .. } => {
                "name the folder that the images are in, and look whether links lead to the same folders over and over"
            }
            Self::NoImage { .. } => "put images into it, or leave it out of `data`",
            Self::FolderRepeats { .. } => {
                "rename it, or list it in `data` with `repeats`: the name of a listed folder is not read"
            }
            Self::SameItems { .. } => {
                "give one of the two a `name` in `data`, which goes before the names of its items"
            }
        }
    }
}

/// The first five of `names`, and how many more there are.
pub(super) fn some_of<Name: AsRef<str>>(names: &[Name]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    shown.join(", ") + &more
}
