//! What a pipeline may say about validation and early stopping, and what follows from the losses that are found.

use crate::{error::StageError, problem::Problem};
use sd3pipe_cache::{Output, Store};
use serde::{Deserialize, Serialize};

/// The role of what a validation found.
pub const VALIDATION: &str = "validation";

/// Measures the loss on images that are not trained on, and beside it on as many that are: where the first rises while the second
/// falls, training has begun to learn pictures by heart.
///
/// What is measured is the mean square difference of velocities on the mean of the VAE's posterior with an image's first caption and
/// no dropout, whatever the training's own loss; noises are a function of the image alone. So the losses of different trainings on
/// the same images can be compared. No weight depends on it: trained weights have the same bits with and without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Validation {
    /// The share of the images that is held out: not trained on, and measured. Each image is decided on by a hash of its file's bytes alone,
    /// so that none changes sides when others come or go, when it is renamed, or with the seed, and copies stay together; of few images
    /// it may be more or less than the share. A fixed number of images can't be asked for: each new image would move another across.
    /// Default 0.1.
    pub share: f64,
    /// Epochs from one validation to the next; after the last epoch there is always one. Default 1.
    pub every: u32,
    /// The levels of noise that are measured, in thousandths. Losses of different levels differ more than those of good and bad weights, so
    /// they are never drawn. The middles of five equal bands unless given.
    pub timesteps: Vec<u32>,
    /// Noises for each image and timestep. Default 1; more make the mean surer when few images are held out.
    pub noises: u32,
}

impl Default for Validation {
    fn default() -> Self {
        Self { share: 0.1, every: 1, timesteps: vec![100, 300, 500, 700, 900], noises: 1 }
    }
}

/// Ends a training that gets no better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// So many validations in a row must have found no better held-out loss than the best before them: that of the averaged weights where
    /// there are such. Default 3.
    pub patience: u32,
    /// By how much a loss must be lower to be better. Default 0.
    pub minimum: f64,
}

impl Default for Stop {
    fn default() -> Self {
        Self { patience: 3, minimum: 0.0 }
    }
}

impl Validation {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |refused: bool, field: &str, message: String, hint: &str| {
            if refused {
                problems.push(Problem::new(format!("validation.{field}"), message).hint(hint));
            }
        };
        let share = self.share;
        refuse(
            !(share > 0.0 && share < 1.0),
            "share",
            format!("{share} holds nothing out or all"),
            "between 0 and 1: 0.1 is usual",
        );
        refuse(self.every == 0, "every", "0 never validates".to_owned(), "1 or more");
        refuse(self.noises == 0, "noises", "0 measures nothing".to_owned(), "1 or more");
        let ascending = self.timesteps.windows(2).all(|pair| pair[0] < pair[1]);
        let within = self.timesteps.iter().all(|timestep| (1..=1000).contains(timestep));
        refuse(
            self.timesteps.is_empty() || !ascending || !within,
            "timesteps",
            "timesteps are from 1 to 1000, each higher than the one before".to_owned(),
            "timesteps: [100, 300, 500, 700, 900]",
        );
        problems
    }

    /// The epochs of `count`, all counted from 0, after which there is a validation.
    pub fn epochs(&self, count: usize) -> impl Iterator<Item = usize> {
        let every = self.every.max(1) as usize;
        (0..count).filter(move |epoch| (epoch + 1).is_multiple_of(every) || epoch + 1 == count)
    }
}

/// What one validation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// The levels of noise that were measured, in thousandths.
    pub timesteps: Vec<u32>,
    /// Noises for each image and timestep.
    pub noises: u32,
    /// The losses of the trained weights.
    pub trained: Losses,
    /// Those of the averaged weights, where there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<Losses>,
}

/// The losses of some weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// On images that are not trained on.
    pub held_out: Measured,
    /// On images that are.
    pub seen: Measured,
}

/// The loss on some images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// How many images they are.
    pub items: usize,
    /// The mean at each timestep, in their order.
    pub losses: Vec<f64>,
    /// The mean of these.
    pub mean: f64,
}

impl Measured {
    /// The means of the losses of `items` images: a row for each image and noise, a column for each timestep.
    pub fn of(items: usize, rows: &[Vec<f64>]) -> Self {
        let columns = rows.first().map_or(0, Vec::len);
        let mean = |values: &mut dyn Iterator<Item = f64>, count: usize| values.sum::<f64>() / count.max(1) as f64;
        let losses: Vec<f64> =
            (0..columns).map(|column| mean(&mut rows.iter().map(|row| row[column]), rows.len())).collect();
        let mean = mean(&mut losses.iter().copied(), columns);
        Self { items, losses, mean }
    }
}

impl Report {
    /// Reads what an action has put out.
    ///
    /// # Errors
    /// When the store has lost it, or it is something else.
    pub fn read(outputs: &[Output], store: &Store) -> Result<Self, StageError> {
        let unreadable = |reason: String| StageError::Unreadable { what: "a validation".to_owned(), reason };
        let output = outputs.iter().find(|output| output.role == VALIDATION);
        let output = output.ok_or_else(|| unreadable("it has put out nothing".to_owned()))?;
        Self::from_bytes(&store.read(&output.digest)?).map_err(unreadable)
    }

    /// Reads the JSON that it is in the store.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// The losses that a training stops by: of the averaged weights where there are such.
    pub fn leading(&self) -> &Losses {
        self.average.as_ref().unwrap_or(&self.trained)
    }
}

/// Follows the validations of a training, in their order, until it is to stop.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    stop: Option<Stop>,
    best: f64,
    in_vain: u32,
    last: Option<f64>,
}

impl Watch {
    /// Before the first validation.
    pub fn new(stop: Option<Stop>) -> Self {
        Self { stop, best: f64::INFINITY, in_vain: 0, last: None }
    }

    /// Takes note of one, and says whether the training ends with it.
    pub fn ends(&mut self, report: &Report) -> bool {
        let loss = report.leading().held_out.mean;
        self.last = Some(loss);
        let Some(Stop { patience, minimum }) = self.stop else { return false };
        if loss < self.best - minimum {
            (self.best, self.in_vain) = (loss, 0);
        } else {
            self.in_vain += 1;
        }
        self.in_vain >= patience
    }

    /// The held-out loss that was found last.
    pub fn held_out(&self) -> Option<f64> {
        self.last
    }
}

/// The epoch with the lowest held-out loss, the earlier one of equals: of the averaged weights or of the trained ones.
pub fn best(reports: impl IntoIterator<Item = Report>, averaged: bool) -> Option<u32> {
    let mut best: Option<(f64, u32)> = None;
    for report in reports {
        let losses = if averaged { report.average.as_ref() } else { Some(&report.trained) };
        if let Some(losses) = losses
            && best.is_none_or(|(loss, _)| losses.held_out.mean < loss)
        {
            best = Some((losses.held_out.mean, report.epoch));
        }
    }
    best.map(|(_, epoch)| epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(epoch: u32, trained: f64, average: Option<f64>) -> Report {
        let losses = |mean| {
            let measured = |mean| Measured { items: 1, losses: vec![mean], mean };
            Losses { held_out: measured(mean), seen: measured(0.0) }
        };
        Report { epoch, timesteps: vec![500], noises: 1, trained: losses(trained), average: average.map(losses) }
    }

    fn end(stop: Stop, losses: &[f64]) -> Option<usize> {
        let mut watch = Watch::new(Some(stop));
        losses.iter().position(|loss| watch.ends(&report(1, *loss, None)))
    }

    #[test]
    fn a_training_ends_when_its_patience_does() {
        let stop = Stop { patience: 2, minimum: 0.0 };
        assert_eq!(end(stop, &[5.0, 4.0, 4.5, 4.2, 3.0]), Some(3));
        assert_eq!(end(stop, &[5.0, 4.0, 4.5, 3.9, 4.0, 4.0]), Some(5), "each better one gives new patience");
        assert_eq!(end(stop, &[4.0, 4.0, 4.0]), Some(2), "an equal one is no better");
        assert_eq!(end(stop, &[5.0, 4.0, 3.0, 2.0]), None);
        let choosy = Stop { patience: 2, minimum: 0.5 };
        assert_eq!(end(choosy, &[5.0, 4.8, 4.6, 4.0]), Some(2), "better by too little");
        assert_eq!(end(choosy, &[5.0, 4.8, 4.4, 4.3, 3.8]), None, "steps that are small add up");
        let mut watch = Watch::new(None);
        assert!((0..100).all(|_| !watch.ends(&report(1, 1.0, None))));
    }

    #[test]
    fn the_averaged_weights_lead_where_there_are_such() {
        let mut watch = Watch::new(Some(Stop { patience: 1, minimum: 0.0 }));
        assert!(!watch.ends(&report(1, 1.0, Some(3.0))));
        assert!(!watch.ends(&report(2, 2.0, Some(2.0))));
        assert!(watch.ends(&report(3, 0.5, Some(2.5))));
    }

    #[test]
    fn the_best_is_the_lowest_and_of_equals_the_earlier() {
        let reports = [(1, 3.0, 2.0), (2, 2.0, 1.5), (4, 2.0, 1.0), (5, 2.5, 1.0)];
        let reports = reports.map(|(epoch, trained, average)| report(epoch, trained, Some(average)));
        assert_eq!(best(reports.clone(), false), Some(2));
        assert_eq!(best(reports, true), Some(4));
        assert_eq!(best([report(1, 1.0, None)], true), None);
        assert_eq!(best([], false), None);
    }

    #[test]
    fn means_are_taken_over_images_and_then_over_timesteps() {
        let measured = Measured::of(3, &[vec![1.0, 10.0], vec![2.0, 20.0], vec![6.0, 30.0]]);
        assert_eq!(measured, Measured { items: 3, losses: vec![3.0, 20.0], mean: 11.5 });
    }

    #[test]
    fn the_last_epoch_is_always_validated() {
        let epochs = |every, count| Validation { every, ..Validation::default() }.epochs(count).collect::<Vec<_>>();
        assert_eq!(epochs(1, 3), [0, 1, 2]);
        assert_eq!(epochs(2, 5), [1, 3, 4]);
        assert_eq!(epochs(9, 2), [1]);
    }
}
