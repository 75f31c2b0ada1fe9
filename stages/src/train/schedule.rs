//! The learning rate as a function of the step.

use crate::{problem::Problem, train::span::Span};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The rate at each step, as a factor from 0 to 1 of the pipeline's `learning_rate`. A step is an optimizer step, over all epochs.
/// The factors are those of transformers' functions of the same names (`optimization.py`).
///
/// Every one of them can begin with a `warmup`, linear from 0, none unless given: a number of steps, or `Share(0.05)` of them all. Where
/// there is a `minimum_ratio`, 0 unless given, the rate comes down to that share of `learning_rate` and not to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// The same at each step. More epochs can be added later without training the first ones again.
    Constant {
        /// Linear warm-up from 0.
        #[serde(default)]
        warmup: Span,
    },
    /// Straight down to the end.
    Linear {
        /// Linear warm-up from 0.
        #[serde(default)]
        warmup: Span,
        /// The share of the learning rate that it comes down to.
        #[serde(default)]
        minimum_ratio: f64,
    },
    /// Half a cosine to the end: long near the top, long near the bottom. The default.
    Cosine {
        /// Linear warm-up from 0.
        #[serde(default)]
        warmup: Span,
        /// The share of the learning rate that it comes down to.
        #[serde(default)]
        minimum_ratio: f64,
    },
    /// Several half cosines, each from the top. sd-scripts' `cosine_with_restarts` with one cycle is `Cosine`.
    CosineWithRestarts {
        /// Linear warm-up from 0, before the first of them only.
        #[serde(default)]
        warmup: Span,
        /// How many, of equal length. 1 unless given.
        #[serde(default = "default_cycles")]
        cycles: u32,
        /// The share of the learning rate that each comes down to.
        #[serde(default)]
        minimum_ratio: f64,
    },
    /// `(1 − progress)^power` down to the end.
    Polynomial {
        /// Linear warm-up from 0.
        #[serde(default)]
        warmup: Span,
        /// 1, the default, is straight; 2 falls fast at first.
        #[serde(default = "default_power")]
        power: f64,
        /// The share of the learning rate that it comes down to: transformers' `lr_end` divided by the learning rate.
        #[serde(default)]
        minimum_ratio: f64,
    },
    /// `1/√(1 + steps since the warm-up / timescale)`: it knows no end, so more epochs can be added later, as with `Constant`.
    InverseSqrt {
        /// Linear warm-up from 0.
        #[serde(default)]
        warmup: Span,
        /// Steps after which the rate is down to 1/√2. The warm-up's steps when absent, or 10,000 without one.
        #[serde(default)]
        timescale: Option<u64>,
    },
    /// Up, straight on, and down in the last steps. With a `decay` in steps, a longer training shares all epochs before the decay.
    WarmupStableDecay {
        /// Linear warm-up, from `minimum_ratio`.
        #[serde(default)]
        warmup: Span,
        /// How long it goes down at the end. A tenth unless given.
        #[serde(default = "default_decay")]
        decay: Span,
        /// How it goes down.
        #[serde(default)]
        shape: Descent,
        /// The share of the learning rate that it begins from and comes down to.
        #[serde(default)]
        minimum_ratio: f64,
    },
}

/// The way down of [`Schedule::WarmupStableDecay`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Descent {
    /// Half a cosine. The default.
    #[default]
    Cosine,
    /// Straight.
    Linear,
    /// `1 − √progress`: fast at first (Hägele and others 2024, arXiv:2405.18392).
    OneMinusSqrt,
}

fn default_cycles() -> u32 {
    1
}

fn default_power() -> f64 {
    1.0
}

fn default_decay() -> Span {
    Span::Share(0.1)
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine { warmup: Span::default(), minimum_ratio: 0.0 }
    }
}

/// Where nothing else is said.
const TIMESCALE: u64 = 10_000;

impl Schedule {
    fn warmup(&self) -> Span {
        match *self {
            Self::Constant { warmup }
            | Self::Linear { warmup, .. }
            | Self::Cosine { warmup, .. }
            | Self::CosineWithRestarts { warmup, .. }
            | Self::Polynomial { warmup, .. }
            | Self::InverseSqrt { warmup, .. }
            | Self::WarmupStableDecay { warmup, .. } => warmup,
        }
    }

    fn minimum_ratio(&self) -> f64 {
        match *self {
            Self::Constant { .. } | Self::InverseSqrt { .. } => 0.0,
            Self::Linear { minimum_ratio, .. }
            | Self::Cosine { minimum_ratio, .. }
            | Self::CosineWithRestarts { minimum_ratio, .. }
            | Self::Polynomial { minimum_ratio, .. }
            | Self::WarmupStableDecay { minimum_ratio, .. } => minimum_ratio,
        }
    }

    /// The factor at `step` (from 0) of `total` steps.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup().steps(total);
        let above_minimum = |factor: f64| factor * (1.0 - self.minimum_ratio()) + self.minimum_ratio();
        if step < warmup {
            let rise = step as f64 / warmup as f64;
            return if matches!(self, Self::WarmupStableDecay { .. }) { above_minimum(rise) } else { rise };
        }
        let (done, all) = (step - warmup, total.saturating_sub(warmup).max(1));
        let progress = done as f64 / all as f64;
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Linear { .. } => above_minimum(all.saturating_sub(done) as f64 / all as f64),
            Self::Cosine { .. } => above_minimum(half_cosine(progress)),
            Self::CosineWithRestarts { .. } if done >= all => above_minimum(0.0),
            Self::CosineWithRestarts { cycles, .. } => {
                // In whole numbers, so that a restart is at the top: in fractions its first step may be the last of the cycle before.
                let of_cycle = done * u64::from(cycles) % all;
                above_minimum(half_cosine(of_cycle as f64 / all as f64))
            }
            Self::Polynomial { power, .. } => above_minimum(libm::pow((1.0 - progress).max(0.0), power)),
            Self::InverseSqrt { timescale, .. } => {
                let usual = if warmup > 0 { warmup } else { TIMESCALE };
                let timescale = timescale.unwrap_or(usual).max(1) as f64;
                1.0 / ((done as f64 + timescale) / timescale).sqrt()
            }
            Self::WarmupStableDecay { decay, shape, .. } => {
                let stable = all.saturating_sub(decay.steps(total));
                if done < stable {
                    return 1.0;
                }
                let progress = ((done - stable) as f64 / (all - stable).max(1) as f64).min(1.0);
                above_minimum(match shape {
                    Descent::Cosine => half_cosine(progress),
                    Descent::Linear => 1.0 - progress,
                    Descent::OneMinusSqrt => 1.0 - progress.sqrt(),
                })
            }
        }
    }

    /// Values out of range.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut possible = |name: &str, possible: bool, message: String| {
            if !possible {
                problems.push(Problem::new(format!("schedule.{name}"), message));
            }
        };
        let no_share = |span: Span| format!("{span:?} is no share from 0 to 1");
        possible("warmup", self.warmup().is_possible(), no_share(self.warmup()));
        let ratio = self.minimum_ratio();
        possible("minimum_ratio", (0.0..1.0).contains(&ratio), format!("{ratio} is not from 0 to below 1"));
        match *self {
            Self::CosineWithRestarts { cycles, .. } => {
                possible("cycles", (1..=10_000).contains(&cycles), format!("{cycles} is not from 1 to 10000"));
            }
            Self::Polynomial { power, .. } => {
                possible("power", (0.01..=100.0).contains(&power), format!("{power} is not from 0.01 to 100"));
            }
            Self::InverseSqrt { timescale, .. } => {
                possible("timescale", timescale != Some(0), "0 steps are no timescale".to_owned());
            }
            Self::WarmupStableDecay { decay, .. } => possible("decay", decay.is_possible(), no_share(decay)),
            Self::Constant { .. } | Self::Linear { .. } | Self::Cosine { .. } => {}
        }
        problems
    }
}

/// From 1 to 0 as `progress` goes from 0 to 1. By libm, so that the bits are the same wherever they are computed.
fn half_cosine(progress: f64) -> f64 {
    (0.5 * (1.0 + libm::cos(PI * progress))).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Schedule {
        ron::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn factors(text: &str, steps: impl IntoIterator<Item = u64>, total: u64) -> Vec<f64> {
        steps.into_iter().map(|step| read(text).factor(step, total)).collect()
    }

    const ALL: [&str; 7] = [
        "Constant()",
        "Linear()",
        "Cosine()",
        "CosineWithRestarts(cycles: 3)",
        "Polynomial(power: 2)",
        "InverseSqrt()",
        "WarmupStableDecay()",
    ];

    #[test]
    fn cosine_gives_the_reference_values() {
        for (step, expected) in
            [(0, 1.0), (1000, 0.853_553), (2000, 0.5), (3000, 0.146_447), (3999, 1.54e-7), (4000, 0.0)]
        {
            assert!((Schedule::default().factor(step, 4000) - expected).abs() < 1e-6, "step {step}");
        }
    }

    #[test]
    fn warm_up_is_linear_from_zero_in_every_schedule() {
        for name in ALL {
            for warmup in ["4", "Steps(4)", "Share(0.04)"] {
                let text = name.replace('(', &format!("(warmup: {warmup}, "));
                assert_eq!(factors(&text, 0..5, 100), [0.0, 0.25, 0.5, 0.75, 1.0], "{text}");
            }
        }
    }

    #[test]
    fn every_schedule_stays_between_its_minimum_and_the_top() {
        for name in ALL {
            for (total, warmup) in [(1, 0), (7, 0), (100, 30), (5, 10)] {
                let text = name.replace('(', &format!("(warmup: {warmup}, "));
                let found = factors(&text, 0..total + 3, total);
                assert!(found.iter().all(|factor| (0.0..=1.0).contains(factor)), "{text} of {total}: {found:?}");
            }
            if !["Constant()", "InverseSqrt()"].contains(&name) {
                let found = factors(&name.replace('(', "(minimum_ratio: 0.25, "), 0..=100, 100);
                assert!(found.iter().all(|factor| (0.25..=1.0).contains(factor)), "{name}: {found:?}");
                assert_eq!(found[100], 0.25, "{name}");
            }
        }
    }

    #[test]
    fn a_restart_begins_at_the_top_whatever_the_numbers() {
        for total in 2..400 {
            for cycles in (1..=8).filter(|cycles| total % cycles == 0) {
                let text = format!("CosineWithRestarts(cycles: {cycles})");
                let restarts = (0..cycles).map(|cycle| cycle * (total / cycles));
                assert!(factors(&text, restarts, total).iter().all(|factor| *factor == 1.0), "{text} of {total}");
            }
        }
    }

    #[test]
    fn one_cycle_is_the_cosine() {
        assert_eq!(factors("CosineWithRestarts(warmup: 3)", 0..=50, 50), factors("Cosine(warmup: 3)", 0..=50, 50));
    }

    /// What lets a training be extended without its first epochs being trained again.
    #[test]
    fn schedules_without_an_end_do_not_know_how_long_the_training_is() {
        for text in ["Constant(warmup: 5)", "InverseSqrt(warmup: 5)", "InverseSqrt(timescale: Some(7))"] {
            assert_eq!(factors(text, 0..50, 50), factors(text, 0..50, 80), "{text}");
        }
        let text = "WarmupStableDecay(warmup: 5, decay: 10)";
        assert_eq!(factors(text, 0..40, 50), factors(text, 0..40, 80));
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for (text, json) in [
            ("Cosine(warmup: 20)", r#"{"Cosine":{"minimum_ratio":0.0,"warmup":20}}"#),
            ("Cosine(warmup: Steps(20))", r#"{"Cosine":{"minimum_ratio":0.0,"warmup":20}}"#),
            ("Constant(warmup: Share(0.05))", r#"{"Constant":{"warmup":{"Share":0.05}}}"#),
        ] {
            let schedule = read(text);
            assert_eq!(serde_json::to_value(schedule).unwrap().to_string(), json);
            assert_eq!(serde_json::from_str::<Schedule>(json).unwrap(), schedule);
            assert_eq!(read(&ron::to_string(&schedule).unwrap()), schedule);
        }
        for text in ["Cosine(warmup: 0.05)", "Cosine(warmup: Part(0.05))", "Cosine(warmup: -1)"] {
            let error = ron::from_str::<Schedule>(text).unwrap_err().to_string();
            assert!(error.contains("such as Share(0.05)"), "{text}: {error}");
        }
    }

    #[test]
    fn values_out_of_range_are_problems() {
        for (text, field) in [
            ("Cosine(warmup: Share(1.5))", "schedule.warmup"),
            ("Linear(minimum_ratio: 1)", "schedule.minimum_ratio"),
            ("CosineWithRestarts(cycles: 0)", "schedule.cycles"),
            ("Polynomial(power: -1)", "schedule.power"),
            ("InverseSqrt(timescale: Some(0))", "schedule.timescale"),
            ("WarmupStableDecay(decay: Share(-0.1))", "schedule.decay"),
        ] {
            let problems = read(text).problems();
            assert_eq!(problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), [field], "{text}");
        }
        assert!(ALL.iter().all(|text| read(text).problems().is_empty()));
    }
}
