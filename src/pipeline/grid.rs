//! A grid of experiments: fields that are given several values each, and the one graph that all combinations of them make.
//!
//! Each combination, a point, is the pipeline with these values in it, read and checked like any other. A stage is there once for
//! each choice of the values that it, or a stage above it, reads: so what the points share is one stage.

use super::{
    check::{MOST_STAGES, Resolved, ResolvedStage, Upstream},
    compose,
    diagnostic::{Diagnostic, suggestion},
    outline::{Body, Node},
    source::{Place, Sources},
};
use indexmap::IndexMap;
use std::collections::{BTreeSet, HashSet};

/// What stands between a stage's name and its point.
pub(super) const AT: char = '@';

/// Points of a grid at most.
const MOST_POINTS: usize = 256;

/// Bytes of a value's label at most; a longer value is told by its position.
const LONGEST_LABEL: usize = 40;

/// Bytes of a point's name at most: it is the name of a folder.
const LONGEST_POINT: usize = 200;

/// A field with the values that it takes.
pub struct Axis {
    /// As it is written: `train.learning_rate`.
    path: String,
    /// What points call it: `learning_rate`, or the whole path where another axis is called so too.
    name: String,
    /// Where its name stands.
    place: Place,
    /// The values, each with what points call it.
    values: Vec<(String, Node)>,
}

impl Axis {
    fn stage(&self) -> &str {
        self.path.split('.').next().unwrap_or_default()
    }

    fn field(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Where the last step of the path stands, for messages about the field.
    fn field_place(&self, sources: &Sources) -> Place {
        let Place { source, mut range } = self.place.clone();
        range.end -= usize::from(sources.get(source).text[range.clone()].ends_with('"'));
        range.start = range.end.saturating_sub(self.field().len()).max(range.start);
        Place { source, range }
    }
}

/// Takes the grid out of a pipeline; no axes where there is none.
///
/// # Errors
/// All that is wrong with the grid itself. What is wrong with a value shows when its point is read.
pub fn take(root: &mut Node, settings: &[String], sources: &Sources) -> Result<Vec<Axis>, Vec<Diagnostic>> {
    let Some(grid) = compose::take(root, "grid") else { return Ok(Vec::new()) };
    let Body::Map(entries) = &grid.body else {
        let fault = Diagnostic::new("`grid` is not a list of fields with their values", Some(grid.place));
        return Err(vec![fault.hint("grid: { \"train.learning_rate\": [1e-4, 5e-5] }".to_owned())]);
    };
    let (mut axes, mut faults): (Vec<Axis>, Vec<Diagnostic>) = (Vec::new(), Vec::new());
    for entry in entries {
        let (path, place) = (entry.key.clone(), entry.key_place.clone());
        if let Some(fault) = misplaced(root, &path, &place, &axes).or_else(|| overruled(&path, &place, settings)) {
            faults.push(fault);
        }
        match values(&path, &entry.value, sources) {
            Ok(values) => axes.push(Axis { name: path.clone(), path, place, values }),
            Err(fault) => faults.push(fault),
        }
    }
    let points = axes.iter().try_fold(1_usize, |points, axis| points.checked_mul(axis.values.len()));
    if points.is_none_or(|points| points > MOST_POINTS) {
        let message = format!("the grid has more than {MOST_POINTS} points");
        faults.push(Diagnostic::new(message, Some(grid.place.clone())).hint("make several pipelines of it".to_owned()));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    for index in 0..axes.len() {
        if !(0..axes.len()).any(|other| other != index && axes[other].field() == axes[index].field()) {
            axes[index].name = axes[index].field().to_owned();
        }
    }
    let longest =
        |axis: &Axis| 2 + axis.name.len() + axis.values.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    if axes.iter().map(longest).sum::<usize>() > LONGEST_POINT {
        let message = format!("the names of the grid's points would have more than {LONGEST_POINT} letters");
        return Err(vec![Diagnostic::new(message, Some(grid.place)).hint("vary fewer fields at once".to_owned())]);
    }
    Ok(axes)
}

/// What is wrong with the field that an axis is to vary.
fn misplaced(root: &Node, path: &str, place: &Place, others: &[Axis]) -> Option<Diagnostic> {
    let fault = |message: String, hint: Option<String>| Some(Diagnostic::new(message, Some(place.clone())).hint(hint));
    let (stage, field) = path.split_once('.').unwrap_or((path, ""));
    let stages = root.get("stages").map(Node::entries).unwrap_or_default();
    if !stages.iter().any(|entry| entry.key == stage) {
        if ["name", "model", "device", "devices", "store", "stages"].contains(&stage) {
            return fault(format!("a grid varies fields of stages, and `{stage}` is the whole pipeline's"), None);
        }
        let hint = suggestion(stage, stages.iter().map(|entry| entry.key.as_str()));
        return fault(format!("there is no stage `{stage}`"), hint);
    }
    if field.split('.').any(str::is_empty) {
        return fault(format!("`{path}` names no field"), Some("\"train.learning_rate\", say".to_owned()));
    }
    let other = others.iter().find(|other| is_within(path, &other.path) || is_within(&other.path, path))?;
    fault(format!("`{path}` and `{}` are of one another: only one of them would count", other.path), None)
}

/// A `--set` of what the grid sets would change nothing.
fn overruled(path: &str, place: &Place, settings: &[String]) -> Option<Diagnostic> {
    let set = |setting: &&String| {
        let field = setting.split('=').next().unwrap_or_default().trim();
        is_within(field.strip_prefix("stages.").unwrap_or(field), path)
    };
    let setting = settings.iter().find(set)?;
    let message = format!("`--set {setting}` has no effect: the grid sets `{path}`");
    let hint = "give the grid other values: --set 'grid={\"train.seed\": [3, 4]}', say".to_owned();
    Some(Diagnostic::new(message, Some(place.clone())).hint(hint))
}

/// Whether a path is another one, or leads on from it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The values of an axis with their labels.
fn values(path: &str, written: &Node, sources: &Sources) -> Result<Vec<(String, Node)>, Diagnostic> {
    let text = |node: &Node| &sources.get(node.place.source).text[node.place.range.clone()];
    let nodes = match &written.body {
        Body::List(nodes) if text(written).starts_with('[') => nodes,
        _ => {
            let fault = Diagnostic::new(format!("`{path}` has no list of values"), Some(written.place.clone()));
            return Err(fault.hint(format!("\"{path}\": [{}]", text(written))));
        }
    };
    if nodes.is_empty() {
        let fault = Diagnostic::new(format!("`{path}` has no value to try"), Some(written.place.clone()));
        return Err(fault.hint("name one at least, or leave the field out of the grid".to_owned()));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = nodes.iter().find(|node| !seen.insert(text(node))) {
        return Err(Diagnostic::new(format!("`{}` is there twice", text(twice)), Some(twice.place.clone())));
    }
    let labels: Vec<String> = nodes.iter().map(|node| label(text(node))).collect();
    let label = |index: usize| {
        let label = &labels[index];
        let alone = labels.iter().filter(|other| *other == label).count() == 1;
        if alone && (1..=LONGEST_LABEL).contains(&label.len()) { label.clone() } else { format!("value-{}", index + 1) }
    };
    Ok(nodes.iter().enumerate().map(|(index, node)| (label(index), node.clone())).collect())
}

/// A value as it can stand in the name of a folder: `1e-4`, `LoRA-rank-4`.
fn label(text: &str) -> String {
    let words = text.split(|c: char| !is_of_label(c)).map(|word| word.trim_end_matches('.'));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn is_of_label(c: char) -> bool {
    c.is_alphanumeric() || "-+_.".contains(c)
}

/// Whether it can be the name of a point.
pub(super) fn is_point(name: &str) -> bool {
    let is_part = |part: &str| {
        part.split_once('=').is_some_and(|(field, value)| {
            !field.is_empty() && !value.is_empty() && (field.chars().chain(value.chars())).all(is_of_label)
        })
    };
    name.len() <= LONGEST_POINT && name.split(',').all(is_part)
}

/// Whether a point is, or lies within, another that may choose values of fewer fields.
pub fn is_at(point: &str, outer: &str) -> bool {
    outer.split(',').all(|part| point.split(',').any(|other| other == part))
}

/// Every choice of a value for each axis, the last axis varying the fastest. Without axes there is one: of nothing.
pub fn points(axes: &[Axis]) -> Vec<Vec<usize>> {
    axes.iter().fold(vec![Vec::new()], |points, axis| {
        let longer = |point: &Vec<usize>| {
            let point = point.clone();
            (0..axis.values.len()).map(move |value| [&point[..], &[value]].concat())
        };
        points.iter().flat_map(longer).collect()
    })
}

/// The pipeline at one point.
///
/// # Errors
/// A field that what is written has no room for.
pub fn at(root: &Node, axes: &[Axis], point: &[usize], sources: &Sources) -> Result<Node, Diagnostic> {
    let mut root = root.clone();
    for (axis, value) in axes.iter().zip(point) {
        let steps: Vec<&str> = ["stages"].into_iter().chain(axis.path.split('.')).collect();
        compose::set(&mut root, &steps, axis.values[*value].1.clone(), &axis.field_place(sources))
            .map_err(|step| compose::no_fields(&axis.path, &step, axis.place.clone()))?;
    }
    Ok(root)
}

/// The role and the name of a stage that is read.
type Read = (&'static str, String);

/// One graph of the pipelines at all points, each stage once for each choice that it depends on and with that in its name.
///
/// # Errors
/// When there are too many stages.
pub fn join(axes: &[Axis], mut points: Vec<(Vec<usize>, Resolved)>) -> Result<Resolved, Vec<Diagnostic>> {
    // Without axes there is one point, and never none.
    let (point, first) = points.pop().ok_or_else(Vec::new)?;
    if axes.is_empty() {
        return Ok(first);
    }
    let mut joined = first.clone();
    points.push((point, first));
    let mut all: IndexMap<String, (ResolvedStage, Vec<Read>)> = IndexMap::new();
    for (point, resolved) in points {
        let mut known: Vec<(String, BTreeSet<usize>)> = Vec::new();
        for mut stage in resolved.stages {
            let own = (0..axes.len()).filter(|axis| axes[*axis].stage() == stage.name);
            let above = stage.upstream.iter().flat_map(|upstream| known[upstream.stage].1.iter().copied());
            let depends: BTreeSet<usize> = own.chain(above).collect();
            let part = |axis: &usize| format!("{}={}", axes[*axis].name, axes[*axis].values[point[*axis]].0);
            let parts: Vec<String> = depends.iter().map(part).collect();
            let name =
                if parts.is_empty() { stage.name.clone() } else { format!("{}{AT}{}", stage.name, parts.join(",")) };
            let reads: Vec<_> =
                stage.upstream.iter().map(|upstream| (upstream.role, known[upstream.stage].0.clone())).collect();
            for input in stage.stage.inputs() {
                *input.named = reads.iter().find(|(role, _)| *role == input.role).map(|(_, name)| name.clone());
            }
            stage.name.clone_from(&name);
            all.entry(name.clone()).or_insert((stage, reads));
            known.push((name, depends));
        }
    }
    if all.len() > MOST_STAGES {
        let message = format!("the grid makes {} stages, and {MOST_STAGES} are the most", all.len());
        let fault = Diagnostic::new(message, axes.first().map(|axis| axis.place.clone()));
        return Err(vec![fault.hint("make several pipelines of it: on one store they share what is equal".to_owned())]);
    }
    // Whatever is read is of an earlier kind than what reads it.
    all.sort_by(|_, (one, _), _, (other, _)| one.stage.kind().cmp(&other.stage.kind()));
    joined.pipeline.stages = all.iter().map(|(name, (stage, _))| (name.clone(), stage.stage.clone())).collect();
    let index = |name: &String| all.get_index_of(name);
    let stages = all.values().map(|(stage, reads)| {
        let upstream = reads.iter().filter_map(|(role, name)| Some(Upstream { role, stage: index(name)? })).collect();
        ResolvedStage { upstream, ..stage.clone() }
    });
    joined.stages = stages.collect();
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_called_by_what_can_be_the_name_of_a_folder() {
        let labels = ["1e-4", "-0.5", "LoRA(rank: 4, alpha: 2.0)", "\"a red hut.\"", "[1, 2]", "()", "\"a/../b\""];
        let expected = ["1e-4", "-0.5", "LoRA-rank-4-alpha-2.0", "a-red-hut", "1-2", "", "a-b"];
        assert_eq!(labels.map(label), expected);
        assert!(["cfg=4.5", "learning_rate=1e-4,seed=1"].into_iter().all(is_point));
        assert!(
            ["", "cfg", "cfg=", "=1", "cfg=1,", "cfg=../x", "cfg=1/2", "cfg=a b"]
                .into_iter()
                .all(|name| !is_point(name))
        );
    }
}
