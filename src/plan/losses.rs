//! What a training measured, epoch by epoch.

use super::{PlanError, StageResult};
use sd3pipe_cache::{Digest, Store};
use sd3pipe_stages::{
    error::StageError,
    train::validation::{Report, VALIDATION},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The losses of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EpochLosses {
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// The mean of its steps.
    pub trained: Option<f64>,
    /// On images that are not trained on, if it was validated: of the averaged weights where there are such.
    pub held_out: Option<f64>,
}

impl EpochLosses {
    /// The epochs of a training that has this result, in order.
    ///
    /// # Errors
    /// When the store has lost what was measured.
    pub fn of(result: Digest, store: &Store) -> Result<Vec<Self>, PlanError> {
        let unreadable = |reason: String| StageError::Unreadable { what: "losses".to_owned(), reason };
        let mut epochs: BTreeMap<u32, Self> = BTreeMap::new();
        for entry in StageResult::stored(result).artifact(Some(store))?.entries {
            let Ok(epoch) = entry.item.parse::<u32>() else { continue };
            let losses = epochs.entry(epoch).or_insert(Self { epoch, ..Self::default() });
            match entry.role.as_str() {
                "losses" => {
                    let steps: Vec<Step> = serde_json::from_slice(&store.read(&entry.digest)?)
                        .map_err(|error| unreadable(error.to_string()))?;
                    let sum: f64 = steps.iter().map(|step| step.loss).sum();
                    losses.trained = (!steps.is_empty()).then(|| sum / steps.len() as f64);
                }
                VALIDATION => {
                    let report = Report::from_bytes(&store.read(&entry.digest)?).map_err(unreadable)?;
                    losses.held_out = Some(report.leading().held_out.mean);
                }
                _ => {}
            }
        }
        Ok(epochs.into_values().collect())
    }

    /// The one with the lowest held-out loss, the earlier of equals.
    pub fn best(epochs: &[Self]) -> Option<(u32, f64)> {
        let held_out = epochs.iter().filter_map(|losses| Some((losses.epoch, losses.held_out?)));
        held_out.reduce(|best, next| if next.1 < best.1 { next } else { best })
    }
}

/// What is read here of what was measured at a step.
#[derive(Deserialize)]
struct Step {
    loss: f64,
}
