//! Which tensors are trained, and how each of them.

use crate::{
    adapter::{self, parameters::Method},
    checkpoint::{MmditGeometry, POSITION_TABLE, block_of, mmdit_names},
    error::StageError,
    precision::Precision,
    train::{
        parameters::{Train, WeightType},
        pattern::{matches, nearest},
    },
};
use serde::{Deserialize, Serialize};

/// Tensors that go at a pace of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Which: `*` stands for any text, `0-11` between dots for the numbers from 0 to 11, as in `joint_blocks.0-11.*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// A factor of the pipeline's learning rate. Default 1.
    #[serde(default = "one")]
    pub learning_rate: f64,
    /// A weight decay in the place of the optimizer's, which stands by default.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// Which tensors the weight decay is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decay {
    /// All of them, as in the trainers that people know.
    #[default]
    All,
    /// Those of two dimensions and more: no biases, and no scales of norms.
    Matrices,
}

impl Train {
    /// Whether a tensor is trained. The table of positions never is.
    pub fn trains(&self, name: &str) -> bool {
        name != POSITION_TABLE && !self.freeze.iter().any(|pattern| matches(pattern, name))
    }

    /// The type that a tensor is kept in from step to step. What is not trained needs no more than the network computes in.
    pub fn kept_in(&self, name: &str) -> Precision {
        match self.weights {
            _ if name == POSITION_TABLE => Precision::F32,
            _ if !self.trains(name) => self.precision,
            WeightType::Bf16Stochastic => Precision::Bf16,
            WeightType::F32 => Precision::F32,
        }
    }

    /// Whether a tensor of a network of so many blocks lies in the host's memory between steps.
    pub fn swaps(&self, name: &str, depth: usize) -> bool {
        block_of(name).is_some_and(|block| block + self.block_swap as usize >= depth)
    }

    /// The learning rate's factor and the weight decay of a tensor: the first group that it is in says so.
    pub fn pace_of(&self, name: &str, dimensions: usize) -> (f64, f64) {
        let group = self.groups.iter().find(|group| matches(&group.pattern, name));
        let decay = group.and_then(|group| group.weight_decay).unwrap_or_else(|| self.optimizer.weight_decay());
        let decays = self.decay == Decay::All || dimensions > 1;
        (group.map_or(1.0, |group| group.learning_rate), if decays { decay } else { 0.0 })
    }

    /// The tensors that a training has, with their shapes: the network's own, the table of positions included, or an adapter's.
    ///
    /// # Errors
    /// When an adapter can't sit where it is to.
    pub fn tensors(&self, geometry: &MmditGeometry) -> Result<Vec<(String, Vec<usize>)>, StageError> {
        Ok(match &self.method {
            Method::Full => mmdit_names(geometry),
            Method::LoRA(lora) => adapter::tensors(&adapter::places(lora, geometry)?, lora.dora),
        })
    }

    /// Makes sure that the model has what the parameters speak of.
    ///
    /// # Errors
    /// When a pattern is that of no tensor, when nothing is left to train, or when the model has fewer blocks than are swapped.
    pub fn check_model(&self, geometry: &MmditGeometry) -> Result<(), StageError> {
        let names = self.tensors(geometry)?;
        let names: Vec<&str> =
            names.iter().map(|(name, _)| name.as_str()).filter(|name| *name != POSITION_TABLE).collect();
        let frozen = self.freeze.iter().map(|pattern| ("freeze", pattern));
        for (field, pattern) in frozen.chain(self.groups.iter().map(|group| ("groups", &group.pattern))) {
            if !names.iter().any(|name| matches(pattern, name)) {
                let nearest = nearest(pattern, &names).join("`, `");
                return Err(StageError::Unfit(format!(
                    "`{field}`: `{pattern}` matches no tensor that is trained; there are `{nearest}`, …"
                )));
            }
        }
        if !names.iter().any(|name| self.trains(name)) {
            return Err(StageError::Unfit("`freeze`: nothing is left to train; freeze less".to_owned()));
        }
        if self.block_swap as usize > geometry.depth {
            return Err(StageError::Unfit(format!(
                "`block_swap`: the model has {} blocks, and {} can't be swapped; lower it",
                geometry.depth, self.block_swap
            )));
        }
        Ok(())
    }
}
