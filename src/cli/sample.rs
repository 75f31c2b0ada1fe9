//! `sd3pipe sample`: draws with checkpoints that a run has trained, and trains nothing.

use super::{Failure, StorePlace, progress, run};
use crate::{
    pipeline::{self, Resolved, ResolvedStage, Upstream, is_at},
    plan::{EpochLosses, StageResult},
    run::{Journal, Options},
};
use clap::Args;
use sd3pipe_cache::{Digest, Run, Store};
use sd3pipe_stages::{
    adapter::parameters::Method,
    export::parameters::{Epochs, Export, LoraForm},
    sample::parameters::{AddedLora, Sample as Parameters, Sampler, SkipLayers, StartImage},
    stage::{Kind, Stage},
    train::ADAPTER,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(super) struct Sample {
    /// What has trained: the number of a run, `last`, the name of a pipeline, or its file. Of a pipeline the newest run that has trained.
    /// The point of a grid stands behind it: `last@learning_rate=1e-4`.
    of: String,
    /// The pipeline file, or the folder that it lies in: its store is meant, and `out/` beside it.
    #[arg(default_value = ".")]
    location: PathBuf,
    #[command(flatten)]
    place: StorePlace,
    /// The export to draw with, when the run has several.
    #[arg(long, value_name = "STAGE")]
    export: Option<String>,
    /// An epoch to draw with: its number, `last`, or `best` on what is held out. May be given several times [default: last].
    #[arg(long, value_name = "EPOCH")]
    epoch: Vec<String>,
    /// What to draw. May be given several times [default: the prompts of the run].
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// One image a prompt for each. May be given several times [default: the seeds of the run].
    #[arg(long, value_name = "NUMBER")]
    seed: Vec<u64>,
    /// What to steer away from.
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// Strength of classifier-free guidance.
    #[arg(long)]
    cfg: Option<f64>,
    /// Steps of the sampler.
    #[arg(long)]
    steps: Option<u32>,
    /// Width and height in pixels: `1024x768`.
    #[arg(long, value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// How a step is taken: `euler` or `dpm2m`.
    #[arg(long, value_parser = parse_sampler)]
    sampler: Option<Sampler>,
    /// Guides away from what the network draws without these blocks: `7,8,9` for SD3.5-medium.
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    skip_layers: Vec<u32>,
    /// A picture to start from.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The share of the steps that are taken from that picture [default: 0.6].
    #[arg(long, requires = "image")]
    strength: Option<f64>,
    /// An adapter of any origin to add to each checkpoint.
    #[arg(long, value_name = "FILE")]
    lora: Option<PathBuf>,
    /// How often that is added [default: 1].
    #[arg(long, requires = "lora", allow_negative_numbers = true)]
    lora_strength: Option<f64>,
    /// The strength of the adapter that the run has trained [default: 1].
    #[arg(long, value_name = "STRENGTH", allow_negative_numbers = true)]
    trained_strength: Option<f64>,
    /// Images that a GPU draws at once.
    #[arg(long)]
    batch: Option<u32>,
    /// Draws with the untrained model too.
    #[arg(long)]
    base: bool,
    /// Where the images go [default: a folder `samples-…` among the results of the pipeline].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    sides.ok_or_else(|| format!("`{text}` is no size: give one as `1024x768`"))
}

fn parse_sampler(text: &str) -> Result<Sampler, String> {
    match text.to_lowercase().as_str() {
        "euler" => Ok(Sampler::Euler),
        "dpm2m" => Ok(Sampler::Dpm2m),
        _ => Err(format!("`{text}` is no sampler: `euler` and `dpm2m` are")),
    }
}

impl Sample {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (of, point) = pipeline::base_and_point(&self.of);
        let file = Path::new(of).is_file();
        let beside = if file { Path::new(of) } else { self.location.as_path() };
        let beside = if beside.is_dir() { beside } else { beside.parent().unwrap_or(Path::new("")) };
        let name = match file {
            true => pipeline::load(Path::new(of), &[])?.pipeline.name,
            false => of.to_owned(),
        };
        let folder = self.place.folder_at(if file { Path::new(of) } else { &self.location });
        if Store::open_read_only(&folder)?.is_none() {
            let hint = "name the pipeline file, or the store with --store";
            return Err(Failure::Usage(format!("there is no store at {}\nhint: {hint}", folder.display())));
        }
        sd3pipe_stages::device::keep_kernels(&folder);
        let store = Store::open(&folder)?;
        let of = find(&store, &name)?;
        let journal = journal(&of);
        let beside = std::path::absolute(beside).unwrap_or_else(|_| beside.to_owned());
        let mut resolved = pipeline::read(&format!("the pipeline of run {}", of.id), &journal.pipeline, &beside)?;
        let export = self.export(&resolved, &of, point)?;
        let is_above = |stage: &ResolvedStage| stage.stage.kind() < Kind::Export;
        let given =
            resolved.stages.iter().enumerate().filter(|(_, stage)| is_above(stage)).filter_map(|(index, stage)| {
                let made = journal.stages.iter().find(|entry| entry.name == stage.name)?;
                Some((index, made.result?))
            });
        let given: BTreeMap<usize, Digest> = given.collect();
        let training = resolved.stages[export].upstream.first().map(|upstream| upstream.stage).unwrap_or_default();
        let name = resolved.stages[training].name.clone();
        let trained = *given
            .get(&training)
            .ok_or_else(|| Failure::Usage(format!("{name} of run {} did not come to its end", of.id)))?;
        let epochs = self.epochs(&name, trained, &of, &store)?;
        let parameters = self.parameters(&resolved, export, training)?;

        let request = serde_json::json!([trained.to_string(), epochs, parameters]);
        let short = Digest::of(request.to_string().as_bytes()).short();
        let label = short.trim_end_matches('…').to_owned();
        resolved.results = match self.out {
            Some(out) => std::path::absolute(&out).unwrap_or(out),
            None => resolved.results.join(format!("samples-{label}")),
        };
        // The stages of the run up to its export, of these epochs alone, and then this one.
        resolved.stages.retain(|stage| stage.stage.kind() != Kind::Sample);
        if let Stage::Export(export) = &mut resolved.stages[export].stage {
            export.epochs = Epochs::Only(epochs);
        }
        let upstream = vec![Upstream { role: "export", stage: export }];
        let parameters = Parameters { export: Some(resolved.stages[export].name.clone()), ..parameters };
        resolved.stages.push(ResolvedStage { name: "samples".to_owned(), stage: Stage::Sample(parameters), upstream });
        resolved.pipeline.stages =
            resolved.stages.iter().map(|stage| (stage.name.clone(), stage.stage.clone())).collect();
        let options = Options {
            until: [resolved.stages.len() - 1].into(),
            given,
            undelivered: [export].into(),
            ..Options::default()
        };
        // A pipeline of its own among the runs, so that the last run of the real one stays what it was.
        let name = format!("{} samples", resolved.pipeline.name);
        run::carry_out(&resolved, &store, options, &name, Default::default(), &*progress::new(), &Default::default())
    }

    /// The index of the export to draw with.
    fn export(&self, resolved: &Resolved, of: &Run, point: Option<&str>) -> Result<usize, Failure> {
        let is_meant = |stage: &ResolvedStage| {
            let at = stage.base_and_point().1;
            stage.stage.kind() == Kind::Export
                && self.export.as_ref().is_none_or(|name| *name == stage.name || *name == stage.base_and_point().0)
                && point.is_none_or(|point| at.is_some_and(|at| is_at(at, point)))
        };
        let meant: Vec<usize> = (0..resolved.stages.len()).filter(|index| is_meant(&resolved.stages[*index])).collect();
        let exports = resolved.stages.iter().filter(|stage| stage.stage.kind() == Kind::Export);
        let names: Vec<String> = exports.map(|stage| format!("--export {}", stage.name)).collect();
        let refuse = |what: &str, hint: String| Failure::Usage(format!("run {} has {what}\nhint: {hint}", of.id));
        match &meant[..] {
            [only] => Ok(*only),
            _ if names.is_empty() => {
                let hint = "only what is exported can be drawn with: add \"export\": Export() to the pipeline";
                Err(refuse("no stage Export", hint.to_owned()))
            }
            [] => Err(refuse("no such export", format!("say which: {}", names.join(" or ")))),
            _ => Err(refuse("several exports", format!("say which: {}", names.join(" or ")))),
        }
    }

    /// The epochs to draw with, which the training must have, and the store too.
    fn epochs(&self, training: &str, trained: Digest, of: &Run, store: &Store) -> Result<Vec<u32>, Failure> {
        let fault = |error| Failure::plan(training, error);
        let artifact = StageResult::stored(trained).artifact(Some(store)).map_err(fault)?;
        let trained_weights =
            || artifact.entries.iter().filter(|entry| ["weights", ADAPTER].contains(&entry.role.as_str()));
        let there: Vec<u32> = trained_weights().filter_map(|entry| entry.item.parse().ok()).collect();
        let last = there.iter().copied().max().unwrap_or_default();
        let usual = vec!["last".to_owned()];
        let mut epochs = Vec::new();
        for epoch in if self.epoch.is_empty() { &usual } else { &self.epoch } {
            let number = match epoch.as_str() {
                "last" => last,
                "best" => {
                    let losses = EpochLosses::of(trained, store).map_err(fault)?;
                    let hint = "only validation can tell: add to Train: validation: (share: 0.1)";
                    let none =
                        || Failure::Usage(format!("no epoch of {training} is known to be the best\nhint: {hint}"));
                    EpochLosses::best(&losses).ok_or_else(none)?.0
                }
                other => other.parse().ok().filter(|epoch| there.contains(epoch)).ok_or_else(|| {
                    let hint = format!("it has 1 to {last}; `last` and `best` are words too");
                    Failure::Usage(format!("there is no epoch {other} of {training} in run {}\nhint: {hint}", of.id))
                })?,
            };
            let weights = trained_weights().find(|entry| entry.item == number.to_string());
            if !weights.is_some_and(|entry| store.has(&entry.digest, entry.length)) {
                let hint = format!("`sd3pipe run … --force {training}` makes them again");
                let message =
                    format!("the weights of epoch {number} of {training} are not in the store any more\nhint: {hint}");
                return Err(Failure::Usage(message));
            }
            epochs.push(number);
        }
        epochs.sort_unstable();
        epochs.dedup();
        Ok(epochs)
    }

    /// How to draw: as the run does, but for what is asked.
    fn parameters(&self, resolved: &Resolved, export: usize, training: usize) -> Result<Parameters, Failure> {
        let reads = |stage: &&ResolvedStage| stage.upstream.iter().any(|upstream| upstream.stage == export);
        let of_run = resolved.stages.iter().filter(reads).find_map(|stage| match &stage.stage {
            Stage::Sample(parameters) => Some(parameters.clone()),
            _ => None,
        });
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let mut parameters = of_run.unwrap_or_else(|| as_trained(resolved, training));
        let own = parameters.clone();
        parameters.epochs = Epochs::All;
        parameters.base = self.base;
        parameters.prompts = if self.prompt.is_empty() { own.prompts } else { self.prompt.clone() };
        parameters.seeds = if self.seed.is_empty() { own.seeds } else { self.seed.clone() };
        parameters.negative = self.negative.clone().unwrap_or(own.negative);
        parameters.cfg = self.cfg.unwrap_or(own.cfg);
        parameters.steps = self.steps.unwrap_or(own.steps);
        parameters.size = self.size.unwrap_or(own.size);
        parameters.sampler = self.sampler.unwrap_or(own.sampler);
        parameters.lora_strength = self.trained_strength.unwrap_or(own.lora_strength);
        parameters.batch = self.batch.unwrap_or(own.batch);
        if !self.skip_layers.is_empty() {
            let usual = own.skip_layers.unwrap_or_default();
            parameters.skip_layers = Some(SkipLayers { layers: self.skip_layers.clone(), ..usual });
        }
        if let Some(image) = &self.image {
            parameters.image = Some(StartImage { path: absolute(image), strength: self.strength.unwrap_or(0.6) });
        }
        if let Some(lora) = &self.lora {
            parameters.lora = Some(AddedLora { path: absolute(lora), strength: self.lora_strength.unwrap_or(1.0) });
        }
        let files = [self.image.as_ref(), self.lora.as_ref()];
        if let Some(path) = files.into_iter().flatten().find(|path| !path.is_file()) {
            return Err(Failure::Usage(format!("there is no file {}", path.display())));
        }
        let adapts = matches!(&resolved.stages[training].stage, Stage::Train(train) if train.method != Method::Full);
        let merges =
            matches!(resolved.stages[export].stage, Stage::Export(Export { lora: Some(LoraForm::Merged(_)), .. }));
        if self.trained_strength.is_some() && (!adapts || merges) {
            let what = if adapts { "exports its adapter merged into the model" } else { "has trained no adapter" };
            let message = format!("--trained-strength has no effect: the run {what}\nhint: leave it out");
            return Err(Failure::Usage(message));
        }
        let problems = parameters.problems();
        if problems.is_empty() {
            return Ok(parameters);
        }
        let said = problems.into_iter().map(|problem| {
            let hint = problem.hint.map_or(String::new(), |hint| format!("\nhint: {hint}"));
            format!("`{}`: {}{hint}", problem.path, problem.message)
        });
        Err(Failure::Usage(said.collect::<Vec<_>>().join("\nerror: ")))
    }
}

/// How to draw where the run does not: at the size, and with the texts, that were trained.
fn as_trained(resolved: &Resolved, training: usize) -> Parameters {
    let mut parameters = Parameters::default();
    for upstream in &resolved.stages[training].upstream {
        match &resolved.stages[upstream.stage].stage {
            Stage::EncodeText(text) => {
                (parameters.t5_tokens, parameters.precision) = (text.t5_tokens, text.precision);
            }
            Stage::EncodeImages(images) => parameters.size = (images.resolution.width, images.resolution.height),
            _ => {}
        }
    }
    parameters
}

/// What a run wrote down of itself.
fn journal(run: &Run) -> Journal {
    serde_json::from_value(run.document.clone()).unwrap_or_default()
}

/// The run that was asked for, by its number, or the newest of those that have trained: of all, or of a pipeline.
fn find(store: &Store, name: &str) -> Result<Run, Failure> {
    let train = Kind::Train.to_string();
    let trained = |run: &Run| journal(run).stages.iter().any(|stage| stage.kind == train && stage.result.is_some());
    let run = match name.trim_start_matches('#').parse() {
        Ok(id) => store.run(id)?.filter(trained),
        Err(_) => {
            let is_meant = |run: &Run| (name == "last" || run.pipeline == name) && trained(run);
            store.runs(usize::MAX)?.into_iter().find(is_meant)
        }
    };
    run.ok_or_else(|| {
        let hint = "`sd3pipe runs` lists the runs; a pipeline is meant by its name or its file";
        Failure::Usage(format!("there is no run `{name}` in this store that has trained\nhint: {hint}"))
    })
}
