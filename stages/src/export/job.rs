//! Exporting as keyed actions: one for each epoch.

use crate::{
    action::{Action, Artifact, Entry},
    adapter::parameters::Lora,
    checkpoint::{Component, MmditGeometry, MmditModel},
    error::StageError,
    export::{
        REVISION,
        parameters::{Epochs, Export, Layout, LoraForm, Weights},
    },
    facts::{Facts, TEXT_ENCODERS},
    train::{ADAPTER, average::AVERAGE},
};
use sd3pipe_cache::{Digest, Output, Preimage};
use serde_json::Value;
use std::collections::BTreeMap;

/// The checkpoints of a training.
#[derive(Clone, Debug)]
pub struct ExportJob {
    /// How to export.
    pub parameters: Export,
    /// The model.
    pub facts: Facts,
    /// What the checkpoints say of where they come from.
    pub provenance: Provenance,
    /// The adapter that was trained, if it was one.
    pub adapter: Option<Lora>,
    /// The epoch and the weights of each.
    pub checkpoints: Vec<(u32, Entry)>,
    /// One for each epoch.
    pub actions: Vec<Action>,
}

/// Where a checkpoint comes from: only what follows from the pipeline, so that equal runs write equal files.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The pipeline's name.
    pub pipeline: String,
    /// The digest of the captions: of every image and text.
    pub data: Digest,
    /// Width and height that was trained at.
    pub resolution: (u32, u32),
}

impl ExportJob {
    /// The checkpoints that `parameters` chooses of a training's artifact, which are adapters if one was trained. `best` is the epoch
    /// with the lowest held-out loss.
    ///
    /// # Errors
    /// When the training ended before an epoch that is asked for.
    pub fn new(
        parameters: &Export,
        facts: &Facts,
        provenance: Provenance,
        adapter: Option<&Lora>,
        train: &Artifact,
        best: Option<u32>,
    ) -> Result<Self, StageError> {
        let roles = match parameters.weights {
            Weights::Trained => &["weights", ADAPTER][..],
            Weights::Average => &[AVERAGE],
        };
        let weights: BTreeMap<u32, &Entry> = roles
            .iter()
            .flat_map(|role| train.of(role))
            .filter_map(|entry| Some((entry.item.parse().ok()?, entry)))
            .collect();
        let count = weights.keys().max().copied().unwrap_or_default();
        let mut job = Self {
            parameters: parameters.clone(),
            facts: facts.clone(),
            provenance,
            adapter: adapter.cloned(),
            checkpoints: Vec::new(),
            actions: Vec::new(),
        };
        if let Epochs::Only(list) = &parameters.epochs
            && let Some(epoch) = list.iter().find(|epoch| **epoch > count)
        {
            return Err(StageError::Unfit(format!(
                "`epochs`: there is no epoch {epoch}: training stopped after {count}"
            )));
        }
        for epoch in parameters.epochs.of(count, best) {
            let Some(entry) = weights.get(&epoch) else { continue };
            job.checkpoints.push((epoch, (*entry).clone()));
            let form = job.form(job.checkpoints.len() - 1);
            let mut preimage = Preimage::new("export", REVISION);
            preimage.read("epoch", &epoch)?;
            preimage.read("weights", &entry.digest)?;
            preimage.read("precision", &parameters.precision)?;
            if parameters.layout != Layout::SingleFile {
                preimage.read("layout", &parameters.layout)?;
            }
            if let Some(form) = form {
                preimage.read("lora", &form)?;
            }
            preimage.read("model", &model(parameters, facts, adapter.filter(|_| form.is_some())))?;
            preimage.read("metadata", &job.metadata(epoch, &entry.digest))?;
            job.actions.push(Action::new(format!("epoch {epoch}"), preimage));
        }
        Ok(job)
    }

    /// What a checkpoint's adapter is written as; nothing when whole weights were trained.
    pub fn form(&self, index: usize) -> Option<LoraForm> {
        let known = self.adapter.is_some() && index < self.checkpoints.len();
        known.then(|| self.parameters.lora.unwrap_or(LoraForm::Both))
    }

    /// Whether a network is another in each checkpoint.
    pub fn trains(&self, network: Component) -> bool {
        match &self.adapter {
            Some(adapter) => adapter.networks().contains(&network),
            None => network == Component::Mmdit,
        }
    }

    /// The networks that are written beside the MMDiT, as far as the model has them.
    pub fn others(&self) -> impl Iterator<Item = Component> {
        others(&self.parameters).into_iter().filter(|component| self.facts.components.contains_key(component))
    }

    /// The file's metadata: the ModelSpec fields that are known without a clock, and ours.
    pub fn metadata(&self, epoch: u32, weights: &Digest) -> BTreeMap<String, String> {
        let provenance = &self.provenance;
        let (width, height) = provenance.resolution;
        let averaged = if self.parameters.weights == Weights::Average { ", averaged" } else { "" };
        let fields = [
            ("modelspec.sai_model_spec", "1.0.1".to_owned()),
            ("modelspec.architecture", architecture(&self.facts.geometry).to_owned()),
            ("modelspec.implementation", "https://github.com/Stability-AI/sd3-ref".to_owned()),
            ("modelspec.title", format!("{} epoch {epoch}{averaged}", provenance.pipeline)),
            ("modelspec.resolution", format!("{width}x{height}")),
            // What sd-scripts writes, "epsilon", is wrong for a network that predicts the velocity of a flow.
            ("modelspec.prediction_type", "v".to_owned()),
            ("sd3pipe.pipeline", provenance.pipeline.clone()),
            ("sd3pipe.data", provenance.data.to_string()),
            ("sd3pipe.weights", weights.to_string()),
            ("sd3pipe.epoch", epoch.to_string()),
        ];
        let mut metadata: BTreeMap<_, _> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if let Some(adapter) = self.adapter.as_ref().filter(|adapter| adapter.clips().next().is_some()) {
            let trained = adapter.networks().iter().map(ToString::to_string).collect::<Vec<_>>();
            metadata.insert("sd3pipe.trained".to_owned(), trained.join(", "));
        }
        metadata
    }

    /// What the stage made: a checkpoint for each epoch, or its files. The `content` of what holds the MMDiT is the digest of that
    /// alone.
    pub fn artifact(&self, outputs: &[Vec<Output>]) -> Artifact {
        let mut artifact = Artifact::default();
        outputs.iter().for_each(|outputs| artifact.extend(outputs, &[]));
        artifact
    }
}

fn others(parameters: &Export) -> Vec<Component> {
    let text_encoders = if parameters.text_encoders { &TEXT_ENCODERS[..] } else { &[] };
    [&[Component::VaeEncoder, Component::VaeDecoder], text_encoders].concat()
}

/// The part of a key that names what an export reads of a model, for a training of an adapter or of whole weights.
pub fn model(parameters: &Export, facts: &Facts, adapter: Option<&Lora>) -> Value {
    let merged = matches!(parameters.lora, Some(LoraForm::Merged(_)));
    let others = if adapter.is_some() && !merged { Vec::new() } else { others(parameters) };
    let base = adapter.map(Lora::networks).unwrap_or_default();
    let mut value = facts.digests(&[base, others].concat());
    if let (Layout::Diffusers, Value::Object(map)) = (parameters.layout, &mut value) {
        // Only tokenizers that have files are copied.
        let t5 = facts.t5_tokenizer.iter().map(|tokenizer| ("t5_tokenizer", tokenizer));
        for (name, tokenizer) in t5.chain([("clip_tokenizer", &facts.clip_tokenizer)]) {
            if tokenizer.path.is_some() {
                map.insert(name.to_owned(), tokenizer.identity.to_string().into());
            }
        }
    }
    value
}

/// ModelSpec's name of the architecture.
fn architecture(geometry: &MmditGeometry) -> &'static str {
    match geometry.model() {
        MmditModel::Sd35Medium => "stable-diffusion-3-5-medium",
        MmditModel::Sd35Large => "stable-diffusion-3-5-large",
        MmditModel::Sd3Medium | MmditModel::Custom => "stable-diffusion-3-medium",
    }
}
