//! What a pipeline may say about training.

pub use crate::train::{
    optimizer::Optimizer,
    selection::{Decay, Group},
};
use crate::{
    adapter::parameters::Method,
    precision::Precision,
    problem::Problem,
    train::{
        average::Average,
        density::Density,
        init::Init,
        loss::{Loss, Objective, Target},
        schedule::Schedule,
        validation::{Stop, Validation},
        weighting::Weighting,
    },
};
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
    /// The weights to start from: the pipeline's model unless given, or what another run has trained, or a checkpoint.
    pub init: Init,
    /// Times that the whole data is seen. 16 gives a row of checkpoints from under-fitted to over-fitted to choose from.
    pub epochs: u32,
    /// Images in a forward pass, all of one bucket. 1 fits a 24 GB card at 1024 pixels.
    pub batch: u32,
    /// Batches whose gradients are added up before a step: a larger batch in the memory of a small one.
    pub accumulate: u32,
    /// The type that the network computes in.
    pub precision: Precision,
    /// The type that the weights are kept in between steps. Default `F32`, in which no small update is lost.
    pub weights: WeightType,
    /// Everything random follows from it: the order of the data, noise, timesteps, dropout.
    pub seed: u64,
    /// The learning rate at the top of the schedule.
    pub learning_rate: f64,
    /// How the learning rate moves.
    pub schedule: Schedule,
    /// What turns gradients into updates.
    pub optimizer: Optimizer,
    /// Tensors with learning rates and weight decays of their own; a tensor goes by the first group that it is in. Default none.
    pub groups: Vec<Group>,
    /// Tensors that are not trained, by patterns as in `groups`: `["joint_blocks.0-11.*"]`. They take no gradients and no states,
    /// and nothing is computed backwards below the first tensor that is trained. Default none.
    pub freeze: Vec<String>,
    /// Which tensors the weight decay is for. Default `All`.
    pub decay: Decay,
    /// Gradients are scaled down to this L2 norm over all weights together; 0 leaves them as they are.
    pub max_gradient_norm: f64,
    /// The velocity, as in the SD3 paper, or the clean latents, as in sd-scripts.
    pub target: Target,
    /// The square of a difference unless given, which is what SD3 was made with.
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
    /// Images that are held out of the training and measured after its epochs. None by default: all are trained.
    pub validation: Option<Validation>,
    /// Ends the training when validation finds it no better, `(patience: 3)` say; `Export(epochs: Best)` takes the best epoch. With a
    /// schedule that falls, an end before its time has a higher learning rate than it was made for.
    /// None by default: every epoch is trained.
    pub stop: Option<Stop>,
    /// Keeps a running mean of the weights too, `(decay: 0.9999)` say. It takes 4 bytes a weight. None by default: the
    /// weights are what they are after the last step.
    pub average: Option<Average>,
    /// What regularisation images count in the loss, where others count 1, beside the weight of their folder. From 0 to 1000; default 1,
    /// as in DreamBooth. Lower it if the new style comes slowly.
    pub prior_loss_weight: f64,
    /// Steps of an epoch between two saves of the state from which a killed run goes on; at the end of an epoch it is saved too, if
    /// that was 10 seconds ago. Changes no result, so it is in no key.
    pub save_every: u32,
    /// What the backward pass remembers of the forward pass. Default `None`, which remembers everything.
    pub checkpointing: Checkpointing,
    /// Moves each block's weights as soon as its gradients are known, and frees these: for the memory of all gradients but one
    /// block's. Needs `checkpointing: Blocks` and `accumulate: 1`. With `max_gradient_norm` the backward pass is made twice, the
    /// first time for the norm; 0 saves that. Default `false`. Changes no result, so it is in no key.
    pub fused_step: bool,
    /// The last so many blocks' weights and optimizer states lie in the host's memory, and come to the device one block at a
    /// time. Needs `checkpointing: Blocks`; `fused_step` keeps their gradients off the device too. Default 0. Changes no result,
    /// so it is in no key; on a CPU it does nothing.
    pub block_swap: u32,
}

/// The type that weights are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightType {
    /// 32 bits; the network is given copies in `precision`.
    #[default]
    F32,
    /// bf16, rounded at each step up or down by chance so that the mean is right: half the memory. Rounding to the nearest loses
    /// updates below a 256th of a weight altogether.
    Bf16Stochastic,
}

/// What is remembered for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Checkpointing {
    /// Everything: the fastest.
    #[default]
    None,
    /// What goes into each block; each runs a second time in the backward pass. A third more work for a small share of the memory.
    /// Gradients differ in their last bits.
    Blocks,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            text: None,
            latents: None,
            method: Method::Full,
            init: Init::Model,
            epochs: 16,
            batch: 1,
            accumulate: 1,
            precision: Precision::Bf16,
            weights: WeightType::F32,
            seed: 42,
            learning_rate: 1e-4,
            schedule: Schedule::default(),
            optimizer: Optimizer::default(),
            groups: Vec::new(),
            freeze: Vec::new(),
            decay: Decay::All,
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
            validation: None,
            stop: None,
            average: None,
            prior_loss_weight: 1.0,
            save_every: 250,
            checkpointing: Checkpointing::None,
            fused_step: false,
            block_swap: 0,
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
        within("prior_loss_weight", self.prior_loss_weight, 0.0, 1000.0);
        within("caption_dropout", self.caption_dropout, 0.0, 1.0);
        within("encoder_dropout.clip_l", self.encoder_dropout.clip_l, 0.0, 1.0);
        within("encoder_dropout.clip_g", self.encoder_dropout.clip_g, 0.0, 1.0);
        within("encoder_dropout.t5", self.encoder_dropout.t5, 0.0, 1.0);
        for (name, value, low, high) in self.optimizer.settings() {
            within(&format!("optimizer.{name}"), value, low, high);
        }
        for group in &self.groups {
            within("groups", group.learning_rate, 0.0, 1000.0);
            within("groups", group.weight_decay.unwrap_or_default(), 0.0, 10.0);
        }
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
        problems.extend(self.validation.iter().flat_map(Validation::problems));
        problems.extend(self.average.iter().flat_map(Average::problems));
        if let Some(stop) = &self.stop {
            if stop.patience == 0 {
                problems.push(Problem::new("stop.patience", "0 would end every training at once").hint("3, say"));
            }
            if !(0.0..=1e6).contains(&stop.minimum) {
                problems.push(Problem::new("stop.minimum", format!("{} is not from 0 to 1e6", stop.minimum)));
            }
        }
        if let Method::LoRA(lora) = &self.method {
            problems.extend(lora.problems());
        }
        problems.extend(self.contradictions());
        if self.precision == Precision::F16 {
            problems.push(
                Problem::new("precision", "gradients of SD3 underflow in F16, and there is no loss scaling")
                    .hint("use Bf16 or F32"),
            );
        }
        problems
    }

    /// What the loss is made of.
    pub fn objective(&self) -> Objective {
        Objective { target: self.target, weighting: self.weighting, loss: self.loss }
    }
}
