//! Prodigy.

#[cfg(feature = "compute")]
use super::{Kept, Pace};
#[cfg(feature = "compute")]
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Prodigy (Mishchenko and Defazio 2023, arXiv:2306.06101), as `prodigyopt`: AdamW whose learning rate is an estimate of how far
/// the weights have to go. The pipeline's `learning_rate` is a factor of it, 1 by nature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prodigy {
    /// Decay of the mean of gradients. Default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients. Default 0.999.
    pub beta2: f64,
    /// Decay of the sums that the estimate is made of. The root of `beta2` by default.
    pub beta3: Option<f64>,
    /// Added to the root of the second moment, times the estimate. Default 1e-8.
    pub epsilon: f64,
    /// Share of a weight that is taken off at each step, times the learning rate. Default 0.
    pub weight_decay: f64,
    /// Whether the decay is AdamW's; Adam's, which adds it to the gradient, if not. Default `true`.
    pub decouple: bool,
    /// Whether Adam's correction of the first steps is made. Default `false`.
    pub use_bias_correction: bool,
    /// Keeps a warm-up from raising the estimate. Default `false`.
    pub safeguard_warmup: bool,
    /// The first estimate. Default 1e-6.
    pub d0: f64,
    /// A factor of the estimate; what to change, if anything. Default 1.
    pub d_coef: f64,
    /// By how much the estimate may grow in a step; without a limit by default.
    pub growth_rate: Option<f64>,
}

impl Default for Prodigy {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            beta3: None,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decouple: true,
            use_bias_correction: false,
            safeguard_warmup: false,
            d0: 1e-6,
            d_coef: 1.0,
            growth_rate: None,
        }
    }
}

/// What Prodigy knows of the distance from the first weights to the best ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// The estimate; 0 before the first step.
    pub estimate: f64,
    /// The estimate that the step began with, by which it goes.
    pub before: f64,
    /// The largest that was seen.
    pub largest: f64,
    /// The running sum above the fraction bar.
    pub numerator: f64,
    /// Steps with a learning rate above 0, this one among them: others change nothing.
    pub steps: u64,
}

impl Prodigy {
    pub(super) fn settings(&self) -> Vec<super::Setting> {
        vec![
            ("beta1", self.beta1, 0.0, 0.999_999),
            ("beta2", self.beta2, 0.0, 0.999_999_9),
            ("beta3", self.beta3.unwrap_or_default(), 0.0, 0.999_999_9),
            ("epsilon", self.epsilon, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
            ("d0", self.d0, 1e-30, 1.0),
            ("d_coef", self.d_coef, 1e-6, 1e6),
            ("growth_rate", self.growth_rate.unwrap_or(1.0), 1.0, 1e30),
        ]
    }
}

#[cfg(feature = "compute")]
impl Prodigy {
    pub(super) fn begin(&self, distance: Distance, learning_rate: f64) -> Distance {
        let estimate = if distance.estimate == 0.0 { self.d0 } else { distance.estimate };
        let steps = distance.steps + u64::from(learning_rate > 0.0);
        Distance { estimate, before: estimate, largest: distance.largest.max(self.d0), steps, ..distance }
    }

    fn beta3(&self) -> f64 {
        self.beta3.unwrap_or_else(|| libm::sqrt(self.beta2))
    }

    /// The learning rate of a step, which goes by the estimate that it began with.
    fn rate(&self, pace: &Pace) -> f64 {
        let correction = |beta: f64| 1.0 - libm::pow(beta, pace.course.distance.steps as f64);
        let corrected =
            if self.use_bias_correction { libm::sqrt(correction(self.beta2)) / correction(self.beta1) } else { 1.0 };
        pace.course.distance.before * pace.learning_rate * corrected
    }

    /// The first half of a step: takes note of the gradient of one tensor, and gives its parts of the sums above and below the
    /// fraction bar, each `[1]`.
    pub fn watch(&self, values: &Tensor<1>, gradient: Tensor<1>, kept: &mut Kept, pace: &Pace) -> [Tensor<1>; 2] {
        let gradient = if self.decouple { gradient } else { gradient + values.clone().mul_scalar(pace.weight_decay) };
        let (before, rate) = (pace.course.distance.before, self.rate(pace));
        let start = kept.get("start").unwrap_or_else(|| values.clone());
        let above = (gradient.clone() * (start.clone() - values.clone())).sum();
        let first = kept.take("first", values).mul_scalar(self.beta1)
            + gradient.clone().mul_scalar(before * (1.0 - self.beta1));
        let second = kept.take("second", values).mul_scalar(self.beta2)
            + (gradient.clone() * gradient.clone()).mul_scalar(before * before * (1.0 - self.beta2));
        let weight = before / self.d0 * if self.safeguard_warmup { before } else { rate };
        let sum = kept.take("sum", values).mul_scalar(self.beta3()) + gradient.mul_scalar(weight);
        let below = sum.clone().abs().sum();
        for (name, tensor) in [("start", start), ("first", first), ("second", second), ("sum", sum)] {
            kept.put(name, tensor);
        }
        [above, below]
    }

    /// The estimate from all tensors' sums above and below the fraction bar; none when every gradient is and was zero, and
    /// there is nothing to do.
    pub fn estimate(&self, above: f64, below: f64, pace: &Pace) -> Option<Distance> {
        let distance = pace.course.distance;
        if below == 0.0 {
            return None;
        }
        let numerator = distance.numerator * self.beta3() + distance.before / self.d0 * self.rate(pace) * above;
        let found = self.d_coef * numerator / below;
        let mut estimate = distance.estimate;
        if estimate == self.d0 {
            estimate = estimate.max(found);
        }
        let largest = distance.largest.max(found);
        estimate = self.growth_rate.map_or(largest, |growth| largest.min(estimate * growth));
        Some(Distance { estimate, largest, numerator, ..distance })
    }

    /// The second half of a step, with the new estimate in the pace.
    pub fn step(&self, values: Tensor<1>, kept: &Kept, pace: &Pace) -> Tensor<1> {
        let (Some(first), Some(second)) = (kept.get("first"), kept.get("second")) else { return values };
        let rate = self.rate(pace);
        let denominator = second.sqrt().add_scalar(pace.course.distance.estimate * self.epsilon);
        let decay = if self.decouple { pace.weight_decay } else { 0.0 };
        values.mul_scalar(1.0 - decay * rate) - (first / denominator).mul_scalar(rate)
    }
}
