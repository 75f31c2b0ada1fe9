//! What the loss compares, and how it counts a difference.

use crate::train::weighting::Weighting;
use serde::{Deserialize, Serialize};

/// What the network's output is compared as. The network gives the velocity in either case, and no file differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The velocity with `noise − latents`: the rectified flow's loss of the SD3 paper, and diffusers' with `--precondition_outputs 0`. The
    /// default.
    #[default]
    Velocity,
    /// The clean latents that follow from the velocity, `noisy − sigma·velocity`, with the latents: what sd-scripts does, and diffusers'
    /// scripts unless told otherwise. The difference is that of the velocities times sigma, so under `L2` noisy levels count `sigma²`.
    X0,
}

/// How a difference counts. Each is as PyTorch defines it, and is averaged over a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Loss {
    /// Its square. The default, and what SD3 was made with.
    #[default]
    L2,
    /// Its absolute value: large errors count less, and details come out softer.
    L1,
    /// Half its square up to `delta`, and from there on straight: `torch.nn.HuberLoss`. sd-scripts' `huber` is a smooth curve of nearly this
    /// form, four times as high where it is straight.
    Huber {
        /// Where it becomes straight, 1 unless given. Differences of velocities are around 1.
        #[serde(default = "one")]
        delta: f64,
        /// How `delta` depends on the level of noise.
        #[serde(default)]
        schedule: DeltaSchedule,
    },
    /// [`Loss::Huber`] divided by where it becomes straight: `torch.nn.SmoothL1Loss`. For a small `beta` it is `L1` with a rounded tip.
    SmoothL1 {
        /// Where it becomes straight, 1 unless given.
        #[serde(default = "one")]
        beta: f64,
    },
}

fn one() -> f64 {
    1.0
}

/// How a Huber loss' `delta` depends on the level of noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeltaSchedule {
    /// Not at all. The default.
    #[default]
    Constant,
    /// `delta^sigma`, as sd-scripts' `exponential`: 1 where there is no noise, `delta` where there is nothing else.
    Exponential,
}

/// All that makes a loss of the network's output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Objective {
    /// What is compared.
    pub target: Target,
    /// How much a sample counts.
    pub weighting: Weighting,
    /// How a difference counts.
    pub loss: Loss,
}

#[cfg(feature = "compute")]
impl Objective {
    /// What a sample's velocity difference is multiplied by before it goes through the loss' curve, and what comes out of the curve is
    /// multiplied by. Both Huber losses are one curve with its bend at 1.
    fn scales(&self, sigma: f32) -> (f64, f64) {
        let sigma = f64::from(sigma);
        let (before, after) = match self.loss {
            Loss::L2 | Loss::L1 => (1.0, 1.0),
            Loss::Huber { delta, schedule } => {
                let delta = match schedule {
                    DeltaSchedule::Constant => delta,
                    DeltaSchedule::Exponential => libm::pow(delta, sigma),
                };
                (1.0 / delta, delta * delta)
            }
            Loss::SmoothL1 { beta } => (1.0 / beta, beta),
        };
        let of_target = match self.target {
            Target::Velocity => 1.0,
            Target::X0 => sigma,
        };
        (of_target * before, self.weighting.factor(sigma) * after)
    }
}

#[cfg(feature = "compute")]
mod compute {
    use super::{Loss, Objective};
    use burn::tensor::{DType, Tensor, TensorData};

    impl Objective {
        /// The loss of each value, `[batch, 16, height, width]`, weighted for its sample: its mean is the loss. `difference` is that of
        /// the velocities, of the same shape and in 32 bits, and `sigmas` has the level of each sample.
        pub fn losses(&self, difference: Tensor<4>, sigmas: &[f32]) -> Tensor<4> {
            let (before, after): (Vec<f64>, Vec<f64>) = sigmas.iter().map(|sigma| self.scales(*sigma)).unzip();
            let scaled = scale(difference, before);
            let curve = match self.loss {
                Loss::L2 => scaled.clone() * scaled,
                Loss::L1 => scaled.abs(),
                Loss::Huber { .. } | Loss::SmoothL1 { .. } => {
                    let bent = scaled.clone().clamp(-1.0, 1.0);
                    bent.clone() * (scaled - bent.mul_scalar(0.5))
                }
            };
            scale(curve, after)
        }
    }

    /// Multiplies each sample by its factor. Factors of 1, the usual ones, cost nothing.
    fn scale(values: Tensor<4>, factors: Vec<f64>) -> Tensor<4> {
        if factors.iter().all(|factor| *factor == 1.0) {
            return values;
        }
        let shape = [factors.len(), 1, 1, 1];
        let factors: Vec<f32> = factors.into_iter().map(|factor| factor as f32).collect();
        let factors = Tensor::<4>::from_data(TensorData::new(factors, shape), (&values.device(), DType::F32));
        values * factors
    }
}
