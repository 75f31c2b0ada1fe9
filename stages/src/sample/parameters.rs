//! What a pipeline may say about drawing samples.

use crate::{export::parameters::Epochs, precision::Precision, problem::Problem};
use serde::{Deserialize, Serialize};

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
    /// Euler steps.
    pub steps: u32,
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
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            export: None,
            prompts: Vec::new(),
            negative: String::new(),
            cfg: 4.5,
            steps: 28,
            seeds: vec![1],
            size: (1024, 1024),
            epochs: Epochs::All,
            base: true,
            shift: 3.0,
            t5_tokens: 256,
            precision: Precision::Bf16,
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
        problems.extend(self.epochs.problems("epochs", None));
        if self.epochs == Epochs::Best {
            let problem = Problem::new("epochs", "an export does not know which of its epochs is the best");
            problems.push(problem.hint("draw with all of one that has the best alone: Export(epochs: Best)"));
        }
        problems
    }
}

fn repeated<T: PartialEq + std::fmt::Debug>(list: &[T]) -> Option<String> {
    list.iter().enumerate().find(|(index, value)| list[..*index].contains(value)).map(|(_, value)| format!("{value:?}"))
}
