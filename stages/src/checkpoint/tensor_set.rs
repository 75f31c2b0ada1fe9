//! The tensors that a path stands for: those of a file, or of all files that a network of a diffusers folder is cut into.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{CheckpointError, Component, TensorFile, TensorInfo};

/// What the weights of a network in a diffusers folder are called, before `.safetensors` and the like.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// A longer list of shards is refused.
const LONGEST_INDEX: u64 = 100_000_000;

/// The tensors of one or several files.
#[derive(Debug, Clone)]
pub struct TensorSet {
    path: PathBuf,
    files: Vec<Arc<TensorFile>>,
    /// The file that each tensor is in.
    places: BTreeMap<String, usize>,
}

impl TensorSet {
    /// Opens all files that [`component_files`] names.
    ///
    /// # Errors
    /// Those of [`component_files`] and of [`TensorFile::open`]; a tensor that is in two files.
    pub fn open(path: &Path, component: Component) -> Result<Self, CheckpointError> {
        let Found { index, weights } = Found::look(path, component)?;
        let mut set = Self { path: path.into(), files: Vec::new(), places: BTreeMap::new() };
        for file in weights {
            let file = TensorFile::open(file)?;
            for name in file.names() {
                if set.places.insert(name.into(), set.files.len()).is_some() {
                    let path = index.unwrap_or_else(|| path.into());
                    return Err(CheckpointError::Index {
                        path,
                        reason: format!("the tensor {name:?} is in two of its files"),
                    });
                }
            }
            set.files.push(Arc::new(file));
        }
        Ok(set)
    }

    /// The path that was named: a file or a folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// A tensor's file, and what that file says of it.
    pub fn get(&self, name: &str) -> Option<(&Arc<TensorFile>, &TensorInfo)> {
        let file = self.files.get(*self.places.get(name)?)?;
        Some((file, file.info(name)?))
    }
}

impl From<Arc<TensorFile>> for TensorSet {
    fn from(file: Arc<TensorFile>) -> Self {
        let places = file.names().map(|name| (name.to_owned(), 0)).collect();
        Self { path: file.path().into(), files: vec![file], places }
    }
}

/// Every file that decides on a network's weights, for a path that names a file, a diffusers folder, or the folder of one
/// network in it. The list of shards is among them.
///
/// # Errors
/// When the path can't be read, or it is a folder in which no weights of the network are to be found.
pub fn component_files(path: &Path, component: Component) -> Result<Vec<PathBuf>, CheckpointError> {
    let Found { index, weights } = Found::look(path, component)?;
    Ok(index.into_iter().chain(weights).collect())
}

struct Found {
    index: Option<PathBuf>,
    weights: Vec<PathBuf>,
}

/// The part of a `….safetensors.index.json` that matters here.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

impl Found {
    fn look(path: &Path, component: Component) -> Result<Self, CheckpointError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            |source| CheckpointError::Unreadable { path, source }
        };
        if !std::fs::metadata(path).map_err(unreadable(path))?.is_dir() {
            return Ok(Self { index: None, weights: vec![path.into()] });
        }
        let inner = path.join(component.folder());
        let folder = if inner.is_dir() { inner } else { path.to_owned() };
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&folder).map_err(unreadable(&folder))? {
            if let Ok(name) = entry.map_err(unreadable(&folder))?.file_name().into_string() {
                names.insert(name);
            }
        }
        match choose(&names) {
            Choice::File(name) => Ok(Self { index: None, weights: vec![folder.join(name)] }),
            Choice::Index(name) => {
                let index = folder.join(name);
                let weights = shards(&index)?.into_iter().map(|name| folder.join(name)).collect();
                Ok(Self { index: Some(index), weights })
            }
            Choice::Several(names) => Err(CheckpointError::SeveralWeights { path: folder, names }),
            Choice::Nothing => {
                let pickled = names.iter().any(|name| name.ends_with(".bin"));
                let hint = match pickled {
                    true => {
                        "its weights are pickles, which can run code and are not read; get them as .safetensors".into()
                    }
                    false => format!("a diffusers folder has it in {}/, as .safetensors", component.folder()),
                };
                Err(CheckpointError::NoComponent { path: path.into(), component, hint })
            }
        }
    }
}

enum Choice<'n> {
    File(&'n str),
    Index(&'n str),
    Several(Vec<String>),
    Nothing,
}

/// The weights that diffusers would load without being told of a variant, or else those of the only variant.
fn choose(names: &BTreeSet<String>) -> Choice<'_> {
    for stem in STEMS {
        let (file, index) = (format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json"));
        if let Some(name) = names.get(&file) {
            return Choice::File(name);
        }
        if let Some(name) = names.get(&index) {
            return Choice::Index(name);
        }
    }
    // As in `model.fp16.safetensors` and `model.safetensors.index.fp16.json`.
    let ours =
        |name: &&String| STEMS.iter().any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.')));
    let variants = names.iter().filter(ours).filter(|name| !name.contains("-of-"));
    let files: Vec<_> = variants.clone().filter(|name| name.ends_with(".safetensors")).collect();
    let indices: Vec<_> = variants.filter(|name| name.contains(".index.") && name.ends_with(".json")).collect();
    match (files.as_slice(), indices.as_slice()) {
        ([], []) => Choice::Nothing,
        ([file], []) => Choice::File(file),
        ([], [index]) => Choice::Index(index),
        _ => Choice::Several(files.into_iter().chain(indices).cloned().collect()),
    }
}

/// The files that a list of shards names.
fn shards(path: &Path) -> Result<BTreeSet<String>, CheckpointError> {
    let unreadable = |source| CheckpointError::Unreadable { path: path.into(), source };
    let damaged = |reason: String| CheckpointError::Index { path: path.into(), reason };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Opening a pipe would wait for a writer.
    if !metadata.is_file() || metadata.len() > LONGEST_INDEX {
        return Err(damaged("it is no file, or far too long".into()));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    match files.iter().find(|name| Path::new(name).file_name().is_none_or(|plain| plain != name.as_str())) {
        Some(name) => Err(damaged(format!("{name:?} is no file beside it"))),
        None if files.is_empty() => Err(damaged("it names no file".into())),
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> String {
        match choose(&names.iter().map(|name| (*name).to_owned()).collect()) {
            Choice::File(name) | Choice::Index(name) => name.into(),
            Choice::Several(names) => format!("several: {}", names.len()),
            Choice::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn weights_are_chosen_as_diffusers_does() {
        let shard = "model-00001-of-00002.safetensors";
        assert_eq!(chosen(&["config.json", "model.safetensors", "model.fp16.safetensors"]), "model.safetensors");
        assert_eq!(chosen(&["diffusion_pytorch_model.safetensors"]), "diffusion_pytorch_model.safetensors");
        assert_eq!(chosen(&[shard, "model.safetensors.index.json"]), "model.safetensors.index.json");
        assert_eq!(chosen(&["model.fp16.safetensors", "pytorch_model.bin"]), "model.fp16.safetensors");
        assert_eq!(chosen(&["model.safetensors.index.fp16.json"]), "model.safetensors.index.fp16.json");
        assert_eq!(chosen(&["model.fp16.safetensors", "model.fp32.safetensors"]), "several: 2");
        assert_eq!(chosen(&["sd3_medium.safetensors", shard]), "nothing");
    }

    #[test]
    fn a_list_of_shards_that_points_elsewhere_or_nowhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors.index.json");
        for text in
            ["", "{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": "../a"}}"#, r#"{"weight_map": {"a": ".."}}"#]
        {
            std::fs::write(&path, text).unwrap();
            let error = TensorSet::open(folder.path(), Component::T5).unwrap_err();
            assert!(matches!(error, CheckpointError::Index { .. }), "{text}: {error}");
        }
        std::fs::write(&path, r#"{"weight_map": {"a": "gone.safetensors"}}"#).unwrap();
        let error = TensorSet::open(folder.path(), Component::T5).unwrap_err();
        assert!(error.to_string().contains("gone.safetensors"), "{error}");
    }

    #[test]
    fn a_folder_without_weights_says_where_they_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let message = || component_files(folder.path(), Component::T5).unwrap_err().to_string();
        assert!(message().contains("text_encoder_3/"), "{}", message());
        std::fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
        assert!(message().contains("pickles"), "{}", message());
    }
}
