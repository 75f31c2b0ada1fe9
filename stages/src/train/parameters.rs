//! What a pipeline may say about training.

use crate::{adapter::parameters::Method, precision::Precision, problem::Problem, train::schedule::Schedule};
use serde::{Deserialize, Serialize};

/// Fine-tunes the MMDiT on cached texts and latents, by flow matching.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// The `EncodeText` stage; may be left out when there is just one.
    pub text: Option<String>,
    /// The `EncodeImages` stage; may be left out when there is just one.
    pub latents: Option<String>,
    /// What is trained: every weight, or a low-rank adapter beside them. Every weight when left out.
    pub method: Method,
    /// Times that the whole data is seen. 16 gives a row of checkpoints from under-fitted to over-fitted to choose from.
    pub epochs: u32,
    /// Images in a forward pass, all of one bucket. 1 fits a 24 GB card at 1024 pixels.
    pub batch: u32,
    /// Batches whose gradients are added up before a step: a larger batch in the memory of a small one.
    pub accumulate: u32,
    /// The type that the network computes in. The weights that are trained are always kept in 32 bits, so that no small update is lost.
    pub precision: Precision,
    /// Everything random follows from it: the order of the data, noise, timesteps, dropout.
    pub seed: u64,
    /// The learning rate at the top of the schedule.
    pub learning_rate: f64,
    /// How the learning rate moves.
    pub schedule: Schedule,
    /// What turns gradients into updates.
    pub optimizer: Optimizer,
    /// Gradients are scaled down to this L2 norm over all weights together; 0 leaves them as they are.
    pub max_gradient_norm: f64,
    /// How timesteps are drawn, before the shift.
    pub density: Density,
    /// Moves timesteps towards noise: `sigma = shift·u / (1 + (shift − 1)·u)`. 3 is what SD3 was made with and is sampled with.
    pub shift: f64,
    /// Draws a fresh latent from the VAE's posterior at each step; `false` trains on its mean.
    pub sample_posterior: bool,
    /// The share of steps that see the empty prompt's encoding in the caption's place, so that guidance keeps working.
    pub caption_dropout: f64,
    /// The share of steps in which one encoder's output is zeros, each encoder on its own.
    pub encoder_dropout: EncoderDropout,
    /// Steps between two saves of the state from which a killed run goes on. Changes no result, so it is in no key.
    pub save_every: u32,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            text: None,
            latents: None,
            method: Method::Full,
            epochs: 16,
            batch: 1,
            accumulate: 1,
            precision: Precision::Bf16,
            seed: 42,
            learning_rate: 1e-4,
            schedule: Schedule::default(),
            optimizer: Optimizer::default(),
            max_gradient_norm: 1.0,
            density: Density::default(),
            shift: 3.0,
            sample_posterior: true,
            caption_dropout: 0.0,
            encoder_dropout: EncoderDropout::default(),
            save_every: 250,
        }
    }
}

/// An optimizer and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as `torch.optim.AdamW`: decay first, then the update.
    AdamW {
        /// Decay of the mean of gradients.
        #[serde(default = "default_beta1")]
        beta1: f64,
        /// Decay of the mean of squared gradients.
        #[serde(default = "default_beta2")]
        beta2: f64,
        /// Added to the root of the second moment.
        #[serde(default = "default_epsilon")]
        epsilon: f64,
        /// Share of a weight that is taken off at each step, times the learning rate.
        #[serde(default = "default_weight_decay")]
        weight_decay: f64,
    },
}

fn default_beta1() -> f64 {
    0.9
}
fn default_beta2() -> f64 {
    0.999
}
fn default_epsilon() -> f64 {
    1e-8
}
fn default_weight_decay() -> f64 {
    0.01
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::AdamW {
            beta1: default_beta1(),
            beta2: default_beta2(),
            epsilon: default_epsilon(),
            weight_decay: default_weight_decay(),
        }
    }
}

/// A law of `u` in (0, 1), from which sigma follows by the shift.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Density {
    /// The logistic function of a normal draw (SD3 paper, equation 19). A positive mean trains more on noisy steps.
    LogitNormal {
        /// Mean of the normal draw.
        #[serde(default)]
        mean: f64,
        /// Standard deviation of the normal draw.
        #[serde(default = "default_standard_deviation")]
        standard_deviation: f64,
    },
    /// Every `u` alike.
    Uniform,
}

fn default_standard_deviation() -> f64 {
    1.0
}

impl Default for Density {
    fn default() -> Self {
        Self::LogitNormal { mean: 0.0, standard_deviation: default_standard_deviation() }
    }
}

/// For each text encoder the share of steps in which its output is zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderDropout {
    /// CLIP-L: its channels, and its part of the pooled vector.
    pub clip_l: f64,
    /// CLIP-G: its channels, and its part of the pooled vector.
    pub clip_g: f64,
    /// T5: its rows.
    pub t5: f64,
}

impl Train {
    /// Values out of range.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, value) in [
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("save_every", self.save_every),
        ] {
            if value == 0 {
                problems.push(Problem::new(name, "0 trains nothing").hint("1 or more"));
            }
        }
        let mut within = |name: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                problems.push(Problem::new(name, format!("{value} is not from {low} to {high}")));
            }
        };
        within("learning_rate", self.learning_rate, 0.0, 1.0);
        within("max_gradient_norm", self.max_gradient_norm, 0.0, f64::MAX);
        within("shift", self.shift, 0.01, 100.0);
        within("caption_dropout", self.caption_dropout, 0.0, 1.0);
        within("encoder_dropout.clip_l", self.encoder_dropout.clip_l, 0.0, 1.0);
        within("encoder_dropout.clip_g", self.encoder_dropout.clip_g, 0.0, 1.0);
        within("encoder_dropout.t5", self.encoder_dropout.t5, 0.0, 1.0);
        let Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } = &self.optimizer;
        within("optimizer.beta1", *beta1, 0.0, 0.999_999);
        within("optimizer.beta2", *beta2, 0.0, 0.999_999_9);
        within("optimizer.epsilon", *epsilon, 0.0, 1.0);
        within("optimizer.weight_decay", *weight_decay, 0.0, 1.0);
        if let Density::LogitNormal { mean, standard_deviation } = self.density {
            within("density.mean", mean, -10.0, 10.0);
            within("density.standard_deviation", standard_deviation, 0.001, 10.0);
        }
        if let Method::LoRA(lora) = &self.method {
            problems.extend(lora.problems());
        }
        if self.precision == Precision::F16 {
            problems.push(
                Problem::new("precision", "gradients of SD3 underflow in F16, and there is no loss scaling")
                    .hint("use Bf16 or F32"),
            );
        }
        problems
    }
}
