//! Everything about a pipeline that can be wrong while every value is well-formed; what passes is resolved.

use super::{
    across,
    compose::Composed,
    definition::Pipeline,
    diagnostic::{Diagnostic, suggestion},
    grid::{self, AT},
    names::{PLAIN_NAME, is_plain_name},
    source::Sources,
    store,
};
use crate::hub::{Address, Cache, HubFile};
use sd3pipe_stages::{
    adapter::parameters::{Lora, Method},
    captions::parameters::Masks,
    device::Device,
    stage::{Kind, Stage},
    train::{init::Init, parameters::Train},
};
use std::path::{Path, PathBuf};

/// A pipeline with its defaults filled in, its paths absolute, its inputs named and its stages in the order of running.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The pipeline as it is really run.
    pub pipeline: Pipeline,
    /// The folder of the pipeline file: `out/` and the store lie here.
    pub folder: PathBuf,
    /// The folder of its results: `out/<name>/` in that.
    pub results: PathBuf,
    /// The stages, each after those that it reads from.
    pub stages: Vec<ResolvedStage>,
    /// The files that are named by their address at Hugging Face. The paths of those that are not in the cache are still addresses.
    pub hub: Vec<HubFile>,
}

/// A stage with the stages that it reads from.
#[derive(Clone, Debug)]
pub struct ResolvedStage {
    /// What people call it. Of a stage that a grid has made several of, `train@learning_rate=1e-4,seed=1`.
    pub name: String,
    /// Kind and parameters.
    pub stage: Stage,
    /// What it reads, by role.
    pub upstream: Vec<Upstream>,
}

/// One edge of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What the reader calls it.
    pub role: &'static str,
    /// The index of the stage that is read, in [`Resolved::stages`].
    pub stage: usize,
}

impl ResolvedStage {
    /// Its name as it's written, and the point of the grid that it is of.
    pub fn base_and_point(&self) -> (&str, Option<&str>) {
        base_and_point(&self.name)
    }
}

/// The name of a stage as it's written, and the point of the grid that the stage is of.
pub fn base_and_point(name: &str) -> (&str, Option<&str>) {
    name.split_once(AT).map_or((name, None), |(base, point)| (base, Some(point)))
}

impl Resolved {
    /// The index of a stage.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.name == name)
    }

    /// The files that must be downloaded before anything can be run.
    pub fn missing(&self) -> impl Iterator<Item = &HubFile> {
        self.hub.iter().filter(|file| file.found.is_none())
    }

    /// The pipeline as RON with every default written out, reading as the same pipeline again.
    pub fn to_ron(&self) -> Result<String, ron::Error> {
        let pretty = ron::ser::PrettyConfig::new().struct_names(true).compact_arrays(true).indentor("    ");
        let text = super::options().to_string_pretty(&self.pipeline, pretty)?;
        // Choices that are called `None` are written as raw names, which no person would. A text's line ends with a quote.
        let plain = |line: &str| match line.strip_suffix(": r#None,") {
            Some(field) => format!("{field}: None,"),
            None => line.to_owned(),
        };
        Ok(text.lines().map(plain).collect::<Vec<_>>().join("\n"))
    }
}

/// Checks everything and lists all that is wrong. Of a pipeline that was run files need not be `there` any more.
pub fn check(
    mut pipeline: Pipeline,
    composed: &Composed,
    sources: &Sources,
    there: bool,
) -> Result<Resolved, Vec<Diagnostic>> {
    let mut faults = Faults { composed, list: Vec::new() };
    let folder = sources.get(0).folder.clone();
    if pipeline.stages.len() > MOST_STAGES {
        let message = format!("there are {} stages, and {MOST_STAGES} are the most", pipeline.stages.len());
        faults.add("stages", message, "make several pipelines of it: on one store they share what is equal".to_owned());
        return Err(faults.list);
    }
    check_names(&pipeline, &mut faults);
    let hub = resolve_paths(&mut pipeline, sources, there, &mut faults);
    store::resolve(&mut pipeline.store, composed, sources, &mut faults);
    if let Some(reason) = pipeline.device.missing() {
        faults.add("device", reason, "device: Auto takes what there is".to_owned());
    }
    if let Some(devices) = &pipeline.devices {
        if pipeline.device != Device::default() {
            faults.add("device", "`devices` says where it computes too".to_owned(), "leave one of them out".to_owned());
        }
        if let Some(reason) = devices.fault() {
            faults.add("devices", reason.to_owned(), "devices: All takes what there is".to_owned());
        }
    }
    for (name, stage) in &pipeline.stages {
        for problem in stage.problems() {
            let path = if problem.path.is_empty() {
                format!("stages.{name}")
            } else {
                format!("stages.{name}.{}", problem.path)
            };
            let field = if problem.path.is_empty() { name } else { &problem.path };
            faults.add(&path, format!("`{field}`: {}", problem.message), problem.hint);
        }
    }
    let edges = name_inputs(&mut pipeline, &mut faults);
    let results = folder.join("out").join(&pipeline.name);
    across::check(&pipeline, &results, &edges, &mut faults);
    let order = order(&pipeline, &edges, &mut faults);
    if !faults.list.is_empty() {
        faults.list.sort_by_key(|fault| fault.place.as_ref().map(|place| (place.source, place.range.start)));
        return Err(faults.list);
    }
    let stages = order
        .iter()
        .filter_map(|&old| {
            let (name, stage) = pipeline.stages.get_index(old)?;
            let upstream = edges[old]
                .iter()
                .filter_map(|(role, from)| Some(Upstream { role, stage: order.iter().position(|old| old == from)? }))
                .collect();
            Some(ResolvedStage { name: name.clone(), stage: stage.clone(), upstream })
        })
        .collect();
    Ok(Resolved { pipeline, folder, results, stages, hub })
}

/// What is wrong, as far as it was found.
pub(super) struct Faults<'c> {
    composed: &'c Composed,
    list: Vec<Diagnostic>,
}

impl Faults<'_> {
    /// Adds what is wrong with the value at a path.
    pub(super) fn add(&mut self, path: &str, message: String, hint: impl Into<Option<String>>) {
        self.list.push(Diagnostic::new(message, Some(self.composed.place(path))).hint(hint));
    }
}

/// Stages of a pipeline at most: what is found out about them takes time by their number's square.
pub(super) const MOST_STAGES: usize = 1000;

fn check_names(pipeline: &Pipeline, faults: &mut Faults<'_>) {
    if !is_plain_name(&pipeline.name) {
        let message = format!("`{}` can't name a folder everywhere", pipeline.name);
        faults.add("name", message, PLAIN_NAME.to_owned());
    }
    if pipeline.stages.is_empty() {
        faults.add("stages", "there is no stage".to_owned(), "start from `sd3pipe init`".to_owned());
    }
    let is_field =
        |name: &str| ["name", "model", "device", "devices", "store", "grid", "report", "stages"].contains(&name);
    for name in pipeline.stages.keys() {
        // What `plan --resolved` prints of a grid can be run again.
        let (base, point) = base_and_point(name);
        if is_plain_name(base) && !is_field(base) && point.is_none_or(grid::is_point) {
            continue;
        }
        let message = format!("`{name}` can't name a stage");
        faults.add(&format!("stages.{name}"), message, format!("{PLAIN_NAME}, and no field of the pipeline"));
    }
    let kinds = [Kind::Train, Kind::Export, Kind::Sample];
    for (index, (name, stage)) in
        pipeline.stages.iter().enumerate().filter(|(_, (_, stage))| kinds.contains(&stage.kind()))
    {
        let mut earlier = pipeline.stages.iter().take(index).filter(|(_, other)| other.kind() == stage.kind());
        if let Some((other, _)) = earlier.find(|(other, _)| other.to_lowercase() == name.to_lowercase()) {
            let message = format!("`{other}` and `{name}` would share a folder on Windows and macOS");
            faults.add(&format!("stages.{name}"), message, "give one of them another name".to_owned());
        }
    }
}

/// What data lies in.
const FOLDER: &str = "folder";

/// Makes each path absolute, from the folder of its text, and looks what is there. An address becomes the file in the cache, if there.
fn resolve_paths(pipeline: &mut Pipeline, sources: &Sources, there: bool, faults: &mut Faults<'_>) -> Vec<HubFile> {
    let (mut hub, cache) = (Vec::new(), Cache::of_user());
    let mut resolve = |field: String, path: &mut PathBuf, expected: &str, found: fn(&Path) -> bool| {
        let place = faults.composed.place(&field);
        match Address::parse(path).filter(|_| expected != FOLDER) {
            Some(Ok(address)) => {
                let found = cache.as_ref().and_then(|cache| cache.find(&address));
                found.iter().for_each(|found| path.clone_from(found));
                return hub.push(HubFile { field, address, found });
            }
            Some(Err(hint)) => {
                let message = format!("`{}` is no address of a file at Hugging Face", path.display());
                return faults.list.push(Diagnostic::new(message, Some(place)).hint(hint.to_owned()));
            }
            None => {}
        }
        let joined = sources.get(place.source).folder.join(&*path);
        let absolute = std::path::absolute(&joined).unwrap_or(joined);
        if there && !found(&absolute) {
            let message = format!("there is no {expected} `{}`", path.display());
            faults.list.push(Diagnostic::new(message, Some(place)).hint(format!("looked for {}", absolute.display())));
        }
        *path = absolute;
    };
    for (field, path) in pipeline.model.paths_mut() {
        // A folder may be in diffusers' layout, which shows when it is opened.
        resolve(format!("model.{field}"), path, "file or folder", Path::exists);
    }
    for (name, stage) in &mut pipeline.stages {
        match stage {
            Stage::Captions(captions) => {
                for (index, dataset) in captions.data.iter_mut().enumerate() {
                    resolve(format!("stages.{name}.data[{index}].path"), &mut dataset.path, FOLDER, Path::is_dir);
                    if let Some(Masks::Folder(masks)) = &mut dataset.masks {
                        resolve(format!("stages.{name}.data[{index}].masks"), masks, FOLDER, Path::is_dir);
                    }
                }
            }
            Stage::Train(Train { init, method, .. }) => {
                if let Init::File(path) = init {
                    resolve(format!("stages.{name}.init"), path, "file or folder", Path::exists);
                }
                if let Method::LoRA(Lora { from: Some(path), .. }) = method {
                    resolve(format!("stages.{name}.method.from"), path, "file", Path::is_file);
                }
            }
            Stage::Sample(sample) => {
                let files = [
                    ("image", sample.image.as_mut().map(|image| &mut image.path)),
                    ("lora", sample.lora.as_mut().map(|lora| &mut lora.path)),
                ];
                for (field, path) in files {
                    path.into_iter()
                        .for_each(|path| resolve(format!("stages.{name}.{field}.path"), path, "file", Path::is_file));
                }
            }
            Stage::EncodeText(_) | Stage::EncodeImages(_) | Stage::Export(_) => {}
        }
    }
    hub
}

/// For each stage the stages that it reads, by their position in the file; inputs that were left out are filled in.
fn name_inputs(pipeline: &mut Pipeline, faults: &mut Faults<'_>) -> Vec<Vec<(&'static str, usize)>> {
    let all: Vec<(String, Kind)> = pipeline.stages.iter().map(|(name, stage)| (name.clone(), stage.kind())).collect();
    let mut edges = vec![Vec::new(); all.len()];
    for (reader, (name, stage)) in pipeline.stages.iter_mut().enumerate() {
        for input in stage.inputs() {
            let (role, kind) = (input.role, input.kind);
            let path = format!("stages.{name}.{role}");
            match input.named {
                Some(named) => match all.iter().position(|(other, _)| other == named) {
                    // A stage of the wrong kind may close a cycle: it is followed, so that the cycle is named too.
                    Some(index) => {
                        if all[index].1 != kind {
                            let message =
                                format!("`{named}` is {}, and `{role}` of `{name}` must be {kind}", all[index].1);
                            faults.add(&path, message, None);
                        }
                        edges[reader].push((role, index));
                    }
                    None => {
                        let hint = suggestion(
                            named,
                            all.iter().filter(|(_, other)| *other == kind).map(|(other, _)| other.as_str()),
                        );
                        faults.add(&path, format!("there is no stage `{named}`"), hint);
                    }
                },
                none => {
                    let mut candidates = (0..all.len()).filter(|&index| all[index].1 == kind);
                    match (candidates.next(), candidates.next()) {
                        (Some(index), None) => {
                            *none = Some(all[index].0.clone());
                            edges[reader].push((role, index));
                        }
                        (None, _) => {
                            faults.add(
                                &path,
                                format!("`{name}` needs a stage {kind}, and there is none"),
                                format!("add \"{role}\": {kind}(…)"),
                            );
                        }
                        (Some(_), Some(_)) => {
                            let message = format!("`{name}` could read from several stages {kind}");
                            let names: Vec<&str> = all
                                .iter()
                                .filter(|(_, other)| *other == kind)
                                .map(|(other, _)| other.as_str())
                                .collect();
                            faults.add(&path, message, format!("say which: {role}: \"{}\"", names.join("\" or \"")));
                        }
                    }
                }
            }
        }
    }
    edges
}

/// The stages in an order in which each comes after what it reads; a cycle is named from end to end.
fn order(pipeline: &Pipeline, edges: &[Vec<(&'static str, usize)>], faults: &mut Faults<'_>) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(edges.len());
    while order.len() < edges.len() {
        let ready = (0..edges.len())
            .filter(|index| !order.contains(index) && edges[*index].iter().all(|(_, above)| order.contains(above)))
            .min_by_key(|index| (pipeline.stages[*index].kind(), *index));
        match ready {
            Some(index) => order.push(index),
            None => {
                let mut path = Vec::new();
                let mut index = (0..edges.len()).find(|index| !order.contains(index)).unwrap_or_default();
                while !path.contains(&index) {
                    path.push(index);
                    match edges[index].iter().find(|(_, above)| !order.contains(above)) {
                        Some((_, above)) => index = *above,
                        None => return order,
                    }
                }
                let start = path.iter().position(|step| *step == index).unwrap_or_default();
                let name = |index: &usize| pipeline.stages.get_index(*index).map_or("", |(name, _)| name.as_str());
                let cycle: Vec<&str> = path[start..].iter().chain([&index]).map(name).collect();
                let message = format!("the stages read from each other in a circle: {}", cycle.join(" ← "));
                faults.add(
                    &format!("stages.{}", name(&index)),
                    message,
                    "one of them must read from another stage".to_owned(),
                );
                return order;
            }
        }
    }
    order
}
