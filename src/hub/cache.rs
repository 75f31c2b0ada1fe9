//! The folder that all programs share which read from Hugging Face, and the token that it lies beside.

use super::Address;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// `models--owner--repo/` with `refs/`, `snapshots/` and `blobs/`, as `huggingface_hub` keeps them.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Where.
    pub folder: PathBuf,
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where Hugging Face's programs keep what they keep; nothing where there is no home either.
fn home() -> Option<PathBuf> {
    variable("HF_HOME")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface")))
}

/// The token to ask with: of `HF_TOKEN`, or the one that `hf auth login` has kept.
pub(super) fn token() -> Option<String> {
    let plain = |text: String| Some(text.trim().to_owned()).filter(|token| !token.is_empty());
    ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().find_map(|name| env::var(name).ok().and_then(plain)).or_else(|| {
        let file = variable("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")))?;
        fs::read_to_string(file).ok().and_then(plain)
    })
}

impl Cache {
    /// The cache of this user: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or `~/.cache/huggingface/hub`.
    pub fn of_user() -> Option<Self> {
        let folder = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        // Links inside it are told from each other by absolute paths.
        let folder = std::path::absolute(folder.or_else(|| Some(home()?.join("hub")))?).ok()?;
        Some(Self { folder })
    }

    /// A file that was downloaded to the end. A branch is what it was when somebody last asked the server: what is here is used
    /// without asking.
    pub fn find(&self, address: &Address) -> Option<PathBuf> {
        let repo = self.folder.join(format!("models--{}", address.repo.replace('/', "--")));
        let snapshot = |commit: &str| {
            let file = repo.join("snapshots").join(commit).join(&address.file);
            (file.is_file() && !is_unchecked(&file)).then_some(file)
        };
        snapshot(&address.revision).or_else(|| {
            let commit = fs::read_to_string(repo.join("refs").join(&address.revision)).ok()?;
            let commit = commit.trim();
            commit.chars().all(|c| c.is_ascii_alphanumeric()).then(|| snapshot(commit))?
        })
    }
}

/// Lies beside a blob whose digest was not looked at yet.
pub(super) fn mark_of(blob: &Path) -> PathBuf {
    blob.with_extension("unchecked")
}

fn is_unchecked(file: &Path) -> bool {
    fs::canonicalize(file).is_ok_and(|blob| mark_of(&blob).exists())
}
