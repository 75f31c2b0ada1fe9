//! `sd3pipe diff`: two runs side by side.

use super::{Failure, Location, print, runs, text};
use crate::{
    pipeline::{self, Pipeline, base_and_point, is_at},
    plan::{Difference, EpochLosses, PlanError, StageResult, differences},
    run::{Journal, StageEntry},
};
use clap::Args;
use sd3pipe_cache::{Change, Digest, Preimage, Run, Store, diff};
use sd3pipe_stages::stage::{Kind, Stage};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

#[derive(Debug, Args)]
pub(super) struct Diff {
    /// A run: its number, `last`, or the name of a pipeline for its last run. A point of a grid stands behind it: `12@learning_rate=1e-4`.
    first: String,
    /// The run to compare it with, likewise; it may be another point of the same.
    second: String,
    #[command(flatten)]
    location: Location,
    /// Writes the samples that both have into a folder, as pairs of files.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Prints JSON for programs.
    #[arg(long)]
    json: bool,
}

/// One of the two.
struct Side {
    run: Run,
    /// `#12`, with the point.
    label: String,
    /// What happened to each stage, by its name; without the point, where one was named.
    entries: BTreeMap<String, StageEntry>,
    /// The parameters likewise.
    stages: BTreeMap<String, Stage>,
    pipeline: Option<Pipeline>,
}

/// All that is told.
#[derive(Default, Serialize)]
struct Told {
    /// Fields that are not equal, with both values.
    parameters: Vec<(String, Option<Value>, Option<Value>)>,
    /// Stages that only one of them has.
    only: Vec<(String, String)>,
    /// What else keys differ in, by stage.
    causes: BTreeMap<String, Vec<Difference>>,
    /// The losses of trainings: of the first, and of the second.
    losses: BTreeMap<String, [Vec<EpochLosses>; 2]>,
    /// The samples that both have drawn.
    samples: Vec<Pair>,
    /// How many samples only the one has, and only the other.
    alone: [usize; 2],
}

/// An image of the same row, prompt and seed of both.
#[derive(Serialize)]
struct Pair {
    /// `epoch 3, seed 1: a lighthouse`.
    what: String,
    /// Whether it is the same image to the byte.
    equal: bool,
    /// Where the two lie.
    files: [PathBuf; 2],
}

impl Diff {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = self.location.read()?;
        let sides = [Side::find(&store, &self.first)?, Side::find(&store, &self.second)?];
        let told = self.compare(&sides, &store)?;
        if self.json {
            let value = serde_json::to_value(&told).unwrap_or_default();
            return print(&format!("{value:#}\n"));
        }
        print(&show(&sides, &told))
    }

    fn compare(&self, sides: &[Side; 2], store: &Store) -> Result<Told, Failure> {
        let [first, second] = sides;
        let mut told = Told { parameters: parameters(sides), ..Told::default() };
        for (side, other) in [(first, second), (second, first)] {
            let only = side.entries.keys().filter(|name| !other.entries.contains_key(*name));
            told.only.extend(only.map(|name| (name.clone(), side.label.clone())));
        }
        for (name, old) in &first.entries {
            let Some(new) = second.entries.get(name).filter(|new| new.kind == old.kind) else { continue };
            let fault = |error: PlanError| Failure::plan(name, error);
            if let (Ok(old), Ok(new)) = (old.key.parse(), new.key.parse()) {
                let found = differences(store, &old, &new).map_err(fault)?;
                if !found.is_empty() {
                    told.causes.insert(name.clone(), found);
                }
            }
            let (Some(old_result), Some(new_result)) = (old.result, new.result) else { continue };
            if old.kind == Kind::Train.to_string() {
                // What a collection has taken is not told.
                let losses = [old_result, new_result].map(|result| EpochLosses::of(result, store).unwrap_or_default());
                told.losses.insert(name.clone(), losses);
            } else if old.kind == Kind::Sample.to_string() {
                let drawn =
                    [(first, old_result), (second, new_result)].map(|(side, result)| side.drawn(name, result, store));
                self.pair(name, sides, drawn, store, &mut told)?;
            }
        }
        Ok(told)
    }

    fn pair(
        &self,
        stage: &str,
        sides: &[Side; 2],
        drawn: [BTreeMap<Shot, Digest>; 2],
        store: &Store,
        told: &mut Told,
    ) -> Result<(), Failure> {
        let [first, second] = drawn;
        told.alone[0] += first.keys().filter(|shot| !second.contains_key(*shot)).count();
        told.alone[1] += second.keys().filter(|shot| !first.contains_key(*shot)).count();
        for (number, (shot, old)) in first.iter().enumerate() {
            let Some(new) = second.get(shot) else { continue };
            let digests = [old, new];
            let mut files = digests.map(|digest| store.object_path(digest));
            if let Some(out) = &self.out {
                let write =
                    |path: &PathBuf, bytes: &[u8]| fs::create_dir_all(out).and_then(|()| fs::write(path, bytes));
                for ((side, digest), file) in sides.iter().zip(digests).zip(&mut files) {
                    let label = side.label.trim_start_matches('#');
                    let name = format!("{stage}-{:03}-{}-seed-{}-run-{label}.png", number + 1, shot.row, shot.seed);
                    *file = out.join(name.replace('/', "-"));
                    let bytes = store.read(digest)?;
                    write(file, &bytes)
                        .map_err(|error| Failure::Usage(format!("cannot write {}: {error}", file.display())))?;
                }
            }
            let what = format!("{}, seed {}: {}", shot.row, shot.seed, shot.prompt);
            told.samples.push(Pair { what, equal: old == new, files });
        }
        Ok(())
    }
}

/// What tells an image of a run from its others.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shot {
    row: String,
    prompt: String,
    seed: String,
}

impl Side {
    fn find(store: &Store, written: &str) -> Result<Self, Failure> {
        let (name, point) = base_and_point(written);
        let run = match store.last_run(name)? {
            Some(run) => run,
            None => runs::find(store, name)?,
        };
        let journal: Journal = serde_json::from_value(run.document.clone()).unwrap_or_default();
        let pipeline = pipeline::options().from_str::<Pipeline>(&journal.pipeline).ok();
        // Of the stages that a grid has made, those at the point; each then as if there were no grid.
        let chosen = |name: &str| match (base_and_point(name), point) {
            ((base, Some(at)), Some(point)) => is_at(point, at).then(|| base.to_owned()),
            _ => Some(name.to_owned()),
        };
        let points: BTreeSet<&str> = pipeline
            .iter()
            .flat_map(|pipeline| pipeline.stages.keys())
            .filter_map(|name| base_and_point(name).1)
            .collect();
        let is_there = |point: &&str| points.iter().any(|at| is_at(at, point));
        if let Some(point) = point.filter(|point| !is_there(point)) {
            let hint = match points.len() {
                0 => "its pipeline has no grid".to_owned(),
                _ => format!("it has {}", points.into_iter().collect::<Vec<_>>().join(" and ")),
            };
            return Err(Failure::Usage(format!("run {} has no point `{point}`\nhint: {hint}", run.id)));
        }
        let named = journal.stages.into_iter().filter_map(|entry| Some((chosen(&entry.name)?, entry)));
        let entries = named.collect();
        let written = pipeline.iter().flat_map(|pipeline| &pipeline.stages);
        let stages = written.filter_map(|(name, stage)| {
            let (name, mut stage) = (chosen(name)?, stage.clone());
            for input in stage.inputs() {
                *input.named = input.named.take().map(|named| chosen(&named).unwrap_or(named));
            }
            Some((name, stage))
        });
        let stages = stages.collect();
        let point = point.map_or(String::new(), |point| format!("@{point}"));
        Ok(Self { label: format!("#{}{point}", run.id), run, entries, stages, pipeline })
    }

    /// All that can be set, for comparing field by field.
    fn fields(&self) -> Preimage {
        let mut fields = Preimage::new("pipeline", 0);
        let mut read = |name: &str, value: Value| drop(fields.read(name, &value));
        if let Some(pipeline) = &self.pipeline {
            read("name", pipeline.name.clone().into());
            read("model", serde_json::to_value(&pipeline.model).unwrap_or_default());
            read("device", serde_json::to_value(pipeline.device).unwrap_or_default());
            read("devices", serde_json::to_value(&pipeline.devices).unwrap_or_default());
        }
        for (name, stage) in &self.stages {
            // The name of the kind stands around the fields.
            let value = serde_json::to_value(stage).unwrap_or_default();
            let inner = value.as_object().and_then(|kind| kind.values().next()).cloned();
            read(name, inner.unwrap_or_default());
        }
        fields
    }

    /// The images that a stage has drawn.
    fn drawn(&self, stage: &str, result: Digest, store: &Store) -> BTreeMap<Shot, Digest> {
        let Some(Stage::Sample(parameters)) = self.stages.get(stage) else { return BTreeMap::new() };
        let Ok(artifact) = StageResult::stored(result).artifact(Some(store)) else { return BTreeMap::new() };
        let shots = artifact.of("image").filter_map(|entry| {
            let (rest, seed) = entry.item.strip_suffix(".png")?.rsplit_once("-seed-")?;
            let (row, prompt) = rest.rsplit_once("-prompt-")?;
            let prompt = parameters.prompts.get(prompt.parse::<usize>().ok()?.checked_sub(1)?)?.clone();
            Some((Shot { row: row.to_owned(), prompt, seed: seed.to_owned() }, entry.digest))
        });
        shots.collect()
    }
}

/// The fields that differ, of stages that both have.
fn parameters([first, second]: &[Side; 2]) -> Vec<(String, Option<Value>, Option<Value>)> {
    let is_common = |change: &Change| {
        let alone = |one: &Side, other: &Side| {
            let mut names = one.stages.keys().filter(|name| !other.stages.contains_key(*name));
            names.any(|name| change.path.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')))
        };
        !alone(first, second) && !alone(second, first)
    };
    let changes = diff(&first.fields(), &second.fields()).into_iter().filter(is_common);
    changes.map(|change| (change.path, change.old, change.new)).collect()
}

fn show(sides: &[Side; 2], told: &Told) -> String {
    let line = |side: &Side| {
        let mut line = runs::line(&side.run);
        line[0].clone_from(&side.label);
        line
    };
    let mut out = text::table(&sides.each_ref().map(line));
    let [first, second] = sides.each_ref().map(|side| side.label.as_str());
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            out += &format!("\n{title}\n{body}");
        }
    };
    let value = |value: &Option<Value>| match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let rows = told
        .parameters
        .iter()
        .map(|(path, old, new)| vec![format!("  {path}"), value(old), format!("→ {}", value(new))]);
    section("parameters", text::table(&rows.collect::<Vec<_>>()));
    let only = told.only.iter().map(|(name, label)| format!("  {} is only in {label}\n", text::one_line(name)));
    section("stages", only.collect());
    let mut causes = String::new();
    for (stage, found) in &told.causes {
        for Difference { what, detail } in found {
            causes += &format!("  {stage}: {}\n", text::one_line(what));
            detail.iter().for_each(|detail| causes += &format!("    {}\n", text::one_line(detail)));
        }
    }
    section("what they read", causes);
    for (stage, losses) in &told.losses {
        section(&format!("losses of {stage}"), text::table(&loss_rows(losses, [first, second])));
    }
    let differ = told.samples.iter().filter(|pair| !pair.equal);
    let lines: String = differ
        .map(|Pair { what, files: [old, new], .. }| {
            format!("  {}\n    {}\n    {}\n", text::one_line(what), old.display(), new.display())
        })
        .collect();
    section("samples that differ", lines);
    let equal = told.samples.iter().filter(|pair| pair.equal).count();
    let counts = [
        (equal, "are equal".to_owned()),
        (told.alone[0], format!("are only in {first}")),
        (told.alone[1], format!("are only in {second}")),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    section("other samples", counts.map(|(count, what)| format!("  {} {what}\n", text::count(count))).collect());
    if told.parameters.is_empty() && told.only.is_empty() && told.causes.is_empty() {
        out += "\nthe same was set and read\n";
    }
    out
}

/// A row for each epoch of either.
fn loss_rows([old, new]: &[Vec<EpochLosses>; 2], [first, second]: [&str; 2]) -> Vec<Vec<String>> {
    let held_out = old.iter().chain(new).any(|losses| losses.held_out.is_some());
    let mut head = vec!["  epoch".to_owned(), first.to_owned(), second.to_owned()];
    if held_out {
        head.extend([format!("{first} held out"), format!("{second} held out")]);
    }
    let epochs: BTreeSet<u32> = old.iter().chain(new).map(|losses| losses.epoch).collect();
    let number = |loss: Option<f64>| loss.map_or(String::new(), |loss| format!("{loss:.4}"));
    let rows = epochs.into_iter().map(|epoch| {
        let of = |side: &[EpochLosses]| side.iter().find(|losses| losses.epoch == epoch).copied().unwrap_or_default();
        let both = [of(old), of(new)];
        let mut row = vec![format!("  {epoch}")];
        row.extend(both.map(|losses| number(losses.trained)));
        if held_out {
            row.extend(both.map(|losses| number(losses.held_out)));
        }
        row
    });
    [head].into_iter().chain(rows).collect()
}
