//! The running mean of the weights: what it is told, and how it follows them.

use crate::problem::Problem;
use serde::{Deserialize, Serialize};

/// The role of an epoch's averaged weights.
pub const AVERAGE: &str = "average";

/// Keeps a running mean of the weights, in 32 bits, as diffusers' `EMAModel`: `mean += (1 − decay)·(weight − mean)` after each optimizer
/// step. It forgets the jitter of single steps, and often draws better than the weights at any of them. It is saved with each epoch
/// beside the trained weights and exported by `Export(weights: Average)`. The weights themselves go their way as without it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Average {
    /// The most that stays of the mean at a step: 0.9999 has a memory of 10,000 steps. The warm-up comes first, and a short training hardly
    /// gets beyond it. Default 0.9999.
    pub decay: f64,
    /// Steps before the mean begins; until then it is the weights. Default 0.
    pub after: u64,
    /// How the decay rises, so that the weights of the start are forgotten. Default `Ratio`.
    pub warmup: Warmup,
}

/// How the decay rises with the number of steps `n` since the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Warmup {
    /// `(1 + n) / (10 + n)`: 0.9 after 80 steps, 0.99 after 890. `EMAModel`'s own, and the default.
    #[default]
    Ratio,
    /// `1 − (1 + n / gamma)^−power`: `EMAModel`'s `use_ema_warmup`.
    Power {
        /// Default 1. Larger ones rise later.
        #[serde(default = "one")]
        gamma: f64,
        /// Default 2/3: 0.99 after 1,000 steps. 3/4 is for short trainings.
        #[serde(default = "two_thirds")]
        power: f64,
    },
}

fn one() -> f64 {
    1.0
}

fn two_thirds() -> f64 {
    2.0 / 3.0
}

impl Default for Average {
    fn default() -> Self {
        Self { decay: 0.9999, after: 0, warmup: Warmup::Ratio }
    }
}

impl Average {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut within = |name: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                problems.push(Problem::new(format!("average.{name}"), format!("{value} is not from {low} to {high}")));
            }
        };
        within("decay", self.decay, 0.0, 1.0);
        if let Warmup::Power { gamma, power } = self.warmup {
            within("warmup.gamma", gamma, 0.001, 1e6);
            within("warmup.power", power, 0.01, 1.0);
        }
        problems
    }

    /// What stays of the mean at a step, counted from 1 over all epochs (`EMAModel.get_decay`).
    pub fn decay_at(&self, step: u64) -> f64 {
        let since = step.saturating_sub(self.after + 1);
        if since == 0 {
            return 0.0;
        }
        let since = since as f64;
        let risen = match self.warmup {
            Warmup::Ratio => (1.0 + since) / (10.0 + since),
            Warmup::Power { gamma, power } => 1.0 - libm::pow(1.0 + since / gamma, -power),
        };
        risen.min(self.decay)
    }
}

#[cfg(feature = "compute")]
mod compute {
    use super::Average;
    use crate::{
        nn::{Weight, Weights},
        train::state::State,
    };
    use burn::tensor::{DType, Device};

    impl State {
        /// Has the mean follow the weights that are trained, after the optimizer step `step` (from 0 over all epochs). It is computed on
        /// `device`, and lies where the weights do.
        pub fn follow(&mut self, average: &Average, trains: impl Fn(&str) -> bool, step: u64, device: &Device) {
            let decay = average.decay_at(step + 1);
            for (name, weight) in self.weights.iter().filter(|(name, _)| trains(name)) {
                let now = weight.values.clone().to_device(device).cast(DType::F32);
                let values = match self.average.get(name) {
                    Some(mean) if decay > 0.0 => {
                        let mean = mean.values.clone().to_device(device);
                        mean.clone() - (mean - now).mul_scalar(1.0 - decay)
                    }
                    _ => now,
                };
                let values = values.to_device(&weight.values.device());
                self.average.insert(name, Weight { values, shape: weight.shape.clone() });
            }
        }

        /// The averaged weights, with those that are not trained.
        pub fn averages(&self) -> Weights {
            self.weights.with(&self.average)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_rises_to_its_bound() {
        let average = Average { after: 10, ..Average::default() };
        assert_eq!([1, 10, 11].map(|step| average.decay_at(step)), [0.0; 3]);
        assert_eq!(average.decay_at(12), 2.0 / 11.0);
        assert_eq!(average.decay_at(91), 0.9);
        assert_eq!(average.decay_at(10_000_000), 0.9999);
        let power = Average { warmup: Warmup::Power { gamma: 1.0, power: 0.75 }, ..Average::default() };
        assert!((power.decay_at(10_001) - 0.999).abs() < 1e-6);
    }
}
