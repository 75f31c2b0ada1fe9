//! `sd3pipe why`: a stage's key against that of the last run, root cause first.

use super::{Failure, Survey, Target, print, stage_index, text};
use crate::plan::{Reasons, State};
use clap::Args;
use sd3pipe_cache::{Store, diff};
use serde_json::Value;
use std::fmt::Write;

#[derive(Debug, Args)]
pub(super) struct Why {
    #[command(flatten)]
    target: Target,
    /// The stage to explain.
    stage: String,
}

impl Why {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.resolve()?;
        let index = stage_index(&resolved, &self.stage)?;
        let stage = &resolved.stages[index].name;
        let store = Store::open_read_only(&self.target.store(&resolved))?;
        let survey = Survey::take(&resolved, store.as_ref(), Default::default(), &[index].into())?;
        let fault = |error| Failure::plan(stage, error);
        let reasons = Reasons::new(store.as_ref(), &survey.previous).map_err(fault)?;
        let causes = reasons.roots(&survey.planner, &survey.examined, index).map_err(fault)?;
        let Some(examined) = &survey.examined[index] else { return Ok(()) };
        let mut out = String::new();
        // Writing to a `String` can't fail.
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        match (&examined.state, causes.len()) {
            (State::Kept { .. } | State::Assembled { .. }, 0) => line(format!("{stage} is up to date")),
            (State::Kept { .. }, _) => {
                line(format!("{stage} is up to date: an earlier run made it, though not the last one"))
            }
            (State::Assembled { .. }, _) => {
                line(format!("{stage} is up to date: everything that it is made of is there"))
            }
            (State::Run { .. }, count) => line(format!("{stage} has a new key: {}", text::units(count, "causes"))),
            (State::Waiting { .. }, count) => {
                line(format!("{stage} will have a new key: {}", text::units(count, "causes")))
            }
        }
        for cause in &causes {
            let place = if cause.stage == *stage { String::new() } else { format!("{}: ", cause.stage) };
            line(format!("  {place}{}", cause.what));
            cause.detail.iter().for_each(|detail| line(format!("    {detail}")));
        }
        if let State::Run { job, missing } = &examined.state {
            line(format!(
                "missing: {} of {}",
                text::count(missing.len()),
                text::units(job.actions().len(), job.unit())
            ));
            for index in missing.iter().take(10) {
                line(format!("  {}", text::one_line(&job.actions()[*index].label)));
            }
            if missing.len() > 10 {
                line(format!("  and {} more", text::count(missing.len() - 10)));
            }
        }
        if let Some(start) = survey.planner.start(index).map_err(fault)? {
            line(format!("init: starts from {}", start.origin));
        }
        if let Some(old) = reasons.old(stage) {
            let changed = diff(old, &examined.preimage);
            for change in
                changed.iter().filter(|change| change.path.starts_with("inputs.") && change.new != Some(Value::Null))
            {
                let show = |value: &Option<Value>| {
                    value
                        .as_ref()
                        .and_then(Value::as_str)
                        .map_or("nothing".to_owned(), |digest| digest.chars().take(6).collect::<String>() + "…")
                };
                line(format!("{}   {} → {}", change.path, show(&change.old), show(&change.new)));
            }
            let total = leaves(&serde_json::to_value(&examined.preimage).unwrap_or_default());
            line(format!("equal: {} of {} fields", total.saturating_sub(changed.len()), total));
        }
        line(format!(
            "key: {}",
            if matches!(examined.state, State::Waiting { .. }) {
                "not known before what it reads is made".to_owned()
            } else {
                examined.preimage.key().to_string()
            }
        ));
        print(&out)
    }
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.values().map(leaves).sum(),
        Value::Array(items) => items.iter().map(leaves).sum(),
        _ => 1,
    }
}
