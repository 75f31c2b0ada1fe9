//! What a pipeline may say about training.

use crate::{
    precision::Precision,
    problem::Problem,
    train::{
        density::Density,
        init::Init,
        loss::{DeltaSchedule, Loss, Objective, Target},
        schedule::Schedule,
        weighting::Weighting,
    },
};
use serde::{Deserialize, Serialize};

/// Fine-tunes every weight of the MMDiT on cached texts and latents, by flow matching.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// The `EncodeText` stage; may be left out when there is just one.
    pub text: Option<String>,
    /// The `EncodeImages` stage; may be left out when there is just one.
    pub latents: Option<String>,
    /// The weights to start from: the pipeline's model unless given, or what another run has trained, or a checkpoint.
    pub init: Init,
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
    /// What the network's output is compared as: the velocity, the default, as in the SD3 paper; or the clean latents, as in sd-scripts.
    pub target: Target,
    /// How a difference counts. Its square unless given, which is what SD3 was made with.
    pub loss: Loss,
    /// How much a sample counts, by its level of noise. All alike unless given: the density is weight enough.
    pub weighting: Weighting,
    /// How timesteps are drawn, before the shift. Logit-normal unless given, as SD3 was made with.
    pub density: Density,
    /// Moves timesteps towards noise: `sigma = shift·u / (1 + (shift − 1)·u)`. 3 is what SD3 was made with and is sampled with.
    pub shift: f64,
    /// The lowest timestep, in thousandths: all are drawn as they would be from 0 to 1000, and then put between this and `max_timestep`. 0
    /// trains on every level; a higher one leaves the texture as it is.
    pub min_timestep: u32,
    /// The highest timestep, in thousandths. 1000 trains on every level; a lower one leaves the composition as it is.
    pub max_timestep: u32,
    /// Spreads the timesteps of an optimizer step evenly over the density, so that losses and gradients vary less from step to step. Off
    /// unless asked for, as other trainers draw each on its own. It needs two samples in a step or more.
    pub stratified: bool,
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
            init: Init::Model,
            epochs: 16,
            batch: 1,
            accumulate: 1,
            precision: Precision::Bf16,
            seed: 42,
            learning_rate: 1e-4,
            schedule: Schedule::default(),
            optimizer: Optimizer::default(),
            max_gradient_norm: 1.0,
            target: Target::Velocity,
            loss: Loss::L2,
            weighting: Weighting::None,
            density: Density::default(),
            shift: 3.0,
            min_timestep: 0,
            max_timestep: 1000,
            stratified: false,
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

/// Each epoch has a key and a record of its own, which are found out about before anything runs.
const MOST_EPOCHS: u32 = 10_000;

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
        if self.epochs > MOST_EPOCHS {
            let message = format!("{} epochs are more than {MOST_EPOCHS}, and each has a key of its own", self.epochs);
            problems.push(Problem::new("epochs", message).hint("raise `repeats` for longer epochs"));
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
        match self.density {
            Density::LogitNormal { mean, standard_deviation } => {
                within("density.mean", mean, -10.0, 10.0);
                within("density.standard_deviation", standard_deviation, 0.001, 10.0);
            }
            // Beyond 2/(π − 2) the law folds back.
            Density::Mode { scale } => within("density.scale", scale, -1.0, 1.75),
            Density::CosMap | Density::Uniform => {}
        }
        match self.loss {
            Loss::Huber { delta, .. } => within("loss.delta", delta, 1e-6, 1e6),
            Loss::SmoothL1 { beta } => within("loss.beta", beta, 1e-6, 1e6),
            Loss::L2 | Loss::L1 => {}
        }
        if self.max_timestep > 1000 || self.min_timestep >= self.max_timestep {
            let message = "timesteps lie from 0 to 1000, the lowest below the highest";
            problems.push(Problem::new("max_timestep", message).hint("min_timestep: 0, max_timestep: 1000"));
        }
        problems.extend(self.schedule.problems());
        problems.extend(self.without_effect());
        if self.precision == Precision::F16 {
            problems.push(
                Problem::new("precision", "gradients of SD3 underflow in F16, and there is no loss scaling")
                    .hint("use Bf16 or F32"),
            );
        }
        problems
    }

    /// Options that do nothing beside each other, or the same thing twice.
    fn without_effect(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |refused: bool, field: &str, message: &str, hint: &str| {
            if refused {
                problems.push(Problem::new(field, message).hint(hint));
            }
        };
        refuse(
            self.stratified && u64::from(self.batch) * u64::from(self.accumulate) == 1,
            "stratified",
            "has no effect with one sample in a step",
            "raise `batch` or `accumulate`, or leave it out",
        );
        refuse(
            (self.target, self.weighting, self.loss) == (Target::X0, Weighting::SigmaSqrt, Loss::L2),
            "weighting",
            "`SigmaSqrt` takes back just what `target: X0` does",
            "target: Velocity without a weighting is the same",
        );
        refuse(
            (self.density, self.weighting) == (Density::CosMap, Weighting::CosMap),
            "weighting",
            "`CosMap` counts what `density: CosMap` has counted already",
            "either of them alone",
        );
        refuse(
            self.loss == Loss::Huber { delta: 1.0, schedule: DeltaSchedule::Exponential },
            "loss.schedule",
            "has no effect on a `delta` of 1, which it comes from",
            "Huber(delta: 0.1, schedule: Exponential)",
        );
        problems
    }

    /// What the loss is made of.
    pub fn objective(&self) -> Objective {
        Objective { target: self.target, weighting: self.weighting, loss: self.loss }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let train: Train = ron::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        train.problems().into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn options_without_effect_are_refused_and_their_neighbours_are_not() {
        for (text, field) in [
            ("(stratified: true)", "stratified"),
            ("(target: X0, weighting: SigmaSqrt)", "weighting"),
            ("(density: CosMap, weighting: CosMap)", "weighting"),
            ("(loss: Huber(schedule: Exponential))", "loss.schedule"),
            ("(max_timestep: 1001)", "max_timestep"),
            ("(min_timestep: 500, max_timestep: 500)", "max_timestep"),
            ("(density: Mode(scale: 1.8))", "density.scale"),
            ("(loss: Huber(delta: 0))", "loss.delta"),
            ("(loss: SmoothL1(beta: 0))", "loss.beta"),
            ("(schedule: Linear(minimum_ratio: 2))", "schedule.minimum_ratio"),
        ] {
            assert_eq!(problems(text), [field], "{text}");
        }
        for text in [
            "()",
            "(stratified: true, batch: 2)",
            "(stratified: true, accumulate: 4)",
            "(target: X0, weighting: SigmaSqrt, loss: L1)",
            "(target: X0, weighting: CosMap)",
            "(density: Uniform, weighting: CosMap)",
            "(density: CosMap, weighting: None)",
            "(loss: Huber(delta: 0.1, schedule: Exponential))",
            "(min_timestep: 999)",
            "(density: Mode())",
        ] {
            assert!(problems(text).is_empty(), "{text}: {:?}", problems(text));
        }
    }
}
