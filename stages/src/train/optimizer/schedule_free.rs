//! AdamW without a schedule.

#[cfg(feature = "compute")]
use super::{Kept, Pace};
#[cfg(feature = "compute")]
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682), as `schedulefree`'s `AdamWScheduleFree`: an average of the weights
/// does what a falling learning rate does elsewhere. Gradients are taken at a point `y` between the average `x` and the fast
/// weights `z`. The training goes on from `y`; checkpoints, and so exports and samples, hold the average `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWScheduleFree {
    /// How near to the average gradients are taken, 1 being at it. Default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients. Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub epsilon: f64,
    /// Share of a weight that is taken off at each step, times the learning rate. Default 0.
    pub weight_decay: f64,
    /// Steps weigh by their number to this power in the average. Default 0.
    pub r: f64,
    /// Steps weigh by the largest learning rate so far to this power in the average. Default 2.
    pub weight_lr_power: f64,
}

impl Default for AdamWScheduleFree {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, r: 0.0, weight_lr_power: 2.0 }
    }
}

/// The account of the average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// The largest learning rate so far.
    pub largest_rate: f64,
    /// The weights of all steps so far.
    pub weights: f64,
    /// The share of this step in them.
    pub share: f64,
}

impl AdamWScheduleFree {
    pub(super) fn settings(&self) -> Vec<super::Setting> {
        vec![
            ("beta1", self.beta1, 0.1, 0.999_999),
            ("beta2", self.beta2, 0.0, 0.999_999_9),
            ("epsilon", self.epsilon, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
            ("r", self.r, 0.0, 10.0),
            ("weight_lr_power", self.weight_lr_power, 0.0, 10.0),
        ]
    }
}

#[cfg(feature = "compute")]
impl AdamWScheduleFree {
    /// The account with a step (counted from 1) in it.
    pub(super) fn begin(&self, average: Account, learning_rate: f64, step: u64) -> Account {
        let largest_rate = average.largest_rate.max(learning_rate);
        let weight = libm::pow(step as f64, self.r) * libm::pow(largest_rate, self.weight_lr_power);
        let weights = average.weights + weight;
        // A warm-up begins with a rate of 0.
        Account { largest_rate, weights, share: if weights > 0.0 { weight / weights } else { 0.0 } }
    }

    pub(super) fn step(&self, values: Tensor<1>, gradient: Tensor<1>, kept: &mut Kept, pace: &Pace) -> Tensor<1> {
        let fast = kept.take_if("fast").unwrap_or_else(|| values.clone());
        let second = kept.take("second", &values).mul_scalar(self.beta2)
            + (gradient.clone() * gradient.clone()).mul_scalar(1.0 - self.beta2);
        let correction = 1.0 - libm::pow(self.beta2, pace.step as f64);
        let denominator = second.clone().div_scalar(correction).sqrt().add_scalar(self.epsilon);
        let update = gradient / denominator + values.clone().mul_scalar(pace.weight_decay);
        let (share, rate) = (pace.course.average.share, pace.learning_rate);
        let towards = between(values, fast.clone(), share);
        kept.put("second", second);
        kept.put("fast", fast - update.clone().mul_scalar(rate));
        towards + update.mul_scalar(rate * (self.beta1 * (1.0 - share) - 1.0))
    }

    /// The average `x` from the `y` that is trained.
    pub(super) fn result(&self, values: Tensor<1>, kept: &Kept) -> Tensor<1> {
        match kept.get("fast") {
            // Weights may be kept in bf16; what is kept of them never is.
            Some(fast) => between(values.cast(fast.dtype()), fast, 1.0 - 1.0 / self.beta1),
            None => values,
        }
    }
}

#[cfg(feature = "compute")]
fn between(from: Tensor<1>, to: Tensor<1>, share: f64) -> Tensor<1> {
    from.clone() + (to - from).mul_scalar(share)
}
