//! Listings: what stands in a folder for files that are not on this machine, so that one can train from what was made of them.
//!
//! A listing has what the stages before the encoders read of each file: its path and its digest, an image's size, a caption's text.

use sd3pipe_cache::Fingerprint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The name of a listing's file. It begins with a dot, so that it is none of the data.
pub const LISTING: &str = ".sd3pipe-listing.json";

/// Bytes of a listing at most.
const LONGEST: u64 = 1 << 30;

/// The files that a folder would have, by their paths below it, with `/` between folders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// The files.
    pub files: BTreeMap<String, ListedFile>,
}

/// A file that is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedFile {
    /// The digest of its bytes, in hexadecimal digits.
    pub digest: String,
    /// An image's width and height in pixels as it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
    /// A caption file's text, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What is known of a file of the data before it is read.
#[derive(Clone, Debug)]
pub enum Seen {
    /// It is here.
    Here(Fingerprint),
    /// It is elsewhere, and its folder's listing says this of it.
    Listed(Box<ListedFile>),
}

impl Listing {
    /// The listing of a folder, if it has one, with its file's path and what it was before it was read.
    ///
    /// # Errors
    /// One that can't be read or understood.
    pub fn of(folder: &Path) -> io::Result<Option<(Self, PathBuf, Fingerprint)>> {
        let path = folder.join(LISTING);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (state, mut bytes) = (Fingerprint::of(&file.metadata()?), Vec::new());
        file.take(LONGEST).read_to_end(&mut bytes)?;
        let listing: Self = serde_json::from_slice(&bytes)?;
        // Nothing of a listing is opened, but its paths become names of items.
        let plain = |path: &String| path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
        match listing.files.keys().find(|path| !plain(path)) {
            Some(path) => {
                Err(io::Error::other(format!("it lists {path:?}, which is no path of a picture or a caption")))
            }
            None => Ok(Some((listing, path, state))),
        }
    }

    /// The listing as the bytes of its file: equal for equal listings.
    ///
    /// # Errors
    /// None that is known: every listing can be written.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
    }
}

impl Seen {
    /// What the file is, if it is here.
    pub fn here(&self) -> Option<&Fingerprint> {
        match self {
            Self::Here(state) => Some(state),
            Self::Listed(_) => None,
        }
    }

    /// What a listing says of the file, if it is elsewhere.
    pub fn listed(&self) -> Option<&ListedFile> {
        match self {
            Self::Here(_) => None,
            Self::Listed(file) => Some(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_listing_comes_back_and_leads_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Listing::of(folder.path()).unwrap().is_none());
        let file =
            |text: Option<&str>| ListedFile { digest: "ab".to_owned(), size: None, text: text.map(str::to_owned) };
        let listing = |path: &str| Listing { files: [(path.to_owned(), file(Some("a cat\n")))].into() };
        let write = |listing: &Listing| fs::write(folder.path().join(LISTING), listing.to_json().unwrap()).unwrap();
        write(&listing("10_cats/a.txt"));
        assert_eq!(Listing::of(folder.path()).unwrap().unwrap().0, listing("10_cats/a.txt"));
        for path in ["../a.png", "/a.png", "a//b.png", ".hidden/a.png", "", "a/"] {
            write(&listing(path));
            assert!(Listing::of(folder.path()).is_err(), "{path}");
        }
    }
}
