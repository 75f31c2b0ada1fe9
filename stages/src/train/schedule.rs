//! The learning rate as a function of the step.

use serde::{Deserialize, Serialize};

/// How the learning rate moves, as a factor from 0 to 1 of the pipeline's `learning_rate`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// The same at each step after a linear warm-up. More epochs can be added later without training the first ones again.
    Constant {
        /// Steps of linear warm-up from 0.
        #[serde(default)]
        warmup: u64,
    },
    /// Half a cosine from 1 to 0 over all steps after a linear warm-up (`get_cosine_schedule_with_warmup` of transformers).
    Cosine {
        /// Steps of linear warm-up from 0.
        #[serde(default)]
        warmup: u64,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine { warmup: 0 }
    }
}

impl Schedule {
    /// The factor at `step` (from 0) of `total` steps.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let (Self::Constant { warmup } | Self::Cosine { warmup }) = *self;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        match self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { .. } => {
                let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
                // libm, so that the bits are the same wherever they are computed.
                (0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress))).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_gives_the_reference_values() {
        let schedule = Schedule::Cosine { warmup: 0 };
        for (step, expected) in
            [(0, 1.0), (1000, 0.853_553), (2000, 0.5), (3000, 0.146_447), (3999, 1.54e-7), (4000, 0.0)]
        {
            assert!((schedule.factor(step, 4000) - expected).abs() < 1e-6, "step {step}");
        }
    }

    #[test]
    fn warm_up_is_linear_from_zero() {
        for schedule in [Schedule::Constant { warmup: 4 }, Schedule::Cosine { warmup: 4 }] {
            let factors: Vec<f64> = (0..5).map(|step| schedule.factor(step, 100)).collect();
            assert_eq!(factors, [0.0, 0.25, 0.5, 0.75, 1.0]);
        }
    }

    #[test]
    fn a_warm_up_longer_than_the_training_never_divides_by_zero() {
        assert_eq!(Schedule::Cosine { warmup: 10 }.factor(10, 5), 1.0);
    }
}
