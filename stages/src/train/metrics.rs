//! What a training measures, as named numbers at steps: for curves.

use super::validation::{Report, VALIDATION};
use crate::error::StageError;
use sd3pipe_cache::{Digest, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The role of what an epoch's steps have measured.
pub const LOSSES: &str = "losses";

/// What was measured at one optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The step, from 0 over all epochs.
    pub step: u64,
    /// The mean loss of its samples.
    pub loss: f64,
    /// The L2 norm of the gradients before they were clipped.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
}

/// One point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scalar {
    /// The step, from 0 over all epochs; of a validation the last one of its epoch.
    pub step: u64,
    /// The curve: `loss/train`.
    pub tag: String,
    /// The number.
    pub value: f64,
}

impl Measured {
    /// Its points.
    pub fn scalars(&self) -> [Scalar; 3] {
        let Self { step, loss, gradient_norm, learning_rate } = *self;
        let curves =
            [("loss/train", loss), ("train/gradient_norm", gradient_norm), ("train/learning_rate", learning_rate)];
        curves.map(|(tag, value)| Scalar { step, tag: tag.to_owned(), value })
    }
}

impl Report {
    /// The points of a validation after this step.
    pub fn scalars(&self, step: u64) -> Vec<Scalar> {
        let mut scalars = Vec::new();
        for (suffix, losses) in [("", Some(&self.trained)), ("_of_average", self.average.as_ref())] {
            let Some(losses) = losses else { continue };
            let mut add = |tag: String, value| scalars.push(Scalar { step, tag, value });
            add(format!("loss/held_out{suffix}"), losses.held_out.mean);
            add(format!("loss/seen{suffix}"), losses.seen.mean);
            for (timestep, loss) in self.timesteps.iter().zip(&losses.held_out.losses) {
                add(format!("held_out{suffix}_at/{timestep}"), *loss);
            }
        }
        scalars
    }
}

/// The points of a training as the store has them, by step: of what its epochs and validations have put out, given by role, item and
/// digest in any order.
///
/// # Errors
/// When the store has lost one of them, or it can't be read.
pub fn of_store<'o>(
    outputs: impl Iterator<Item = (&'o str, &'o str, &'o Digest)>,
    store: &Store,
) -> Result<Vec<Scalar>, StageError> {
    let unreadable = |what: &str, reason| StageError::Unreadable { what: what.to_owned(), reason };
    let (mut epochs, mut reports) = (BTreeMap::new(), Vec::new());
    for (role, item, digest) in outputs {
        if role == LOSSES {
            let measured: Vec<Measured> = serde_json::from_slice(&store.read(digest)?)
                .map_err(|error| unreadable("list of losses", error.to_string()))?;
            epochs.insert(item.parse::<u32>().unwrap_or_default(), measured);
        } else if role == VALIDATION {
            reports.push(Report::from_bytes(&store.read(digest)?).map_err(|reason| unreadable("validation", reason))?);
        }
    }
    let mut scalars: Vec<Scalar> = Vec::new();
    for (epoch, measured) in epochs {
        scalars.extend(measured.iter().flat_map(Measured::scalars));
        let last = measured.last().map_or(0, |measured| measured.step);
        scalars.extend(reports.iter().filter(|report| report.epoch == epoch).flat_map(|report| report.scalars(last)));
    }
    Ok(scalars)
}
