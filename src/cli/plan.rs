//! `sd3pipe plan`: what a run would do, and why.

use super::{Failure, Survey, Target, fetch, print, stage_indices, text};
use crate::{
    pipeline::{Resolved, ResolvedStage},
    plan::{Bytes, Reasons, Size, State},
    run::seconds_an_action,
};
use clap::Args;
use sd3pipe_cache::Store;
use sd3pipe_stages::{device::DeviceKind, job::Job, stage::Stage};
use serde_json::json;
use std::collections::BTreeMap;

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
    /// Prints what each stage will write, and the memory that it needs.
    #[arg(long, conflicts_with_all = ["resolved", "json"])]
    bytes: bool,
    /// Prints the learning rates of every training, at the steps that show its schedule.
    #[arg(long, conflicts_with_all = ["resolved", "json", "bytes"])]
    rates: bool,
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
        let until = self.until.as_deref().map(|name| stage_indices(&resolved, name)).transpose()?.unwrap_or_default();
        if resolved.missing().next().is_some() {
            return print(&if self.json {
                format!("{:#}\n", downloads(&resolved))
            } else {
                fetch::overview(&resolved)
            });
        }
        let store = Store::open_read_only(&self.target.store(&resolved))?;
        let survey = Survey::take(&resolved, store.as_ref(), Default::default(), &until)?;
        let fault = |error| Failure::plan(&resolved.pipeline.name, error);
        let pace = seconds_an_action(&resolved, store.as_ref()).map_err(fault)?;
        let seconds = survey.seconds(&pace);
        if self.json {
            return print(&format!("{:#}\n", to_json(&resolved, &survey, seconds)));
        }
        if self.rates {
            return print(&rates(&resolved, &survey));
        }
        let table = if self.bytes { bytes(&resolved, &survey) } else { overview(&resolved, &survey, store.as_ref())? };
        let costs = costs(&survey, seconds);
        // Nothing is asked here: a plan needs no connection.
        let remote = resolved.pipeline.store.remote.as_ref().filter(|_| costs.is_some());
        let first = remote.map(|remote| format!("`sd3pipe run` takes of this what {remote} has\n"));
        print(&[Some(table), costs, first].into_iter().flatten().collect::<String>())
    }
}

impl Survey<'_> {
    /// What there is to do for a stage: if it waits, what that comes to as far as it can be foreseen.
    fn state(&self, index: usize) -> Option<&State> {
        let foreseen = self.estimate.stages.get(index)?.as_ref()?.projected.as_ref();
        foreseen.or(Some(&self.examined[index].as_ref()?.state))
    }

    /// The seconds that everything takes at that pace, if all stages have one.
    fn seconds(&self, pace: &BTreeMap<String, f64>) -> Option<f64> {
        let stages = self.planner.resolved.stages.iter().zip(&self.estimate.stages);
        let busy = stages.filter_map(|(stage, cost)| Some((stage, cost.as_ref().filter(|cost| cost.actions > 0)?)));
        busy.map(|(stage, cost)| Some(pace.get(&stage.name)? * cost.actions as f64)).sum()
    }
}

/// One line of what everything costs; nothing when there is nothing to do.
fn costs(survey: &Survey<'_>, seconds: Option<f64>) -> Option<String> {
    let Bytes { store, out } = survey.estimate.bytes();
    let writes = (store + out > 0).then(|| format!("writes {}", Size(store + out)))?;
    let devices = survey.planner.resolved.pipeline.places().len();
    let place = match survey.planner.facts().map(|facts| facts.device) {
        Ok(DeviceKind::Cuda) if devices > 1 => format!("on each of {devices} GPUs"),
        Ok(DeviceKind::Cuda) => "on the GPU".to_owned(),
        _ => "of memory".to_owned(),
    };
    let needs = survey.estimate.memory().map(|memory| format!("needs about {} {place}", Size(memory)));
    let takes = seconds.filter(|seconds| *seconds > 0.0);
    let takes = takes.map(|seconds| format!("takes about {}, going by earlier runs", text::duration(seconds)));
    Some([Some(writes), needs, takes].into_iter().flatten().collect::<Vec<_>>().join(" · ") + "\n")
}

/// What each stage writes, and the memory that it needs.
fn bytes(resolved: &Resolved, survey: &Survey<'_>) -> String {
    let size = |bytes: u64| if bytes > 0 { Size(bytes).to_string() } else { String::new() };
    let mut rows = vec![["", "store", "out/", "memory"].map(str::to_owned).to_vec()];
    for (stage, cost) in resolved.stages.iter().zip(&survey.estimate.stages) {
        let Some(cost) = cost else { continue };
        rows.push(vec![stage.name.clone(), size(cost.store), size(cost.out), size(cost.memory.unwrap_or_default())]);
    }
    text::table(&rows)
}

/// The learning rates of every training that is looked at and not kept.
fn rates(resolved: &Resolved, survey: &Survey<'_>) -> String {
    let mut text = String::new();
    for (index, stage) in resolved.stages.iter().enumerate() {
        if !matches!(stage.stage, Stage::Train(_)) {
            continue;
        }
        let Some(State::Run { job, .. }) = survey.state(index) else {
            text += &format!("{}: up to date\n", stage.name);
            continue;
        };
        let Job::Train(job) = &**job else { continue };
        let steps = text::units(job.total_steps() as usize, "steps");
        text += &format!("{}: {}, {steps}\n", stage.name, text::units(job.epochs(), "epochs"));
        let mut rows = vec![["epoch", "step", "learning rate", ""].map(str::to_owned).to_vec()];
        for rate in job.rates() {
            let (epoch, step) = (text::count(rate.epoch as usize), text::count(rate.step as usize));
            rows.push(vec![epoch, step, format!("{:.3e}", rate.rate), rate.what]);
        }
        text += &text::table(&rows);
    }
    text
}

/// The table of `plan` and `status`: a line a stage.
pub(super) fn overview(resolved: &Resolved, survey: &Survey<'_>, store: Option<&Store>) -> Result<String, Failure> {
    let reasons =
        Reasons::new(store, &survey.previous).map_err(|error| Failure::plan(&resolved.pipeline.name, error))?;
    let mut rows = Vec::new();
    for (index, stage) in resolved.stages.iter().enumerate() {
        let Some(examined) = &survey.examined[index] else { continue };
        let (word, amount) = match survey.state(index).unwrap_or(&examined.state) {
            State::Kept { .. } => ("hit", size(stage)),
            State::Assembled { actions, .. } if matches!(stage.stage, Stage::Captions(_)) => {
                ("read", text::units(*actions, "items"))
            }
            State::Assembled { actions, .. } => ("hit", format!("all {}", text::count(*actions))),
            State::Run { job, missing } => ("run", amount(job, missing)),
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

/// How much of a job is to be done.
fn amount(job: &Job, missing: &[usize]) -> String {
    let some = |missing: usize, total: usize, unit: &str| {
        let all = text::units(total, unit);
        if missing == total { all } else { format!("{} of {all}", text::count(missing)) }
    };
    let Job::Train(job) = job else { return some(missing.len(), job.actions().len(), job.unit()) };
    let epochs = missing.iter().filter(|index| **index < job.epochs()).count();
    let mut parts = Vec::new();
    if epochs > 0 {
        let steps = epochs * job.steps_per_epoch() as usize;
        parts.push(format!("{}, {}", some(epochs, job.epochs(), "epochs"), text::units(steps, "steps")));
    }
    if missing.len() > epochs {
        parts.push(some(missing.len() - epochs, job.validated.len(), "validations"));
    }
    parts.join(", ")
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

/// What must be downloaded before a plan can be made.
fn downloads(resolved: &Resolved) -> serde_json::Value {
    let downloads = resolved.missing().map(
        |file| json!({ "field": file.field, "address": file.address.to_string(), "bytes": fetch::size(file).ok() }),
    );
    json!({ "pipeline": resolved.pipeline.name, "downloads": downloads.collect::<Vec<_>>() })
}

fn to_json(resolved: &Resolved, survey: &Survey<'_>, seconds: Option<f64>) -> serde_json::Value {
    let stages = resolved.stages.iter().enumerate().filter_map(|(index, stage)| {
        let (state, missing, actions) = match survey.state(index)? {
            State::Kept { .. } => ("kept", Vec::new(), None),
            State::Assembled { actions, .. } => ("kept", Vec::new(), Some(*actions)),
            State::Run { job, missing } => {
                let waits = survey.estimate.stages[index].as_ref().is_some_and(|cost| cost.projected.is_some());
                let labels = missing.iter().map(|index| job.actions()[*index].label.clone());
                (if waits { "waiting" } else { "run" }, labels.collect(), Some(job.actions().len()))
            }
            State::Waiting { .. } => ("waiting", Vec::new(), None),
        };
        let cost = survey.estimate.stages[index].as_ref()?;
        let writes = Bytes { store: cost.store, out: cost.out };
        Some(json!({
            "name": stage.name, "state": state, "missing": missing, "actions": actions, "writes": writes, "memory": cost.memory,
        }))
    });
    json!({
        "pipeline": resolved.pipeline.name,
        "stages": stages.collect::<Vec<_>>(),
        "writes": survey.estimate.bytes(),
        "memory": survey.estimate.memory(),
        "seconds": seconds,
    })
}
