//! What a pipeline may say about encoding text.

use crate::{precision::Precision, problem::Problem};
use serde::{Deserialize, Serialize};

/// Encodes every distinct text with CLIP-L, CLIP-G and T5, as far as the model has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeText {
    /// The `Captions` stage whose texts are encoded; may be left out when there is just one.
    pub captions: Option<String>,
    /// Rows of T5's output, padding included. 256 is what inference tools use; sd-scripts' recipe of 2024 had 77.
    pub t5_tokens: u32,
    /// The type that the encoders compute in and that is stored. `Bf16` is what T5-XXL was trained in; `F16` overflows in it.
    pub precision: Precision,
    /// Texts that go through an encoder at once on a GPU. Changes no result, so it is in no key.
    pub batch: u32,
}

impl Default for EncodeText {
    fn default() -> Self {
        Self { captions: None, t5_tokens: 256, precision: Precision::Bf16, batch: 8 }
    }
}

impl EncodeText {
    /// Values out of range.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(1..=512).contains(&self.t5_tokens) {
            problems.push(
                Problem::new("t5_tokens", format!("{} is not from 1 to 512", self.t5_tokens)).hint("256 is usual"),
            );
        }
        if self.precision == Precision::F16 {
            problems.push(Problem::new("precision", "T5 overflows in F16").hint("use Bf16, or F32 on a CPU"));
        }
        if self.batch == 0 {
            problems.push(Problem::new("batch", "0 texts at once encode nothing").hint("1 or more"));
        }
        problems
    }
}
