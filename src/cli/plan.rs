//! `sd3pipe plan`: what a run would do, and why.

use super::{Failure, Survey, Target, print, stage_index, text};
use crate::{
    pipeline::{Resolved, ResolvedStage},
    plan::{Reasons, State},
};
use clap::Args;
use sd3pipe_cache::Store;
use sd3pipe_stages::{job::Job, stage::Stage};
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(flatten)]
    target: Target,
    /// Prints the pipeline as it is really run, every default written out, and nothing else.
    #[arg(long)]
    resolved: bool,
    /// The last stage to look at.
    #[arg(long, value_name = "STAGE")]
    until: Option<String>,
    /// Prints JSON for programs.
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.resolve()?;
        if self.resolved {
            let ron = resolved
                .to_ron()
                .map_err(|error| Failure::Usage(format!("the pipeline can't be written as RON: {error}")))?;
            return print(&format!("{ron}\n"));
        }
        let until = self.until.as_deref().map(|name| stage_index(&resolved, name)).transpose()?;
        let store = Store::open_read_only(&self.target.store(&resolved))?;
        let survey = Survey::take(&resolved, store.as_ref(), Default::default(), until)?;
        if self.json {
            return print(&format!("{:#}\n", to_json(&resolved, &survey)));
        }
        print(&(overview(&resolved, &survey, store.as_ref())? + &learning_rates(&survey)))
    }
}

/// The learning rate along the way of each training that will run, as far as its steps are known.
fn learning_rates(survey: &Survey<'_>) -> String {
    let mut lines = String::new();
    for (stage, examined) in survey.planner.resolved.stages.iter().zip(&survey.examined) {
        let Some(State::Run { job, .. }) = examined.as_ref().map(|examined| &examined.state) else { continue };
        let Job::Train(job) = &**job else { continue };
        let last = job.total_steps().saturating_sub(1);
        let steps: BTreeSet<u64> = (0..=6).map(|part| last * part / 6).collect();
        let row = |first: &str, cell: &dyn Fn(u64) -> String| {
            std::iter::once(first.to_owned()).chain(steps.iter().map(|step| cell(*step))).collect::<Vec<_>>()
        };
        let rows = [
            row(&format!("{}: step", stage.name), &|step| text::count(step as usize + 1)),
            row("learning rate", &|step| format!("{:.2e}", job.learning_rate(step))),
        ];
        lines.push('\n');
        lines.push_str(&text::table(&rows));
    }
    lines
}

/// The table of `plan` and `status`: a line a stage.
pub(super) fn overview(resolved: &Resolved, survey: &Survey<'_>, store: Option<&Store>) -> Result<String, Failure> {
    let reasons =
        Reasons::new(store, &survey.previous).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
    let mut rows = Vec::new();
    for (index, stage) in resolved.stages.iter().enumerate() {
        let Some(examined) = &survey.examined[index] else { continue };
        let (word, amount) = match &examined.state {
            State::Kept { .. } => ("hit", size(stage)),
            State::Assembled { actions, .. } if matches!(stage.stage, Stage::Captions(_)) => {
                ("read", text::units(*actions, "items"))
            }
            State::Assembled { actions, .. } => ("hit", format!("all {}", text::count(*actions))),
            State::Run { job, missing } => {
                let total = job.actions().len();
                let amount = if missing.len() == total {
                    text::units(total, job.unit())
                } else {
                    format!("{} of {}", text::count(missing.len()), text::units(total, job.unit()))
                };
                ("run", amount)
            }
            State::Waiting { .. } => ("run", size(stage)),
        };
        let why = match &examined.state {
            State::Kept { .. } => String::new(),
            State::Assembled { .. } if !matches!(stage.stage, Stage::Captions(_)) => String::new(),
            state => because(survey, &reasons, index, state)?,
        };
        rows.push(vec![stage.name.clone(), word.to_owned(), amount, why]);
    }
    Ok(text::table(&rows))
}

/// The first of a stage's own causes, or the first of those above it.
fn because(survey: &Survey<'_>, reasons: &Reasons<'_>, index: usize, state: &State) -> Result<String, Failure> {
    let resolved = survey.planner.resolved;
    let name = &resolved.stages[index].name;
    let fault = |error| Failure::plan(name, error);
    let direct = reasons.direct(&survey.planner, &survey.examined, index).map_err(fault)?;
    let causes = if direct.is_empty() {
        reasons.roots(&survey.planner, &survey.examined, index).map_err(fault)?
    } else {
        direct
    };
    let more = |count: usize| if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
    Ok(match (causes.first(), state) {
        (Some(cause), _) if cause.stage == *name => format!("{}{}", cause.what, more(causes.len())),
        (Some(cause), _) => format!("{}: {}{}", cause.stage, cause.what, more(causes.len())),
        (None, State::Waiting { on }) => {
            let names: Vec<&str> = on.iter().map(|above| resolved.stages[*above].name.as_str()).collect();
            format!("reads {}", names.join(", "))
        }
        (None, _) => String::new(),
    })
}

/// How much a stage makes, as far as its parameters tell.
fn size(stage: &ResolvedStage) -> String {
    match &stage.stage {
        Stage::Train(train) => text::units(train.epochs as usize, "epochs"),
        Stage::Sample(sample) => text::units(sample.prompts.len() * sample.seeds.len(), "images") + " a checkpoint",
        Stage::Captions(_) | Stage::EncodeText(_) | Stage::EncodeImages(_) | Stage::Export(_) => String::new(),
    }
}

fn to_json(resolved: &Resolved, survey: &Survey<'_>) -> serde_json::Value {
    let stages = resolved.stages.iter().zip(&survey.examined).filter_map(|(stage, examined)| {
        let examined = examined.as_ref()?;
        let (state, missing, actions) = match &examined.state {
            State::Kept { .. } => ("kept", Vec::new(), None),
            State::Assembled { actions, .. } => ("kept", Vec::new(), Some(*actions)),
            State::Run { job, missing } => (
                "run",
                missing.iter().map(|index| job.actions()[*index].label.clone()).collect(),
                Some(job.actions().len()),
            ),
            State::Waiting { .. } => ("waiting", Vec::new(), None),
        };
        Some(json!({ "name": stage.name, "state": state, "missing": missing, "actions": actions }))
    });
    json!({ "pipeline": resolved.pipeline.name, "stages": stages.collect::<Vec<_>>() })
}
