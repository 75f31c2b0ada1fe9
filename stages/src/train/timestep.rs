//! The law of the noise level that a training sample gets.

use crate::{random::Draws, train::parameters::Density};

/// The smallest sigma that is trained on: below it the noisy latent is the latent.
const SMALLEST: f64 = 1e-3;

impl Density {
    /// A draw of sigma in [0.001, 1]: `u` by this density, then `sigma = shift·u / (1 + (shift − 1)·u)` (SD3 paper, equation 23).
    /// A positive mean of the logit-normal trains more on noisy levels. The network is given `1000·sigma` as its timestep.
    pub fn sigma(self, shift: f64, draws: &mut Draws) -> f64 {
        let u = match self {
            Self::LogitNormal { mean, standard_deviation } => {
                1.0 / (1.0 + libm::exp(-(mean + standard_deviation * draws.normal())))
            }
            Self::Uniform => draws.uniform(),
        };
        (shift * u / (1.0 + (shift - 1.0) * u)).clamp(SMALLEST, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_of(density: Density, shift: f64) -> f64 {
        let count = 20_000;
        let draw = |step| density.sigma(shift, &mut Draws::new(7, "test", step, ""));
        (0..count).map(draw).sum::<f64>() / count as f64
    }

    #[test]
    fn the_densities_have_their_means() {
        assert!((mean_of(Density::Uniform, 1.0) - 0.5).abs() < 0.01);
        assert!((mean_of(Density::default(), 1.0) - 0.5).abs() < 0.01);
        // The integral of 3u/(1+2u) over (0, 1) is 3/2 − (3/4)·ln 3.
        assert!((mean_of(Density::Uniform, 3.0) - 0.676_041).abs() < 0.01);
        // Numerically, the mean of 3s/(1+2s) for s the logistic function of a standard normal.
        assert!((mean_of(Density::default(), 3.0) - 0.713).abs() < 0.01);
        let noisier = Density::LogitNormal { mean: 1.0, standard_deviation: 1.0 };
        assert!(mean_of(noisier, 1.0) > 0.6);
    }
}
