//! What turns gradients into updates: the optimizers, with what each may be told, keeps, and does to a tensor.

mod adafactor;
mod adamw;
#[cfg(feature = "compute")]
mod codes;
mod keeps;
#[cfg(feature = "compute")]
mod kept;
mod lion;
mod prodigy;
mod schedule_free;

pub use adafactor::Adafactor;
pub use adamw::AdamW;
#[cfg(feature = "cuda")]
pub(super) use codes::tables;
#[cfg(feature = "compute")]
pub use kept::{Kept, Stored};
pub use lion::Lion;
pub use prodigy::{Distance, Prodigy};
pub use schedule_free::{Account, AdamWScheduleFree};

#[cfg(feature = "compute")]
use crate::nn::Weight;
#[cfg(feature = "compute")]
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

// burn's own are not used: they keep their states in the parameter's type and under ids that no safetensors file holds. Here
// states are tensors under the checkpoint's own names, which makes an exact resume a plain file.
/// An optimizer and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Optimizer {
    /// The usual one; 8 bytes of state a weight. The default.
    AdamW(AdamW),
    /// AdamW with its states in 8 bits, as bitsandbytes' `AdamW8bit`: 2 bytes a weight.
    AdamW8bit(AdamW),
    /// States of a row and a column in place of a matrix: next to no memory.
    Adafactor(Adafactor),
    /// The sign of a running mean; 4 bytes of state a weight.
    Lion(Lion),
    /// AdamW that finds its learning rate; 16 bytes of state a weight. Its `learning_rate` is 1.
    Prodigy(Prodigy),
    /// AdamW that averages the weights in place of a falling learning rate; 8 bytes of state a weight. Its `schedule` is constant.
    AdamWScheduleFree(AdamWScheduleFree),
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

/// A setting: its name, its value, and what it may be from and to.
pub(super) type Setting = (&'static str, f64, f64, f64);

impl Optimizer {
    /// The numbers that it was told, each with its range.
    pub(super) fn settings(&self) -> Vec<Setting> {
        match self {
            Self::AdamW(adamw) | Self::AdamW8bit(adamw) => adamw.settings(),
            Self::Adafactor(adafactor) => adafactor.settings(),
            Self::Lion(lion) => lion.settings(),
            Self::Prodigy(prodigy) => prodigy.settings(),
            Self::AdamWScheduleFree(schedule_free) => schedule_free.settings(),
        }
    }

    /// The share of a weight that is taken off at each step, times the learning rate.
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::AdamW(AdamW { weight_decay, .. })
            | Self::AdamW8bit(AdamW { weight_decay, .. })
            | Self::Adafactor(Adafactor { weight_decay, .. })
            | Self::Lion(Lion { weight_decay, .. })
            | Self::Prodigy(Prodigy { weight_decay, .. })
            | Self::AdamWScheduleFree(AdamWScheduleFree { weight_decay, .. }) => *weight_decay,
        }
    }

    /// Whether it finds the size of its steps by itself, so that a learning rate is a factor, 1 by nature.
    pub fn finds_its_rate(&self) -> bool {
        matches!(self, Self::Prodigy(_) | Self::Adafactor(Adafactor { relative_step: true, .. }))
    }
}

/// What an optimizer keeps of the training as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Course {
    /// Prodigy's.
    pub distance: Distance,
    /// The schedule-free AdamW's.
    pub average: Account,
}

/// What a step means for one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The step, counted from 1.
    pub step: u64,
    /// Its learning rate for this tensor.
    pub learning_rate: f64,
    /// Its weight decay for this tensor.
    pub weight_decay: f64,
    /// What is kept of the training as a whole.
    pub course: Course,
}

#[cfg(feature = "compute")]
impl Optimizer {
    /// Whether it must see all gradients before it moves a weight.
    pub(super) fn needs_all(&self) -> bool {
        matches!(self, Self::Prodigy(_))
    }

    /// The course of the step that begins with this learning rate. Prodigy's changes later, when all gradients are known.
    pub fn begin(&self, course: Course, learning_rate: f64, step: u64) -> Course {
        match self {
            Self::Prodigy(prodigy) => Course { distance: prodigy.begin(course.distance, learning_rate), ..course },
            Self::AdamWScheduleFree(schedule_free) => {
                Course { average: schedule_free.begin(course.average, learning_rate, step), ..course }
            }
            _ => course,
        }
    }

    /// The values that a weight of 32 bits moves to. Prodigy's [`watch`](Prodigy::watch) comes before.
    pub fn step(&self, weight: Weight, gradient: Tensor<1>, kept: &mut Kept, pace: &Pace) -> Tensor<1> {
        let Weight { values, shape } = weight;
        match self {
            Self::AdamW(adamw) => adamw.step(values, gradient, kept, pace),
            Self::AdamW8bit(adamw) => adamw.step_8bit(values, gradient, kept, pace),
            Self::Adafactor(adafactor) => adafactor.step(values, &shape, gradient, kept, pace),
            Self::Lion(lion) => lion.step(values, gradient, kept, pace),
            Self::Prodigy(prodigy) => prodigy.step(values, kept, pace),
            Self::AdamWScheduleFree(schedule_free) => schedule_free.step(values, gradient, kept, pace),
        }
    }

    /// The values of a weight to save and to draw with: those that are trained, except for the schedule-free AdamW, which
    /// trains others than it means.
    pub fn result(&self, values: Tensor<1>, kept: Option<&Kept>) -> Tensor<1> {
        match (self, kept) {
            (Self::AdamWScheduleFree(schedule_free), Some(kept)) => schedule_free.result(values, kept),
            _ => values,
        }
    }
}
