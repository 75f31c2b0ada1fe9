//! What a pipeline may say about drawing samples.

use crate::{export::parameters::Epochs, precision::Precision, problem::Problem};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Draws every prompt with every exported checkpoint, and lays the images out on one sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// The `Export` stage; may be left out when there is just one.
    pub export: Option<String>,
    /// What to draw.
    pub prompts: Vec<String>,
    /// What to steer away from; encoded like any prompt, also when empty.
    pub negative: String,
    /// Strength of classifier-free guidance. 1 is none and needs half the time; fine-tuned SD3 does best at 4 to 5.
    pub cfg: f64,
    /// Steps of the sampler.
    pub steps: u32,
    /// How a step is taken. `Euler` unless given.
    pub sampler: Sampler,
    /// Guides away from what the network draws without some of its blocks too: SD3.5-medium gets limbs and structures right more often.
    /// A third pass in the steps where it acts. None by default.
    pub skip_layers: Option<SkipLayers>,
    /// One image a prompt for each.
    pub seeds: Vec<u64>,
    /// Width and height in pixels, multiples of 16.
    pub size: (u32, u32),
    /// Which of the exported checkpoints to draw with.
    pub epochs: Epochs,
    /// Draws with the untrained model too, as the row to compare with.
    pub base: bool,
    /// The shift of the sigmas. 3 for every SD3.
    pub shift: f64,
    /// Rows of T5's output, as in `EncodeText`; best the same as in training.
    pub t5_tokens: u32,
    /// The type that the networks compute in.
    pub precision: Precision,
    /// A picture to start from. When left out drawing starts from noise alone.
    pub image: Option<StartImage>,
    /// An adapter of any origin, added to each checkpoint and to the untrained model. When left out none is.
    pub lora: Option<AddedLora>,
    /// The strength of the adapter that was trained: 1 is what was trained, 0 the model as it was. Default 1.
    pub lora_strength: f64,
    /// Images that a GPU draws at once. On a CPU each goes alone. Default 1. In no key.
    pub batch: u32,
}

/// How a sampler steps from one noise level to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sampler {
    /// Straight along the velocity.
    #[default]
    Euler,
    /// DPM-Solver++ of second order (arXiv:2211.01095), which extrapolates what it makes of the image from one step to the next: often
    /// as good with fewer steps.
    Dpm2m,
}

impl std::fmt::Display for Sampler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if *self == Self::Euler { "Euler" } else { "DPM++ 2M" })
    }
}

/// Skip-layer guidance: what the network makes of the prompt, less what it makes of it without some of its blocks, is added `scale` times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SkipLayers {
    /// The joint blocks that are left out, counted from 0. Those of Stability's for SD3.5-medium unless given.
    pub layers: Vec<u32>,
    /// How much of the difference is added. Default 2.8.
    pub scale: f64,
    /// The share of the steps after which it begins; as it is, after the first step. Default 0.01.
    pub start: f64,
    /// The share of the steps before which it ends. Default 0.2.
    pub stop: f64,
}

impl Default for SkipLayers {
    fn default() -> Self {
        Self { layers: vec![7, 8, 9], scale: 2.8, start: 0.01, stop: 0.2 }
    }
}

impl SkipLayers {
    /// Whether it acts in a step, from 0, of so many.
    pub fn acts(&self, step: usize, steps: usize) -> bool {
        let (step, steps) = (step as f64, steps as f64);
        step > steps * self.start && step < steps * self.stop
    }
}

/// A picture to start from: it is scaled and cropped to cover `size`, encoded, and made noisy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartImage {
    /// The picture, from the pipeline's folder. What it shows is in the key, not where it lies.
    pub path: PathBuf,
    /// The share of the steps that are taken: near 0 it stays what it was, at 1 nothing of it is left. Default 0.6.
    #[serde(default = "usual_strength")]
    pub strength: f64,
}

fn usual_strength() -> f64 {
    0.6
}

impl StartImage {
    /// How many of `steps` are left out (`get_timesteps` of diffusers' `StableDiffusion3Img2ImgPipeline`).
    pub fn skipped(&self, steps: u32) -> usize {
        let steps = f64::from(steps);
        (steps - (steps * self.strength).min(steps)) as usize
    }
}

/// An adapter from a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddedLora {
    /// The file, in sd-scripts' or diffusers' form, from the pipeline's folder. What is in it is in the key, not where it lies.
    pub path: PathBuf,
    /// How often it is added. Default 1.
    #[serde(default = "one")]
    pub strength: f64,
}

fn one() -> f64 {
    1.0
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            export: None,
            prompts: Vec::new(),
            negative: String::new(),
            cfg: 4.5,
            steps: 28,
            sampler: Sampler::Euler,
            skip_layers: None,
            seeds: vec![1],
            size: (1024, 1024),
            epochs: Epochs::All,
            base: true,
            shift: 3.0,
            t5_tokens: 256,
            precision: Precision::Bf16,
            image: None,
            lora: None,
            lora_strength: 1.0,
            batch: 1,
        }
    }
}

impl Sample {
    /// Values out of range.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.prompts.is_empty() {
            problems
                .push(Problem::new("prompts", "there is nothing to draw").hint("prompts: [\"a lighthouse at dusk\"]"));
        }
        if self.seeds.is_empty() {
            problems.push(Problem::new("seeds", "there is no seed to draw with").hint("seeds: [1]"));
        }
        for (name, list) in [("seeds", repeated(&self.seeds)), ("prompts", repeated(&self.prompts))] {
            if let Some(twice) = list {
                problems
                    .push(Problem::new(name, format!("{twice} is there twice and would draw the same image twice")));
            }
        }
        if !(1..=1000).contains(&self.steps) {
            problems.push(Problem::new("steps", format!("{} is not from 1 to 1000", self.steps)).hint("28 is usual"));
        }
        if !(1.0..=100.0).contains(&self.cfg) {
            problems.push(Problem::new("cfg", format!("{} is not from 1 to 100", self.cfg)).hint("4.5 is usual"));
        }
        if self.cfg == 1.0 && !self.negative.is_empty() {
            problems.push(Problem::new("negative", "has no effect at cfg 1").hint("leave it out, or raise cfg"));
        }
        let (width, height) = self.size;
        if [width, height].iter().any(|side| *side == 0 || side % 16 != 0) {
            problems.push(
                Problem::new("size", format!("{width} × {height} are not multiples of 16"))
                    .hint("SD3's patches are 16 pixels wide"),
            );
        }
        if !(0.01..=100.0).contains(&self.shift) {
            problems
                .push(Problem::new("shift", format!("{} is not from 0.01 to 100", self.shift)).hint("3 for every SD3"));
        }
        if !(1..=512).contains(&self.t5_tokens) {
            problems.push(
                Problem::new("t5_tokens", format!("{} is not from 1 to 512", self.t5_tokens)).hint("256 is usual"),
            );
        }
        if self.precision == Precision::F16 {
            problems.push(Problem::new("precision", "T5 overflows in F16").hint("use Bf16, or F32 on a CPU"));
        }
        problems.extend(self.added_problems());
        problems.extend(self.epochs.problems("epochs", None));
        if self.epochs == Epochs::Best {
            let problem = Problem::new("epochs", "an export does not know which of its epochs is the best");
            problems.push(problem.hint("draw with all of one that has the best alone: Export(epochs: Best)"));
        }
        problems
    }

    /// What is out of range of all that can be added to plain drawing.
    fn added_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |refused: bool, field: &str, message: String, hint: &str| {
            if refused {
                problems.push(Problem::new(field, message).hint(hint));
            }
        };
        if let Some(StartImage { strength, .. }) = self.image {
            let message = format!("{strength} is not above 0 and at most 1");
            refuse(!(strength > 0.0 && strength <= 1.0), "image.strength", message, "0.6 is usual");
        }
        let usual = "1.0 is the adapter as it is";
        let strengths = [
            ("lora_strength", self.lora_strength),
            ("lora.strength", self.lora.as_ref().map_or(1.0, |lora| lora.strength)),
        ];
        for (field, strength) in strengths {
            let message = format!("{strength} is not from -10 to 10");
            refuse(!(-10.0..=10.0).contains(&strength), field, message, usual);
        }
        if let Some(skip) = &self.skip_layers {
            let field = |field: &str| format!("skip_layers.{field}");
            refuse(
                skip.layers.is_empty(),
                &field("layers"),
                "there is no block to leave out".to_owned(),
                "[7, 8, 9] for SD3.5-medium",
            );
            let message = format!("{} is not above 0 and at most 100", skip.scale);
            refuse(!(skip.scale > 0.0 && skip.scale <= 100.0), &field("scale"), message, "2.8 is usual");
            let message = format!("from {} to {} of the steps there is none", skip.start, skip.stop);
            refuse(
                !(skip.start >= 0.0 && skip.start < skip.stop && skip.stop <= 1.0),
                &field("stop"),
                message,
                "start: 0.01, stop: 0.2 are usual",
            );
            let first = self.image.as_ref().map_or(0, |image| image.skipped(self.steps));
            let acts = (first..self.steps as usize).any(|step| skip.acts(step, self.steps as usize));
            let message = format!(
                "it begins and ends between two of the {} steps that are taken",
                (self.steps as usize).saturating_sub(first)
            );
            refuse(skip.start < skip.stop && !acts, "skip_layers.stop", message, "raise it, or take more steps");
            refuse(self.cfg == 1.0, "skip_layers", "has no effect at cfg 1".to_owned(), "leave it out, or raise cfg");
        }
        refuse(self.batch == 0, "batch", "0 draws nothing".to_owned(), "1 or more");
        problems
    }
}

fn repeated<T: PartialEq + std::fmt::Debug>(list: &[T]) -> Option<String> {
    list.iter().enumerate().find(|(index, value)| list[..*index].contains(value)).map(|(_, value)| format!("{value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_leaves_out_the_first_steps_and_blocks_are_left_out_early() {
        let skipped = |strength, steps| StartImage { path: PathBuf::new(), strength }.skipped(steps);
        assert_eq!([skipped(1.0, 28), skipped(0.7, 10), skipped(0.6, 28), skipped(0.01, 10)], [0, 3, 11, 9]);
        let acts = |steps| (0..steps).filter(|step| SkipLayers::default().acts(*step, steps)).collect::<Vec<_>>();
        assert_eq!(acts(28), [1, 2, 3, 4, 5]);
        assert_eq!(acts(10), [1]);
    }
}
