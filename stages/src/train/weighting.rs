//! How much a sample's loss counts, by its level of noise.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The smallest sigma that is trained on and divided by: below it the noisy latent is the latent.
pub(super) const SMALLEST: f64 = 1e-3;

/// A factor on a sample's loss by its sigma, as in diffusers' `compute_loss_weighting_for_sd3`. It is applied to each sample on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weighting {
    /// 1 for every level: how often a level is drawn is its only weight, as in the SD3 paper. The default.
    #[default]
    None,
    /// `1 / sigma²`: nearly clean samples count a million times as much as noise. On `target: X0` with `loss: L1` or a Huber loss it
    /// takes back the weight that the target brings; with `L2` it would undo it altogether, so that `target: Velocity` says it shorter.
    SigmaSqrt,
    /// `2 / (π(1 − 2·sigma + 2·sigma²))`: the middle twice as much as the ends. The same as drawing by `density: CosMap`, with the levels
    /// drawn by another law.
    CosMap,
}

impl Weighting {
    /// The factor at a level of noise from 0 to 1.
    pub fn factor(self, sigma: f64) -> f64 {
        match self {
            Self::None => 1.0,
            Self::SigmaSqrt => {
                let sigma = sigma.max(SMALLEST);
                1.0 / (sigma * sigma)
            }
            Self::CosMap => 2.0 / (PI * (1.0 - 2.0 * sigma + 2.0 * sigma * sigma)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_level_divides_by_zero() {
        for weighting in [Weighting::None, Weighting::SigmaSqrt, Weighting::CosMap] {
            assert!([0.0, 1e-30, 1.0].into_iter().all(|sigma| weighting.factor(sigma).is_finite()), "{weighting:?}");
        }
        assert_eq!(Weighting::SigmaSqrt.factor(0.0), 1.0 / (SMALLEST * SMALLEST));
    }
}
