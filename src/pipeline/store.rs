//! Where a pipeline keeps its results, and with whom it shares them.

use super::{check::Faults, compose::Composed, source::Sources};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where results are kept, and with whom they are shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorePlaces {
    /// This machine's store. `--store` and `$SD3PIPE_STORE` come before it.
    pub local: PathBuf,
    /// A store that several machines share: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or a folder. Before a run
    /// computes something it looks whether that is there. When absent, results stay on this machine.
    pub remote: Option<String>,
    /// Whether results go there too, or only come from there.
    pub mode: RemoteMode,
}

/// How a remote store is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteMode {
    /// What a run makes is sent there, each stage when it is done.
    #[default]
    ReadWrite,
    /// Nothing is written there.
    ReadOnly,
}

/// The store that a pipeline has unless it says otherwise.
pub const STORE: &str = ".sd3pipe";

impl Default for StorePlaces {
    fn default() -> Self {
        Self { local: STORE.into(), remote: None, mode: RemoteMode::default() }
    }
}

const KINDS: [&str; 4] = ["s3", "gs", "az", "file"];

/// Makes paths absolute, each from the folder of its text, and refuses what can't be meant.
pub(super) fn resolve(places: &mut StorePlaces, composed: &Composed, sources: &Sources, faults: &mut Faults<'_>) {
    let absolute = |field: &str, path: &Path| {
        let written = composed.root.get("store").and_then(|store| store.get(field));
        let joined = sources.get(written.map_or(0, |node| node.place.source)).folder.join(path);
        std::path::absolute(&joined).unwrap_or(joined)
    };
    places.local = absolute("local", &places.local);
    let Some(remote) = &mut places.remote else {
        if places.mode != RemoteMode::default() {
            let message = "`mode` has no effect without `remote`".to_owned();
            faults.add("store.mode", message, "name the remote store, or leave `mode` out".to_owned());
        }
        return;
    };
    match remote.split_once("://") {
        Some((kind, _)) if KINDS.contains(&kind) => {}
        Some((kind, _)) => {
            let hint = format!("there are {}://, and paths of folders", KINDS.join("://, "));
            faults.add("store.remote", format!("`{kind}://` is no kind of remote store"), hint);
        }
        None if remote.is_empty() => faults.add("store.remote", "`remote` is empty".to_owned(), None),
        None => match absolute("remote", Path::new(&*remote)).into_os_string().into_string() {
            Ok(path) => *remote = path,
            Err(_) => faults.add("store.remote", "the path of the folder is not UTF-8".to_owned(), None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{load_anywhere, local_store};

    fn written(folder: &Path, store: &str) -> PathBuf {
        let path = folder.join("p.ron");
        let text = format!(
            "Pipeline(name: \"x\", model: (checkpoint: \"m\"), {store} stages: {{ \"c\": Captions(data: [(path: \"photos\")]) }})"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn paths_start_from_the_folder_of_their_text() {
        let folder = tempfile::tempdir().unwrap();
        let places = |store: &str| load_anywhere(&written(folder.path(), store), &[]).unwrap().pipeline.store;
        let plain = places("");
        assert_eq!(plain, StorePlaces { local: folder.path().join(".sd3pipe"), ..StorePlaces::default() });
        assert_eq!(local_store(&folder.path().join("p.ron")), None);
        let named = places("store: (local: \"a/b\", remote: \"shared\", mode: ReadOnly),");
        assert_eq!(named.local, folder.path().join("a/b"));
        assert_eq!(local_store(&folder.path().join("p.ron")), Some(named.local));
        assert_eq!(named.remote.as_deref(), folder.path().join("shared").to_str());
        assert_eq!(places("store: (remote: \"s3://bucket/x\"),").remote.as_deref(), Some("s3://bucket/x"));
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (store, said) in [
            ("(remote: \"ftp://host/x\")", "`ftp://` is no kind of remote store"),
            ("(remote: \"\")", "`remote` is empty"),
            ("(mode: ReadOnly)", "`mode` has no effect without `remote`"),
        ] {
            let refused = load_anywhere(&written(folder.path(), &format!("store: {store},")), &[]).unwrap_err();
            assert_eq!(refused.list[0].message, said);
        }
    }
}
