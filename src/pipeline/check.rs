//! Everything about a pipeline that can be wrong while every value is well-formed; what passes is resolved.

use super::{
    compose::Composed,
    definition::Pipeline,
    diagnostic::{Diagnostic, suggestion},
    source::Sources,
};
use sd3pipe_stages::{
    adapter::parameters::{Lora, Method},
    captions::parameters::Masks,
    checkpoint::Component,
    export::parameters::{Epochs, Export, Layout, LoraForm, Weights},
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
    /// The stages, each after those that it reads from.
    pub stages: Vec<ResolvedStage>,
}

/// A stage with the stages that it reads from.
#[derive(Clone, Debug)]
pub struct ResolvedStage {
    /// What people call it.
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

impl Resolved {
    /// The index of a stage.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.name == name)
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

/// Checks everything and lists all that is wrong.
pub fn check(mut pipeline: Pipeline, composed: &Composed, sources: &Sources) -> Result<Resolved, Vec<Diagnostic>> {
    let mut faults = Faults { composed, list: Vec::new() };
    let folder = sources.get(0).folder.clone();
    if pipeline.stages.len() > MOST_STAGES {
        let message = format!("there are {} stages, and {MOST_STAGES} are the most", pipeline.stages.len());
        faults.add("stages", message, "make several pipelines of it: on one store they share what is equal".to_owned());
        return Err(faults.list);
    }
    check_names(&pipeline, &mut faults);
    resolve_paths(&mut pipeline, sources, &mut faults);
    if let Some(reason) = pipeline.device.missing() {
        faults.add("device", reason, "device: Auto takes what there is".to_owned());
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
    check_across(&pipeline, &folder.join("out").join(&pipeline.name), &edges, &mut faults);
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
    Ok(Resolved { pipeline, folder, stages })
}

struct Faults<'c> {
    composed: &'c Composed,
    list: Vec<Diagnostic>,
}

impl Faults<'_> {
    fn add(&mut self, path: &str, message: String, hint: impl Into<Option<String>>) {
        self.list.push(Diagnostic::new(message, Some(self.composed.place(path))).hint(hint));
    }
}

/// Bytes of a name at most: file systems end at 255, and files of `out/` have more than the pipeline's name in theirs.
const LONGEST_NAME: usize = 100;

/// What a plain name is, in words.
pub(crate) const PLAIN_NAME: &str = "letters, digits, `-` and `_`, at most 100 bytes";

/// Stages of a pipeline at most: what is found out about them takes time by their number's square.
const MOST_STAGES: usize = 1000;

/// Whether something may be called so that has a folder of its own in `out/`: such a name leads nowhere else.
pub(crate) fn is_plain_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
}

fn check_names(pipeline: &Pipeline, faults: &mut Faults<'_>) {
    if !is_plain_name(&pipeline.name) {
        let message = format!("`{}` can't name a folder everywhere", pipeline.name);
        faults.add("name", message, PLAIN_NAME.to_owned());
    }
    if pipeline.stages.is_empty() {
        faults.add("stages", "there is no stage".to_owned(), "start from `sd3pipe init`".to_owned());
    }
    for name in pipeline
        .stages
        .keys()
        .filter(|name| !is_plain_name(name) || ["name", "model", "device", "report", "stages"].contains(&name.as_str()))
    {
        let message = format!("`{name}` can't name a stage");
        faults.add(&format!("stages.{name}"), message, format!("{PLAIN_NAME}, and no field of the pipeline"));
    }
}

/// Makes each path absolute, from the folder of the text that it's written in, and looks whether something is there.
fn resolve_paths(pipeline: &mut Pipeline, sources: &Sources, faults: &mut Faults<'_>) {
    let mut resolve = |field: String, path: &mut PathBuf, expected: &str, found: fn(&Path) -> bool| {
        let place = faults.composed.place(&field);
        let joined = sources.get(place.source).folder.join(&*path);
        let absolute = std::path::absolute(&joined).unwrap_or(joined);
        if !found(&absolute) {
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
                    resolve(format!("stages.{name}.data[{index}].path"), &mut dataset.path, "folder", Path::is_dir);
                    if let Some(Masks::Folder(masks)) = &mut dataset.masks {
                        resolve(format!("stages.{name}.data[{index}].masks"), masks, "folder", Path::is_dir);
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
            _ => {}
        }
    }
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

/// What only shows when stages are seen together.
fn check_across(pipeline: &Pipeline, results: &Path, edges: &[Vec<(&'static str, usize)>], faults: &mut Faults<'_>) {
    for (index, (name, stage)) in pipeline.stages.iter().enumerate() {
        let above = |index: usize| edges[index].first().map(|(_, above)| &pipeline.stages[*above]);
        match stage {
            Stage::Export(export) => {
                if let Some(Stage::Train(train)) = above(index) {
                    for problem in export.epochs.problems("epochs", Some(train.epochs)) {
                        faults.add(&format!("stages.{name}.epochs"), problem.message, problem.hint);
                    }
                    check_lora_form(name, export, &train.method, faults);
                    check_choice(name, export, train, faults);
                }
            }
            Stage::Train(train) => {
                if let Init::File(path) = &train.init
                    && path.starts_with(results)
                {
                    let message = format!(
                        "`init` starts from what `{}` writes itself, which is other weights each time",
                        pipeline.name
                    );
                    let hint = "name the run that made it: init: Run(run: \"12\", epoch: 8)".to_owned();
                    faults.add(&format!("stages.{name}.init"), message, hint);
                }
                // Text and latents of different captions would pair one data set's pictures with another's words.
                let captions: Vec<_> = edges[index]
                    .iter()
                    .filter_map(|(_, above)| edges[*above].first())
                    .map(|(_, index)| index)
                    .collect();
                let regularises = |index: &usize| match &pipeline.stages[*index] {
                    Stage::Captions(captions) => captions.data.iter().any(|dataset| dataset.regularisation),
                    _ => true,
                };
                if train.prior_loss_weight != 1.0 && !captions.iter().any(|index| regularises(index)) {
                    let message = "`prior_loss_weight` has no effect without regularisation images".to_owned();
                    let hint = "leave it out, or add regularisation: true to one of the folders in `data`".to_owned();
                    faults.add(&format!("stages.{name}.prior_loss_weight"), message, hint);
                }
                if captions.windows(2).any(|pair| pair[0] != pair[1]) {
                    let message = format!("`{name}` reads texts and latents of different captions");
                    faults.add(&format!("stages.{name}"), message, "both must come from one Captions stage".to_owned());
                }
            }
            _ => {}
        }
    }
    let has_text = pipeline.stages.values().any(|stage| matches!(stage, Stage::EncodeText(_) | Stage::Sample(_)));
    if has_text && pipeline.model.file(Component::T5).1 && pipeline.model.t5_tokenizer().is_none() {
        let hint = "model: (…, tokenizers: (t5: \"spiece.model\"))".to_owned();
        faults.add("model.t5xxl", "a T5 encoder needs its tokenizer".to_owned(), hint);
    }
}

/// What an export asks for must be what the training keeps.
fn check_choice(name: &str, export: &Export, train: &Train, faults: &mut Faults<'_>) {
    let mut lacks = |field: &str, message: &str, hint: &str| {
        faults.add(&format!("stages.{name}.{field}"), format!("`{field}`: {message}"), hint.to_owned());
    };
    if export.epochs == Epochs::Best && train.validation.is_none() {
        lacks("epochs", "only validation can tell which epoch is the best", "add to Train: validation: (share: 0.1)");
    }
    if export.weights == Weights::Average && train.average.is_none() {
        lacks("weights", "the training keeps no average", "add to Train: average: (decay: 0.9999)");
    }
}

/// Fields of an export that say nothing for this kind of training.
fn check_lora_form(name: &str, export: &Export, method: &Method, faults: &mut Faults<'_>) {
    let mut without_effect = |field: &str, why: &str, hint: &str| {
        faults.add(&format!("stages.{name}.{field}"), format!("`{field}` has no effect: {why}"), hint.to_owned());
    };
    match (method, &export.lora) {
        (Method::Full, Some(_)) => {
            without_effect("lora", "the training has no adapter", "leave it out, or train with method: LoRA()");
        }
        (Method::LoRA(_), None | Some(LoraForm::Kohya | LoraForm::Diffusers | LoraForm::Both)) => {
            let why = "the adapter alone is written";
            let hint = "leave it out, or merge the adapter into the model: lora: Merged(1.0)";
            if export.layout != Layout::SingleFile {
                without_effect("layout", why, hint);
            }
            if export.text_encoders {
                without_effect("text_encoders", why, hint);
            }
        }
        (Method::LoRA(lora), Some(LoraForm::Merged(_))) if !export.text_encoders && lora.clips().next().is_some() => {
            let message = "the adapter is one of the CLIPs too, and a checkpoint without them would lose that";
            let hint = "put them inside: text_encoders: true".to_owned();
            faults.add(&format!("stages.{name}.lora"), message.to_owned(), hint);
        }
        _ => {}
    }
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
