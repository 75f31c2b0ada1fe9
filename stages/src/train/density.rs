//! The law of `u` in (0, 1), from which the level of noise follows by the shift.

use crate::random::Draws;
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2};

/// A law of `u` in (0, 1), from which sigma follows by the shift. Which levels of noise are trained on how often matters more than
/// the learning rate for what is learnt: the middle ones hold the composition, the low ones the texture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Density {
    /// The logistic function of a normal draw (SD3 paper, equation 19): the middle levels most. The default, with mean 0 and standard
    /// deviation 1, is the law that SD3 was made with.
    LogitNormal {
        /// Mean of the normal draw, 0 unless given. A positive one trains more on noisy levels, as in today's sd-scripts; in diffusers'
        /// scripts it is the other way round.
        #[serde(default)]
        mean: f64,
        /// Standard deviation of the normal draw, 1 unless given. A larger one trains more on both ends.
        #[serde(default = "default_standard_deviation")]
        standard_deviation: f64,
    },
    /// The law with heavy tails of the SD3 paper (equation 20), `1 − u − scale·(cos²(πu/2) − 1 + u)`: unlike the logit-normal it leaves no
    /// level out.
    Mode {
        /// From −1 to 1.75; a positive one favours the middle, a negative one the ends. 1.29, the default, is the paper's best.
        #[serde(default = "default_scale")]
        scale: f64,
    },
    /// The levels of the cosine schedule (SD3 paper, section 3.1): density `2 / (π(1 − 2u + 2u²))`, the middle twice as often as the ends.
    CosMap,
    /// Every `u` alike, as sd-scripts does unless told otherwise.
    Uniform,
}

fn default_standard_deviation() -> f64 {
    1.0
}

fn default_scale() -> f64 {
    1.29
}

impl Default for Density {
    fn default() -> Self {
        Self::LogitNormal { mean: 0.0, standard_deviation: default_standard_deviation() }
    }
}

impl Density {
    /// A `u` of this law.
    pub fn draw(self, draws: &mut Draws) -> f64 {
        match self {
            // Not by its quantiles: the bits of what was trained before there were strata are those of a normal draw.
            Self::LogitNormal { mean, standard_deviation } => logistic(mean + standard_deviation * draws.normal()),
            _ => self.of_uniform(draws.uniform()),
        }
    }

    /// The `u` of this law for a number that is uniform in [0, 1), as diffusers' `compute_density_for_timestep_sampling` for `mode`; the
    /// logit-normal goes by its quantiles. It is monotonic, so that each stratum of the one is a stratum of the other.
    pub fn of_uniform(self, uniform: f64) -> f64 {
        match self {
            Self::LogitNormal { mean, standard_deviation } => {
                logistic(mean + standard_deviation * normal_quantile(uniform))
            }
            Self::Mode { scale } => {
                let cosine = libm::cos(FRAC_PI_2 * uniform);
                1.0 - uniform - scale * (cosine * cosine - 1.0 + uniform)
            }
            // The paper's 1 − 1/(tan(πu/2) + 1).
            Self::CosMap => {
                let (sine, cosine) = libm::sincos(FRAC_PI_2 * uniform);
                sine / (sine + cosine)
            }
            Self::Uniform => uniform,
        }
    }
}

fn logistic(value: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-value))
}

/// Where the normal distribution function comes to `share`. By halving, as a draw needs no more speed than that; beyond ±9 lie fewer
/// than one in 10^18.
fn normal_quantile(share: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if 0.5 * libm::erfc(-middle * FRAC_1_SQRT_2) < share { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::weighting::Weighting;

    const ALL: [Density; 6] = [
        Density::LogitNormal { mean: 0.5, standard_deviation: 1.5 },
        Density::Mode { scale: 1.29 },
        Density::Mode { scale: 1.75 },
        Density::Mode { scale: -1.0 },
        Density::CosMap,
        Density::Uniform,
    ];

    #[test]
    fn every_law_is_monotonic_and_stays_within_0_and_1() {
        for density in ALL {
            let values: Vec<f64> = (0..1000).map(|index| density.of_uniform(f64::from(index) / 1000.0)).collect();
            assert!(values.iter().all(|u| (0.0..=1.0).contains(u)), "{density:?}");
            let rising = values[500] > values[0];
            assert!(values.windows(2).all(|pair| (pair[1] >= pair[0]) == rising || pair[0] == pair[1]), "{density:?}");
        }
    }

    #[test]
    fn a_draw_and_the_quantiles_are_the_same_law() {
        for density in ALL {
            let count = 20_000;
            let mut drawn: Vec<f64> =
                (0..count).map(|step| density.draw(&mut Draws::new(7, "test", step, ""))).collect();
            drawn.sort_by(f64::total_cmp);
            let mut expected: Vec<f64> =
                (0..count).map(|index| density.of_uniform((index as f64 + 0.5) / count as f64)).collect();
            expected.sort_by(f64::total_cmp);
            let largest = drawn.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(largest < 0.03, "{density:?}: {largest}");
        }
    }

    /// What makes the one and the other together count twice.
    #[test]
    fn the_density_of_cosmap_is_its_weighting() {
        for uniform in [0.05, 0.3, 0.5, 0.8, 0.99] {
            let step = 1e-6;
            let slope = (Density::CosMap.of_uniform(uniform + step) - Density::CosMap.of_uniform(uniform - step))
                / (2.0 * step);
            let weight = Weighting::CosMap.factor(Density::CosMap.of_uniform(uniform));
            assert!((slope * weight - 1.0).abs() < 1e-6, "{uniform}: {slope} {weight}");
        }
    }
}
