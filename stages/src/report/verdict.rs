//! What is said of checkpoints: numbers with their meanings, and what follows from them.

use serde::{Deserialize, Serialize};

/// What is said of the checkpoints that a `Sample` stage drew with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// One for each checkpoint, in the order of the sheet's rows, without the model as it was.
    pub checkpoints: Vec<Checkpoint>,
    /// The checkpoint to begin with; none if something speaks against each.
    pub recommended: Option<String>,
    /// Why that one, or why none.
    pub reasons: Vec<String>,
    /// What could not be measured, and how it can be.
    pub notes: Vec<String>,
}

/// What is said of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What it's called: `epoch 3`.
    pub name: String,
    /// How many samples were measured.
    pub samples: usize,
    /// One for each concern, in their order.
    pub verdicts: Vec<Verdict>,
    /// Its samples, each with the training picture nearest to it, nearest pairs first.
    pub pairs: Vec<Pair>,
}

/// What may be wrong with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Concern {
    /// Its pictures fade to white or grey.
    WashedOut,
    /// Its pictures lack fine detail.
    Blurred,
    /// Its pictures are training pictures.
    Copying,
    /// It has not learnt enough yet.
    UnderFitted,
    /// It has learnt pictures by heart, or comes apart.
    OverFitted,
}

impl Concern {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WashedOut => "washed out",
            Self::Blurred => "blurred",
            Self::Copying => "copying",
            Self::UnderFitted => "under-fitted",
            Self::OverFitted => "over-fitted",
        }
    }
}

/// What the numbers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// They are on the good side of the threshold.
    Clear,
    /// They are too near to the threshold for so few samples.
    Unsure,
    /// They are beyond it.
    Flagged,
    /// There are none.
    Unmeasured,
}

/// A verdict on one concern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What it is about.
    pub concern: Concern,
    /// What the numbers say.
    pub finding: Finding,
    /// The numbers, the one that decides first.
    pub numbers: Vec<Number>,
    /// Where the threshold lies, and why there; or what is lacking.
    pub threshold: String,
}

impl Verdict {
    /// One without numbers, with the reason.
    pub fn unmeasured(concern: Concern, reason: &str) -> Self {
        Self { concern, finding: Finding::Unmeasured, numbers: Vec::new(), threshold: reason.to_owned() }
    }
}

/// A number and what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// A short name.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The standard error of a mean over samples; none for what is no such mean, and for that of one or two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// What it is, with what it is compared to.
    pub meaning: String,
}

impl Number {
    /// A number that is not a mean over samples.
    pub fn plain(name: &str, value: f64, meaning: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value, error: None, meaning: meaning.into() }
    }

    /// The mean of some values.
    pub fn mean(name: &str, values: &[f64], meaning: impl Into<String>) -> Self {
        let (value, error) = mean_and_error(values);
        Self { name: name.to_owned(), value, error, meaning: meaning.into() }
    }

    /// Whether a mean lies above a threshold: by two standard errors and more it does, and below it by one it seems not to. Of
    /// one that has none, since there are too few samples, nothing is sure.
    pub fn above(&self, threshold: f64) -> Finding {
        let error = self.error.unwrap_or(f64::INFINITY);
        match self.value {
            value if !value.is_finite() => Finding::Unmeasured,
            value if value - 2.0 * error > threshold => Finding::Flagged,
            value if value + error > threshold => Finding::Unsure,
            _ => Finding::Clear,
        }
    }

    /// Whether it lies below one.
    pub fn below(&self, threshold: f64) -> Finding {
        Self { value: -self.value, ..self.clone() }.above(-threshold)
    }
}

/// The mean of some values and its standard error, which two values tell nothing of.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (values.len() > 2).then(|| (square / (count - 1.0) / count).sqrt()))
}

/// A sample and the training picture nearest to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The sample's file.
    pub sample: String,
    /// The item.
    pub item: String,
    /// Their distance in latent space, as a share of what is usual between neighbours in the training set.
    pub distance: f64,
    /// Bits of 63 in which their perceptual hashes differ, if the item's picture could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_no_surer_than_its_samples() {
        let of = |values: &[f64]| Number::mean("x", values, "");
        assert_eq!(of(&[0.5, 0.52, 0.48]).above(0.4), Finding::Flagged);
        assert_eq!(of(&[0.1, 0.9, 0.5]).above(0.4), Finding::Unsure);
        assert_eq!(of(&[0.1, 0.12, 0.08]).above(0.4), Finding::Clear);
        assert_eq!(of(&[0.1, 0.12, 0.08]).below(0.4), Finding::Flagged);
        assert_eq!(of(&[]).above(0.4), Finding::Unmeasured);
        assert_eq!(of(&[2.0, 4.0, 6.0]).error, Some((4.0_f64 / 3.0).sqrt()));
        assert_eq!((of(&[2.0, 2.0]).error, of(&[2.0, 2.0]).above(0.4)), (None, Finding::Unsure));
    }
}
