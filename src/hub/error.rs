//! Why a file of Hugging Face can't be had.

use super::{Address, Cache};
use std::path::PathBuf;
use thiserror::Error;

/// Every message names the address and the way out.
#[derive(Debug, Error)]
pub enum HubError {
    /// The network may not be used.
    #[error(
        "{address} is not in the cache ({cache}), and HF_HUB_OFFLINE forbids to download it\nhint: unset that, or download it where \
         there is a network and copy the cache",
        cache = folder()
    )]
    Offline {
        /// The file.
        address: Address,
    },
    /// This program can't download.
    #[error(
        "{address} is not in the cache ({cache}), and this build can't download\nhint: build it with `--features hub`, or `hf download \
         {repo} {file}`",
        cache = folder(), repo = address.repo, file = address.file
    )]
    NotBuilt {
        /// The file.
        address: Address,
    },
    /// Nobody knows where to put it.
    #[error("there is no folder to download {address} to\nhint: name one, HF_HOME=…")]
    NoHome {
        /// The file.
        address: Address,
    },
    /// 401 or 403.
    #[error(
        "{address} may not be read: {}\nhint: look at {page}; where it asks for consent, give it, make a token that may read there, and \
         give that in HF_TOKEN or to `hf auth login`",
        if *with_token { "the token that was given does not reach it" } else { "it is gated, private or not there, and no token was given" }
    )]
    Refused {
        /// The file.
        address: Address,
        /// The repository's page.
        page: String,
        /// Whether a token was given.
        with_token: bool,
    },
    /// 404.
    #[error("there is no {address}\nhint: look at the list of files at {page}")]
    Absent {
        /// The file.
        address: Address,
        /// The repository's page.
        page: String,
    },
    /// It broke off, and did so each time that it was tried.
    #[error("{address} can't be downloaded: {reason}\nhint: run again; it goes on from what has come so far")]
    Failed {
        /// The file.
        address: Address,
        /// What went wrong.
        reason: String,
    },
    /// The server keeps the line open and says nothing.
    #[error(
        "{address} can't be downloaded: the server said nothing for {seconds} s\nhint: run again; it goes on from what has come so far. \
         {variable}=… has it wait longer"
    )]
    Silent {
        /// The file.
        address: Address,
        /// What was waited, in seconds.
        seconds: u64,
        /// What sets it.
        variable: &'static str,
    },
    /// Other bytes came than were promised.
    #[error(
        "{address} came damaged: its SHA-256 is {found} and not {promised}\nhint: it was removed; run again to download it anew"
    )]
    Damaged {
        /// The file.
        address: Address,
        /// The digest of what came.
        found: String,
        /// The digest that the server told.
        promised: String,
    },
    /// The cache can't be written.
    #[error("{path}: {source}\nhint: the cache of Hugging Face must be writable; HF_HOME=… names another", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

fn folder() -> String {
    Cache::of_user().map_or("HF_HOME".to_owned(), |cache| cache.folder.display().to_string())
}
