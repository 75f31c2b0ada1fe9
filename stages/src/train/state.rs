//! What a training is between two steps, in memory and in a file.

use crate::{
    checkpoint::TensorFile,
    error::StageError,
    nn::{self, Weight, Weights},
    precision::Precision,
    tensors,
    train::optimizer::Moments,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::{
    StoreError,
    files::{step, sync_folder},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// The weights in 32 bits, the optimizer's moments, and how far the epoch is.
#[derive(Clone, Debug)]
pub struct State {
    /// Every tensor of the MMDiT under its name, the table of positions included.
    pub weights: Weights,
    /// The moments of each trained tensor; none before the first step.
    pub moments: BTreeMap<String, Moments>,
    /// Where the training is.
    pub position: Position,
}

/// Where a training is: all that a resume needs to know beside tensors, because everything random is a function of the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u32,
    /// Steps of it that are done.
    pub steps: u64,
    /// What was measured at each of these steps.
    pub measured: Vec<Measured>,
}

/// What was measured at one optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The step, from 0 over all epochs.
    pub step: u64,
    /// The mean loss of its samples.
    pub loss: f64,
    /// The L2 norm of the gradients before they were clipped.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
}

const NOTE: &str = "position";

impl State {
    /// The state before the first step.
    pub fn start(weights: Weights) -> Self {
        Self { weights, moments: BTreeMap::new(), position: Position::default() }
    }

    /// The moments of a tensor, zeros at first.
    pub fn moments_of(&mut self, name: &str, values: &Tensor<1>) -> Moments {
        self.moments.remove(name).unwrap_or_else(|| Moments::of(values))
    }

    /// Writes everything to a file, tensor by tensor.
    pub fn save(&self, path: &Path) -> Result<(), StageError> {
        let weights = self.weights.iter().map(|(name, weight)| (format!("weights/{name}"), weight.clone()));
        let moments = self.moments.iter().flat_map(|(name, moments)| {
            let flat = |kind: &str, values: &Tensor<1>| {
                (format!("{kind}/{name}"), Weight { shape: values.dims().to_vec(), values: values.clone() })
            };
            [flat("first", &moments.first), flat("second", &moments.second)]
        });
        let position = serde_json::to_string(&self.position).map_err(|error| StageError::Unfit(error.to_string()))?;
        nn::save(weights.chain(moments), Precision::F32, Some((NOTE, position)), path)
    }

    /// Reads it again.
    ///
    /// # Errors
    /// With a sentence when the file is not such a state: a torn one is as good as none, and the caller says so.
    pub fn load(path: &Path, device: &Device) -> Result<Self, String> {
        let file = TensorFile::open(path).map_err(|error| error.to_string())?;
        let note = file.metadata().get(NOTE).ok_or("it says nothing of a position")?;
        let position = serde_json::from_str(note).map_err(|error| error.to_string())?;
        let (mut weights, mut first, mut second) = (Weights::default(), BTreeMap::new(), BTreeMap::new());
        for full in file.names() {
            let info = file.info(full).ok_or("a tensor is missing")?;
            let values = file
                .bytes(full)
                .ok()
                .and_then(|bytes| tensors::decode(info.dtype, bytes))
                .ok_or("a tensor can't be read")?;
            let values = Tensor::<1>::from_data(TensorData::new(values.clone(), [values.len()]), (device, DType::F32));
            match full.split_once('/') {
                Some(("weights", name)) => weights.insert(name, Weight { values, shape: info.shape.clone() }),
                Some(("first", name)) => drop(first.insert(name.to_owned(), values)),
                Some(("second", name)) => drop(second.insert(name.to_owned(), values)),
                _ => return Err(format!("`{full}` is no tensor of a training")),
            }
        }
        let moments = first.into_iter().map(|(name, first)| {
            let second = second.remove(&name)?;
            Some((name, Moments { first, second }))
        });
        let moments = moments.collect::<Option<_>>().ok_or("a moment is missing")?;
        Ok(Self { weights, moments, position })
    }
}

/// The file in a working folder in which the state of an unfinished epoch is kept.
pub fn unfinished(folder: &Path) -> PathBuf {
    folder.join("state.safetensors")
}

/// Writes the state of an unfinished epoch in the place of an older one, so that at each moment one of them is whole.
pub fn save_unfinished(state: &State, folder: &Path) -> Result<(), StageError> {
    let (next, path) = (folder.join("state.next"), unfinished(folder));
    state.save(&next)?;
    let placed = step("state.sync", || File::open(&next)?.sync_all())
        .and_then(|()| step("state.rename", || fs::rename(&next, &path)))
        .and_then(|()| sync_folder("state.folder", folder));
    if placed.is_err() {
        // The first error is the one to tell, and room may be what is lacking.
        drop(fs::remove_file(&next));
    }
    placed.map_err(|reason| StoreError::write(path)(reason).into())
}
