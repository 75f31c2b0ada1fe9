//! The learning rates of a training, at the steps that show its schedule.

use crate::train::TrainJob;
use std::collections::BTreeMap;

/// The learning rate of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The step, from 0 over all epochs.
    pub step: u64,
    /// The learning rate.
    pub rate: f64,
    /// What is to be seen there: `end of warm-up`, `restart`; nothing at the beginning of an epoch as such.
    pub what: String,
}

/// Beginnings of more epochs than this are not shown.
const MOST_EPOCHS: u32 = 40;

/// Quarters of no more steps than this are not worth a line.
const FEW_STEPS: u64 = 8;

impl TrainJob {
    /// The first step, the end of the warm-up, the quarters, each restart, the last step, and each epoch's first. They are found in
    /// the rates themselves, whatever schedule they come from.
    pub fn rates(&self) -> Vec<Rate> {
        let (total, per_epoch) = (self.total_steps(), self.steps_per_epoch().max(1));
        let mut shown: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        let mut show = |step: u64, what| shown.entry(step).or_default().extend(what);
        if total == 0 {
            return Vec::new();
        }
        if self.parameters.epochs <= MOST_EPOCHS {
            (0..total).step_by(per_epoch as usize).for_each(|step| show(step, None));
        }
        show(0, Some("first"));
        for (quarter, what) in [(1, "a quarter"), (2, "half"), (3, "three quarters")] {
            if total > FEW_STEPS {
                show(total * quarter / 4, Some(what));
            }
        }
        let (mut before, mut rising, mut warming) = (self.learning_rate(0), false, true);
        for step in 1..total {
            let rate = self.learning_rate(step);
            match (rate > before, rising) {
                // A rise that begins later than at the first step is a new start.
                (true, false) if step > 1 => show(step, Some("restart")),
                (false, true) if warming => show(step - 1, Some("end of warm-up")),
                _ => {}
            }
            warming &= rate > before;
            rising = rate > before;
            before = rate;
        }
        show(total - 1, Some("last"));
        let rate = |(step, what): (u64, Vec<&str>)| Rate {
            epoch: step / per_epoch + 1,
            step,
            rate: self.learning_rate(step),
            what: what.join(", "),
        };
        shown.into_iter().map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::train::{job::tests::job_of, parameters::Train};

    fn lines(epochs: u32, schedule: &str) -> Vec<String> {
        let schedule = ron::from_str(schedule).unwrap();
        let job = job_of(&Train { epochs, schedule, learning_rate: 1.0, ..Train::default() }, [5, 5]);
        job.rates().iter().map(|rate| format!("{} {} {:.2} {}", rate.epoch, rate.step, rate.rate, rate.what)).collect()
    }

    #[test]
    fn the_steps_that_show_a_schedule_are_found_in_its_rates() {
        // Ten steps an epoch, at a rate of 1.
        assert_eq!(
            lines(2, "Constant(warmup: 4)"),
            [
                "1 0 0.00 first",
                "1 4 1.00 end of warm-up",
                "1 5 1.00 a quarter",
                "2 10 1.00 half",
                "2 15 1.00 three quarters",
                "2 19 1.00 last"
            ]
        );
        assert_eq!(
            lines(3, "Cosine()"),
            [
                "1 0 1.00 first",
                "1 7 0.87 a quarter",
                "2 10 0.75 ",
                "2 15 0.50 half",
                "3 20 0.25 ",
                "3 22 0.17 three quarters",
                "3 29 0.00 last"
            ]
        );
    }

    #[test]
    fn a_restart_is_shown() {
        let lines = lines(1, "CosineWithRestarts(cycles: 2)");
        assert!(lines.contains(&"1 5 1.00 half, restart".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_long_training_shows_no_line_for_each_epoch() {
        assert_eq!(lines(1000, "Cosine(warmup: 100)").len(), 6);
    }
}
