//! Lion.

#[cfg(feature = "compute")]
use super::{Kept, Pace};
#[cfg(feature = "compute")]
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2), as `lion-pytorch`. Every weight moves by the learning rate at each step,
/// so it wants a third to a tenth of AdamW's, and the weight decay as many times larger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lion {
    /// The share of the running mean in what the sign is taken of. Default 0.9.
    pub beta1: f64,
    /// Decay of the running mean of gradients. Default 0.99.
    pub beta2: f64,
    /// Share of a weight that is taken off at each step, times the learning rate. Default 0.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

impl Lion {
    pub(super) fn settings(&self) -> Vec<super::Setting> {
        vec![
            ("beta1", self.beta1, 0.0, 0.999_999),
            ("beta2", self.beta2, 0.0, 0.999_999_9),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
        ]
    }
}

#[cfg(feature = "compute")]
impl Lion {
    pub(super) fn step(&self, values: Tensor<1>, gradient: Tensor<1>, kept: &mut Kept, pace: &Pace) -> Tensor<1> {
        let mean = kept.take("first", &values);
        let direction = (mean.clone().mul_scalar(self.beta1) + gradient.clone().mul_scalar(1.0 - self.beta1)).sign();
        kept.put("first", mean.mul_scalar(self.beta2) + gradient.mul_scalar(1.0 - self.beta2));
        values.mul_scalar(1.0 - pace.learning_rate * pace.weight_decay) - direction.mul_scalar(pace.learning_rate)
    }
}
