//! What a training is between two steps, in memory and in a file.

use crate::{
    checkpoint::{Dtype, TensorFile},
    error::StageError,
    nn::{self, Weight, Weights},
    precision::Precision,
    tensors,
    train::{
        average::AVERAGE,
        metrics::Measured,
        optimizer::{Course, Kept, Optimizer, Stored},
        parallel::Rank,
    },
};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use safetensors::View;
use sd3pipe_cache::{
    StoreError,
    files::{step, sync_folder},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// The weights, what the optimizer keeps, and how far the epoch is.
#[derive(Clone, Debug)]
pub struct State {
    /// Every tensor of the MMDiT under its name, the table of positions included, or of an adapter, each in the type and on the device
    /// that it is kept in and on between steps.
    pub weights: Weights,
    /// The weights that an adapter is trained beside, in the type that the network computes in, and the adapter's scales; in no file.
    /// Nothing when the network's own weights are trained.
    pub frozen: Weights,
    /// The running mean of the trained weights, in 32 bits, where they are; nothing when none is kept.
    pub average: Weights,
    /// What the optimizer keeps of each trained tensor; nothing before the first step.
    pub kept: BTreeMap<String, Kept>,
    /// What the optimizer keeps of the training as a whole.
    pub course: Course,
    /// Where the training is.
    pub position: Position,
    /// Which of the devices it belongs to; in no file.
    pub rank: Rank,
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

const POSITION: &str = "position";
const COURSE: &str = "course";
const WEIGHTS: &str = "weights";

impl State {
    /// The state before the first step.
    pub fn start(weights: Weights) -> Self {
        Self {
            weights,
            frozen: Weights::default(),
            average: Weights::default(),
            kept: BTreeMap::new(),
            course: Course::default(),
            position: Position::default(),
            rank: Rank::default(),
        }
    }

    /// The weights to save and to draw with, see [`Optimizer::result`].
    pub fn results(&self, optimizer: &Optimizer) -> impl Iterator<Item = (String, Weight)> {
        self.weights.iter().map(|(name, weight)| {
            let values = optimizer.result(weight.values.clone(), self.kept.get(name));
            (name.to_owned(), Weight { values, shape: weight.shape.clone() })
        })
    }

    /// Writes everything to a file, tensor by tensor, each in its own type.
    pub fn save(&self, path: &Path) -> Result<(), StageError> {
        let named = |(kind, weights): (&'static str, &Weights)| {
            let saved = weights.iter().map(|(name, weight)| {
                let stored = Stored::Floats(weight.values.clone());
                (format!("{kind}/{name}"), Saved { stored, shape: weight.shape.clone() })
            });
            saved.collect::<Vec<_>>()
        };
        let weights = [(WEIGHTS, &self.weights), (AVERAGE, &self.average)].into_iter().flat_map(named);
        let kept = self.kept.iter().flat_map(|(name, kept)| {
            kept.iter().map(move |(kind, stored)| {
                let [length] = match stored {
                    Stored::Floats(values) => values.dims(),
                    Stored::Codes(values) => values.dims(),
                };
                (format!("{kind}/{name}"), Saved { stored: stored.clone(), shape: vec![length] })
            })
        });
        let json = |result: serde_json::Result<String>| result.map_err(|error| StageError::Unfit(error.to_string()));
        let notes = BTreeMap::from([
            (POSITION.to_owned(), json(serde_json::to_string(&self.position))?),
            (COURSE.to_owned(), json(serde_json::to_string(&self.course))?),
        ]);
        tensors::write_file(path, weights.chain(kept).collect(), &notes)
    }

    /// Reads it again. `device` says where a tensor, and what is kept of it, lies between steps. Of what the optimizer keeps, and of the
    /// running mean, that is read which the rank owns.
    ///
    /// # Errors
    /// With a sentence when the file is not such a state: a torn one is as good as none, and the caller says so.
    pub fn load(path: &Path, device: impl Fn(&str) -> Device, rank: Rank) -> Result<Self, String> {
        let file = TensorFile::open(path).map_err(|error| error.to_string())?;
        let mut state = Self { rank, ..Self::start(Weights::default()) };
        state.position = note(&file, POSITION)?.ok_or("it says nothing of a position")?;
        // States that are older than the optimizers that need it have none.
        state.course = note(&file, COURSE)?.unwrap_or_default();
        for full in file.names() {
            let (kind, name) = full.split_once('/').ok_or_else(|| format!("`{full}` is no tensor of a training"))?;
            if kind != WEIGHTS && !state.rank.owns(name) {
                continue;
            }
            let info = file.info(full).ok_or("a tensor is missing")?;
            let bytes = file.bytes(full).map_err(|error| error.to_string())?;
            match (kind, stored(info.dtype, bytes, &device(name)).ok_or("a tensor can't be read")?) {
                (WEIGHTS, Stored::Floats(values)) => {
                    state.weights.insert(name, Weight { values, shape: info.shape.clone() });
                }
                (AVERAGE, Stored::Floats(values)) => {
                    state.average.insert(name, Weight { values, shape: info.shape.clone() });
                }
                (kind, stored) => state.kept.entry(name.to_owned()).or_default().insert(kind, stored),
            }
        }
        Ok(state)
    }
}

fn note<T: DeserializeOwned>(file: &TensorFile, name: &str) -> Result<Option<T>, String> {
    let parse = |note: &String| serde_json::from_str(note).map_err(|error| error.to_string());
    file.metadata().get(name).map(parse).transpose()
}

/// A flat tensor in the type that it was saved in.
fn stored(dtype: Dtype, bytes: &[u8], device: &Device) -> Option<Stored> {
    if dtype == Dtype::U8 {
        let data = TensorData::new(bytes.to_vec(), [bytes.len()]);
        return Some(Stored::Codes(Tensor::<1, Int>::from_data(data, (device, DType::U8))));
    }
    let own = if dtype == Dtype::BF16 { DType::BF16 } else { DType::F32 };
    let values = tensors::decode(dtype, bytes)?;
    let length = values.len();
    Some(Stored::Floats(Tensor::from_data(TensorData::new(values, [length]), (device, own))))
}

/// A tensor on its way to a file.
struct Saved {
    stored: Stored,
    shape: Vec<usize>,
}

impl View for Saved {
    fn dtype(&self) -> Dtype {
        match &self.stored {
            Stored::Floats(values) if values.dtype() == DType::BF16 => Dtype::BF16,
            Stored::Floats(_) => Dtype::F32,
            Stored::Codes(_) => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.stored {
            Stored::Floats(values) => {
                let precision = if values.dtype() == DType::BF16 { Precision::Bf16 } else { Precision::F32 };
                precision.encode(&nn::to_host(values.clone())).into()
            }
            Stored::Codes(values) => values.clone().into_data().iter::<u8>().collect(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
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
