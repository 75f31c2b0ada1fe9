//! What a job will put into the store, told before it runs: by the arithmetic of the formats, and never too little.

use crate::{
    action::Action,
    adapter::{ALPHA, Place, parameters::Method, places},
    captions::report::CLIP_TOKENS,
    checkpoint::{Component, Dtype, mmdit_names},
    error::StageError,
    export::{
        ENCODER_FILE, ExportJob, LORA_DIFFUSERS, LORA_KOHYA, TRANSFORMER_FILE, encoder_folder,
        job::model,
        parameters::{Layout, LoraForm},
    },
    facts::Facts,
    images::{ImagesJob, MASK_TENSOR, Made},
    job::Job,
    precision::Precision,
    sample::{SAMPLE_LATENTS, SampleJob},
    tensors::{file_length, mixed_file_length},
    text::TextJob,
    train::{
        TrainJob,
        average::AVERAGE,
        optimizer::{Course, Optimizer},
        validation::VALIDATION,
    },
};
use sd3pipe_cache::{Digest, Output};
use std::{collections::BTreeMap, path::Path};

/// What the missing actions of a job will write.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// What each action will put out, in the order of the indices that were given. The digests are made up, and equal where the
    /// objects will be; the lengths are exact, but upper bounds for losses, PNGs and the files of diffusers folders.
    pub outputs: Vec<Vec<Output>>,
    /// Bytes that the store holds beside that for a while: the state of an unfinished epoch while a newer one takes its place.
    pub passing: u64,
}

/// Names and shapes.
type Shapes = Vec<(String, Vec<usize>)>;

/// The longest JSON of a number.
const LONGEST_NUMBER: usize = 24;

/// The longest JSON of what is measured in a step: four numbers, and their names.
const MEASURED: u64 = 160;

impl Job {
    /// What some of the actions, given by their indices, will write; `known` is what the store has of each action, nothing for these.
    ///
    /// # Errors
    /// When a file of the model can't be looked at.
    pub fn forecast(&self, missing: &[usize], known: &[Vec<Output>]) -> Result<Forecast, StageError> {
        match self {
            Self::Text(job) => text(job, missing),
            Self::Images(job) => images(job, missing),
            Self::Train(job) => train(job, missing),
            Self::Export(job) => export(job, missing, known),
            Self::Sample(job) => sample(job, missing),
        }
    }
}

/// An output with a digest that stands for it: two are the same object if role, item and what it is made of are equal.
fn expected(role: &str, item: &str, made_of: &str, length: u64) -> Output {
    let digest = Digest::of(format!("expected {role} of {made_of}").as_bytes());
    Output { role: role.to_owned(), item: item.to_owned(), digest, length, content: None }
}

fn of_action(role: &str, item: &str, action: &Action, length: u64) -> Output {
    expected(role, item, &action.key.to_string(), length)
}

fn one_each(missing: &[usize], output: impl Fn(usize) -> Result<Output, StageError>) -> Result<Forecast, StageError> {
    let outputs = missing.iter().map(|index| Ok(vec![output(*index)?])).collect::<Result<_, StageError>>()?;
    Ok(Forecast { outputs, passing: 0 })
}

/// Names and shapes of what [`Encoded`](crate::text::Encoded) keeps of a text.
fn text(job: &TextJob, missing: &[usize]) -> Result<Forecast, StageError> {
    let mut shapes = Shapes::new();
    for (component, name) in [(Component::ClipL, "clip_l"), (Component::ClipG, "clip_g"), (Component::T5, "t5")] {
        let Some(source) = job.facts.open(component)? else { continue };
        let side = |tensor: &str, index: usize| source.shape(tensor).and_then(|shape| shape.get(index)).copied();
        if component == Component::T5 {
            let width = side("shared.weight", 1).unwrap_or_default();
            shapes.push((format!("{name}.states"), vec![job.parameters.t5_tokens as usize, width]));
        } else {
            let width = side("text_model.embeddings.token_embedding.weight", 1).unwrap_or_default();
            shapes.push((format!("{name}.states"), vec![CLIP_TOKENS, width]));
            shapes.push((format!("{name}.pooled"), vec![side("text_projection.weight", 0).unwrap_or(width)]));
        }
    }
    let length = file_length(shapes, job.parameters.precision, &BTreeMap::new())?;
    one_each(missing, |index| Ok(of_action("text", &job.texts[index], &job.actions[index], length)))
}

fn images(job: &ImagesJob, missing: &[usize]) -> Result<Forecast, StageError> {
    one_each(missing, |index| {
        let (picture, action) = (&job.pictures[index], &job.actions[index]);
        let (width, height) = picture.placement.bucket;
        let cells = [height as usize / 8, width as usize / 8];
        let length = if picture.made == Made::Latents {
            let shape = [&[job.facts.geometry.channels][..], &cells].concat();
            let note =
                serde_json::to_string(&picture.placement).map_err(|error| StageError::Unfit(error.to_string()))?;
            let shapes = ["mean", "log_variance"].map(|name| (name.to_owned(), shape.clone()));
            file_length(shapes, job.parameters.precision, &[("placement".to_owned(), note)].into())?
        } else {
            file_length([(MASK_TENSOR.to_owned(), cells.to_vec())], Precision::F32, &BTreeMap::new())?
        };
        Ok(of_action(picture.role(), &action.label, action, length))
    })
}

fn train(job: &TrainJob, missing: &[usize]) -> Result<Forecast, StageError> {
    let tensors = job.parameters.tensors(&job.facts.geometry, &job.facts.clips)?.into_iter();
    let weights = match job.parameters.method {
        Method::Full => file_length(tensors, job.parameters.precision, &BTreeMap::new())?,
        Method::LoRA(_) => {
            let alphas = job.adapter.iter().map(|place| (format!("{}{ALPHA}", place.site), Vec::new()));
            file_length(tensors.chain(alphas), Precision::F32, &BTreeMap::new())?
        }
    };
    let losses = job.steps_per_epoch() * MEASURED + 2;
    let (state, last) = (state_length(job)?, missing.iter().filter(|index| **index < job.epochs()).max());
    let outputs = missing.iter().map(|index| {
        let (action, epoch) = (&job.actions[*index], (job.epoch_of(*index) + 1).to_string());
        if *index >= job.epochs() {
            return vec![of_action(VALIDATION, &epoch, action, report_bound(job))];
        }
        let mut outputs = vec![of_action(job.role(), &epoch, action, weights)];
        outputs.extend(job.parameters.average.map(|_| of_action(AVERAGE, &epoch, action, weights)));
        outputs.push(of_action("losses", &epoch, action, losses));
        // Only the last one's: more epochs go on from it.
        if Some(index) == last {
            outputs.push(of_action("state", &epoch, action, state));
        }
        outputs
    });
    // How often is a matter of time.
    let saves = missing.len() > 1 || u64::from(job.parameters.save_every) < job.steps_per_epoch();
    // At the worst moment two unfinished states lie there, and the finished one does not yet.
    Ok(Forecast { outputs: outputs.collect(), passing: if saves { state + losses } else { 0 } })
}

/// No report of a validation is longer.
fn report_bound(job: &TrainJob) -> u64 {
    const NAMES: usize = 512;
    let timesteps = job.parameters.validation.as_ref().map_or(0, |validation| validation.timesteps.len());
    // The timesteps, and the losses of both kinds of weights on both kinds of images with their means and numbers.
    ((5 * timesteps + 16) * LONGEST_NUMBER + NAMES) as u64
}

/// The state between two epochs: see [`State`](crate::train::State).
fn state_length(job: &TrainJob) -> Result<u64, StageError> {
    let parameters = &job.parameters;
    let of_tensor = |(name, shape): (String, Vec<usize>)| {
        let kept = if parameters.trains(&name) { parameters.optimizer.keeps(&shape) } else { Vec::new() };
        let kept = kept.into_iter().map(|(kind, dtype, count)| (format!("{kind}/{name}"), dtype, vec![count]));
        let mut kept: Vec<_> = kept.collect();
        if parameters.average.is_some() && parameters.trains(&name) {
            kept.push((format!("{AVERAGE}/{name}"), Dtype::F32, shape.clone()));
        }
        let weight = (format!("weights/{name}"), parameters.kept_in(&name).dtype(), shape);
        std::iter::once(weight).chain(kept)
    };
    let tensors = parameters.tensors(&job.facts.geometry, &job.facts.clips)?.into_iter().flat_map(of_tensor);
    let position = format!("{{\"epoch\":{},\"steps\":0,\"measured\":[]}}", parameters.epochs);
    let mut course = serde_json::to_string(&Course::default()).map_err(|error| StageError::Unfit(error.to_string()))?;
    if matches!(parameters.optimizer, Optimizer::Prodigy(_) | Optimizer::AdamWScheduleFree(_)) {
        // Its eight numbers are 0 at first.
        course.extend(std::iter::repeat_n('0', 8 * LONGEST_NUMBER));
    }
    mixed_file_length(tensors, &[("position".to_owned(), position), ("course".to_owned(), course)].into())
}

/// Names and shapes of a network of the model, none if the model has no such network.
fn network(facts: &Facts, component: Component) -> Result<Shapes, StageError> {
    let Some(source) = facts.open(component)? else { return Ok(Shapes::new()) };
    let named =
        |(name, view): (&str, crate::checkpoint::TensorView<'_>)| (format!("{}{name}", component.prefix()), view.shape);
    Ok(source.tensors().map(named).collect())
}

fn export(job: &ExportJob, missing: &[usize], known: &[Vec<Output>]) -> Result<Forecast, StageError> {
    let prefix = Component::Mmdit.prefix();
    let trained: Shapes =
        mmdit_names(&job.facts.geometry).into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect();
    let mut others = Vec::new();
    for component in job.others() {
        others.push((component, network(&job.facts, component)?));
    }
    let checkpoint = |index: usize, role: &str, item: &str, length: u64| {
        let mut output = of_action(role, item, &job.actions[index], length);
        output.content = Some(output.digest);
        output
    };
    let notes = |index: usize| {
        let (epoch, weights) = &job.checkpoints[index];
        job.metadata(*epoch, &weights.digest)
    };
    let form = missing.iter().find_map(|index| job.form(*index));
    if let (Some(adapter), Some(form @ (LoraForm::Kohya | LoraForm::Diffusers | LoraForm::Both))) = (&job.adapter, form)
    {
        let bound = adapter_bound(&places(adapter, &job.facts.geometry, &job.facts.clips)?);
        let outputs = missing.iter().map(|&index| {
            let epoch = job.checkpoints[index].0.to_string();
            let kohya = (form != LoraForm::Diffusers).then(|| checkpoint(index, LORA_KOHYA, &epoch, bound));
            let diffusers = (form != LoraForm::Kohya).then(|| checkpoint(index, LORA_DIFFUSERS, &epoch, bound));
            kohya.into_iter().chain(diffusers).collect()
        });
        return Ok(Forecast { outputs: outputs.collect(), passing: 0 });
    }
    if job.parameters.layout == Layout::SingleFile {
        let all: Shapes = trained.into_iter().chain(others.into_iter().flat_map(|(_, shapes)| shapes)).collect();
        return one_each(missing, |index| {
            let length = file_length(all.clone(), job.parameters.precision, &notes(index))?;
            Ok(checkpoint(index, "checkpoint", &job.checkpoints[index].0.to_string(), length))
        });
    }
    let own: Vec<(String, Component, &Shapes)> = others
        .iter()
        .filter(|(component, _)| job.trains(*component))
        .map(|(component, shapes)| (format!("{}/{ENCODER_FILE}", encoder_folder(*component)), *component, shapes))
        .collect();
    let common = match known.iter().find(|outputs| !outputs.is_empty()) {
        // Another epoch has brought them into the store.
        Some(outputs) => outputs.clone(),
        None => common_files(job, &others)?,
    };
    let outputs = missing.iter().map(|&index| {
        let epoch = job.checkpoints[index].0;
        let length = folder_file(&trained, job.parameters.precision, &notes(index))?;
        let mut outputs = vec![checkpoint(index, "file", &format!("{epoch}/{TRANSFORMER_FILE}"), length)];
        for (name, component, shapes) in &own {
            let length = encoder_file(job, *component, shapes, &notes(index))?;
            outputs.push(of_action("file", &format!("{epoch}/{name}"), &job.actions[index], length));
        }
        outputs.extend(common.iter().filter_map(|file| {
            let (_, name) = file.item.split_once('/')?;
            let common = name != TRANSFORMER_FILE && own.iter().all(|(own, ..)| name != own);
            common.then(|| Output { item: format!("{epoch}/{name}"), ..file.clone() })
        }));
        Ok(outputs)
    });
    Ok(Forecast { outputs: outputs.collect::<Result<_, StageError>>()?, passing: 0 })
}

/// No file of an adapter is longer, whatever its form and precision: what reads is there three times at most, what writes is as wide
/// as the largest rank or as those of three thirds together, and as long as three thirds.
fn adapter_bound(places: &[Place]) -> u64 {
    let rank = places.iter().map(|place| place.rank).max().unwrap_or_default();
    let values = |place: &Place| 3 * rank * (place.inputs + 3 * place.outputs) + place.outputs;
    let values: usize = places.iter().map(values).sum();
    (4 * values) as u64 + HEADER_OF_PLACE * places.len() as u64 + NOTES
}

/// Bytes of a header for all tensors of one place, and those of its notes.
const HEADER_OF_PLACE: u64 = 1600;
const NOTES: u64 = 8192;

/// A configuration file of a diffusers folder is shorter.
const CONFIGURATION: u64 = 4096;

/// What the header of a diffusers file has more than one with canonical names: each name may become three, and they are longer.
const LONGER_NAMES: u64 = 400;

fn folder_file(shapes: &Shapes, precision: Precision, notes: &BTreeMap<String, String>) -> Result<u64, StageError> {
    Ok(file_length(shapes.iter().cloned(), precision, notes)? + LONGER_NAMES * shapes.len() as u64)
}

/// The bytes of a text encoder's weights, or of half a VAE's, in a diffusers folder. CLIP-L may get a projection that its file leaves out.
fn encoder_file(
    job: &ExportJob,
    component: Component,
    shapes: &Shapes,
    notes: &BTreeMap<String, String>,
) -> Result<u64, StageError> {
    let width = shapes.iter().find(|(name, _)| name.ends_with("token_embedding.weight"));
    let width = width.and_then(|(_, shape)| shape.get(1)).copied().unwrap_or_default();
    let projection = (width * width * job.parameters.precision.bytes()) as u64;
    let projection = if component == Component::ClipL { projection } else { 0 };
    Ok(folder_file(shapes, job.parameters.precision, notes)? + projection)
}

/// The files of a diffusers folder that are the same for every epoch, with bounds of their lengths: a folder's small files as one.
fn common_files(job: &ExportJob, others: &[(Component, Shapes)]) -> Result<Vec<Output>, StageError> {
    let mut files = vec![("configuration".to_owned(), 10 * CONFIGURATION)];
    for (component, shapes) in others.iter().filter(|(component, _)| !job.trains(*component)) {
        files.push((component.to_string(), encoder_file(job, *component, shapes, &BTreeMap::new())?));
    }
    let mut tokenizer = |name: &str, path: Option<&Path>| {
        files.extend(path.map(|path| (name.to_owned(), folder_length(path))));
    };
    let facts = &job.facts;
    tokenizer("tokenizer", facts.clip_tokenizer.path.as_deref());
    tokenizer("tokenizer_2", facts.clip_tokenizer.path.as_deref());
    tokenizer("tokenizer_3", facts.t5_tokenizer.as_ref().and_then(|tokenizer| tokenizer.path.as_deref()));
    let made_of =
        format!("{} {:?}", model(&job.parameters, &job.facts, job.adapter.as_ref()), job.parameters.precision);
    let file =
        |(name, length): (String, u64)| expected("file", &format!("0/{name}"), &format!("{name} of {made_of}"), length);
    Ok(files.into_iter().map(file).collect())
}

/// The bytes of a file, or of all files that lie in a folder.
fn folder_length(path: &Path) -> u64 {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| length(&entry.path())).sum(),
        Err(_) => length(path),
    }
}

fn sample(job: &SampleJob, missing: &[usize]) -> Result<Forecast, StageError> {
    let (width, height) = job.parameters.size;
    let longest = job.parameters.prompts.iter().map(String::len).max().unwrap_or_default();
    let image = png_bound(width.into(), height.into(), longest + job.parameters.negative.len());
    let shape = vec![job.facts.geometry.channels, height as usize / 8, width as usize / 8];
    let latents = file_length([("latents".to_owned(), shape)], Precision::Bf16, &BTreeMap::new())?;
    let outputs = missing.iter().map(|&index| {
        let action = &job.actions[index];
        match job.shots.get(index) {
            Some(shot) => {
                let name = job.file_name(shot);
                vec![of_action("image", &name, action, image), of_action(SAMPLE_LATENTS, &name, action, latents)]
            }
            None => {
                let (width, height) = job.sheet_bound();
                vec![of_action("sheet", "contact-sheet.png", action, png_bound(width, height, 0))]
            }
        }
    });
    Ok(Forecast { outputs: outputs.collect(), passing: 0 })
}

/// No PNG of RGB bytes is longer: what does not shrink is stored as it is, with a few bytes for each row and each block.
fn png_bound(width: u64, height: u64, text: usize) -> u64 {
    let raw = height * (3 * width + 1);
    raw + raw / 64 + text as u64 + 2048
}
