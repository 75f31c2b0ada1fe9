//! Sampling as keyed actions: one for each image, and one for the sheet that shows them all.

use crate::{
    action::{Action, Artifact, Entry},
    adapter::parameters::Lora,
    checkpoint::Component,
    error::StageError,
    export::{ENCODER_FILE, LORA_DIFFUSERS, LORA_KOHYA, TRANSFORMER_FILE, encoder_folder},
    facts::{Facts, digest_of},
    sample::{
        REVISION,
        parameters::{Sample, Sampler},
        shrink,
    },
    text::{TextJob, parameters::EncodeText},
};
use sd3pipe_cache::{Digest, KeyError, Output, Preimage};
use serde_json::{Value, json};
use std::fmt;

/// The images of some checkpoints.
#[derive(Clone, Debug)]
pub struct SampleJob {
    /// How to draw.
    pub parameters: Sample,
    /// The model.
    pub facts: Facts,
    /// The checkpoints in the order of the sheet's rows.
    pub rows: Vec<Row>,
    /// The images in the order of the sheet: row by row, prompt by prompt, seed by seed.
    pub shots: Vec<Shot>,
    /// One for each image, and the sheet's at the end.
    pub actions: Vec<Action>,
}

/// A checkpoint to draw with.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it's called: `base`, `epoch 3`.
    pub name: String,
    /// The exported checkpoint; none for the model as it was.
    pub checkpoint: Option<Entry>,
    /// What holds each CLIP that was trained, so that the prompts are encoded anew by it.
    pub clips: Vec<(Component, Entry)>,
}

impl Row {
    /// Whether the checkpoint is an adapter, to be added to the model as it was.
    pub fn has_adapter(&self) -> bool {
        self.checkpoint.as_ref().is_some_and(|entry| [LORA_KOHYA, LORA_DIFFUSERS].contains(&entry.role.as_str()))
    }
}

/// One image to draw.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Index of its row.
    pub row: usize,
    /// Index of its prompt.
    pub prompt: usize,
    /// Its seed.
    pub seed: u64,
}

/// What the name of an image's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShotName {
    /// What the checkpoint is called: `base`, `epoch 3`.
    pub row: String,
    /// The prompt, counted from 1.
    pub prompt: usize,
    /// The seed.
    pub seed: u64,
}

/// The name itself, without folders: `epoch-3-prompt-1-seed-1.png`.
impl fmt::Display for ShotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-prompt-{}-seed-{}.png", self.row.replace(' ', "-"), self.prompt, self.seed)
    }
}

impl ShotName {
    /// Reads a name.
    pub fn parse(file: &str) -> Option<Self> {
        let (row, rest) = file.strip_suffix(".png")?.rsplit_once("-prompt-")?;
        let (prompt, seed) = rest.split_once("-seed-")?;
        Some(Self { row: row.replace('-', " "), prompt: prompt.parse().ok()?, seed: seed.parse().ok()? })
    }

    /// The checkpoint's epoch; none for the model as it was.
    pub fn epoch(&self) -> Option<u32> {
        self.row.strip_prefix("epoch ")?.parse().ok()
    }
}

/// The epoch of an exported file that holds the MMDiT; of other files nothing.
fn epoch_of(entry: &Entry) -> Option<u32> {
    let epoch = match entry.role.as_str() {
        "checkpoint" | LORA_KOHYA | LORA_DIFFUSERS => &entry.item,
        "file" => entry.item.strip_suffix(TRANSFORMER_FILE)?.strip_suffix('/')?,
        _ => return None,
    };
    epoch.parse().ok()
}

/// What of an export holds a text encoder of a checkpoint: the checkpoint's own file, or another of its folder.
fn holder<'e>(export: &'e Artifact, epoch: u32, checkpoint: &'e Entry, encoder: Component) -> Option<&'e Entry> {
    if checkpoint.role != "file" {
        return Some(checkpoint);
    }
    let name = format!("{epoch}/{}/{ENCODER_FILE}", encoder_folder(encoder));
    export.of("file").find(|entry| entry.item == name)
}

/// The part of the stage's key that names what drawing reads beside its parameters.
pub fn model(parameters: &Sample, facts: &Facts) -> Value {
    let networks = [Component::Mmdit, Component::VaeDecoder];
    let mut value = facts.text_encoders();
    if let (Value::Object(all), Value::Object(more), Value::Object(added)) =
        (&mut value, facts.digests(&networks), added(parameters, facts))
    {
        all.extend(more);
        all.extend(added);
    }
    value
}

/// What is drawn with beside the model, by what is in it; empty when nothing is.
fn added(parameters: &Sample, facts: &Facts) -> Value {
    let mut added = json!({});
    if let Some(image) = &parameters.image {
        added["picture"] = digest_of(&facts.pictures, &image.path);
        added["vae_encoder"] = facts.digests(&[Component::VaeEncoder])["vae_encoder"].take();
    }
    if let Some(lora) = &parameters.lora {
        added["lora"] = digest_of(&facts.adapters, &lora.path);
    }
    added
}

impl SampleJob {
    /// The images that `parameters` asks of an export's artifact, of a training of this adapter if it was one.
    pub fn new(
        parameters: &Sample,
        facts: &Facts,
        adapter: Option<&Lora>,
        export: &Artifact,
    ) -> Result<Self, StageError> {
        let mut exported: Vec<(u32, &Entry)> =
            export.entries.iter().filter_map(|entry| Some((epoch_of(entry)?, entry))).collect();
        // Of an adapter in both forms one is drawn with: they are the same.
        exported.dedup_by_key(|(epoch, _)| *epoch);
        let count = exported.iter().map(|(epoch, _)| *epoch).max().unwrap_or_default();
        let chosen = parameters.epochs.of(count, None);
        let base = parameters.base.then(|| Row { name: "base".to_owned(), checkpoint: None, clips: Vec::new() });
        let rows = exported.iter().filter(|(epoch, _)| chosen.contains(epoch));
        let rows = rows.map(|(epoch, entry)| {
            let clips = adapter.into_iter().flat_map(Lora::clips);
            let clips = clips.filter_map(|clip| Some((clip, holder(export, *epoch, entry, clip)?.clone()))).collect();
            Row { name: format!("epoch {epoch}"), checkpoint: Some((*entry).clone()), clips }
        });
        let mut job = Self {
            parameters: parameters.clone(),
            facts: facts.clone(),
            rows: base.into_iter().chain(rows).collect(),
            shots: Vec::new(),
            actions: Vec::new(),
        };
        for row in 0..job.rows.len() {
            for prompt in 0..parameters.prompts.len() {
                for &seed in &parameters.seeds {
                    let shot = Shot { row, prompt, seed };
                    job.actions.push(job.image_action(&shot)?);
                    job.shots.push(shot);
                }
            }
        }
        job.actions.push(job.sheet_action()?);
        Ok(job)
    }

    fn image_action(&self, shot: &Shot) -> Result<Action, StageError> {
        let (parameters, row) = (&self.parameters, &self.rows[shot.row]);
        let base = || self.facts.components.get(&Component::Mmdit).map(|located| located.digest);
        let weights: Option<Digest> = match &row.checkpoint {
            Some(entry) => Some(entry.content.unwrap_or(entry.digest)),
            None => base(),
        };
        let mut preimage = Preimage::new("sample image", REVISION);
        preimage.read("weights", &weights)?;
        if row.has_adapter() {
            preimage.read("base", &base())?;
        }
        preimage.read("checkpoint", &row.name)?;
        preimage.read("prompt", &parameters.prompts[shot.prompt])?;
        preimage.read("negative", &parameters.negative)?;
        preimage.read("cfg", &parameters.cfg)?;
        preimage.read("steps", &parameters.steps)?;
        preimage.read("seed", &shot.seed)?;
        preimage.read("size", &parameters.size)?;
        preimage.read("shift", &parameters.shift)?;
        preimage.read("t5_tokens", &parameters.t5_tokens)?;
        preimage.read("precision", &parameters.precision)?;
        preimage.read("device", &self.facts.device)?;
        // Read only where they are used, so that what was drawn before there were such is still found.
        if parameters.sampler != Sampler::Euler {
            preimage.read("sampler", &parameters.sampler)?;
        }
        if let Some(skip_layers) = &parameters.skip_layers {
            preimage.read("skip_layers", skip_layers)?;
        }
        if row.has_adapter() && parameters.lora_strength != 1.0 {
            preimage.read("lora_strength", &parameters.lora_strength)?;
        }
        let strengths = json!({
            "image": parameters.image.as_ref().map(|image| image.strength),
            "lora": parameters.lora.as_ref().map(|lora| lora.strength),
        });
        if parameters.image.is_some() || parameters.lora.is_some() {
            preimage.read("added", &added(parameters, &self.facts))?;
            preimage.read("strengths", &strengths)?;
        }
        preimage.read("text_encoders", &self.facts.text_encoders())?;
        preimage.read("model", &self.facts.digests(&[Component::VaeDecoder]))?;
        Ok(Action::new(format!("{}, prompt {}, seed {}", row.name, shot.prompt + 1, shot.seed), preimage))
    }

    /// The prompts, as texts to encode: they are kept like those of captions.
    pub fn texts(&self) -> Result<TextJob, KeyError> {
        let parameters = EncodeText {
            t5_tokens: self.parameters.t5_tokens,
            precision: self.parameters.precision,
            ..EncodeText::default()
        };
        let texts = self.parameters.prompts.iter().chain([&self.parameters.negative]);
        TextJob::new(&parameters, &self.facts, texts.map(|text| (text.as_str(), text.as_str())))
    }

    /// The sheet reads the images, and so it's keyed by their keys: its own bytes follow from theirs.
    fn sheet_action(&self) -> Result<Action, StageError> {
        let images: Vec<String> = self.actions.iter().map(|action| action.key.to_string()).collect();
        let mut preimage = Preimage::new("sample sheet", REVISION);
        preimage.read("images", &images)?;
        Ok(Action::new("contact sheet", preimage))
    }

    /// The index of the sheet's action.
    pub fn sheet(&self) -> usize {
        self.actions.len() - 1
    }

    /// Width and height in pixels that the sheet does not exceed. Only what lays it out knows the letters: here they are wide.
    pub(crate) fn sheet_bound(&self) -> (u64, u64) {
        let (width, height) = self.parameters.size;
        let shrink = shrink(width as usize) as u64;
        let label = self.rows.iter().map(|row| row.name.len() as u64).max().unwrap_or_default();
        let columns = (self.parameters.prompts.len() * self.parameters.seeds.len()) as u64;
        let rows = self.rows.len() as u64;
        let (margins, label_lines, gap, letter) = (64, 64, 4, 16);
        (
            margins + label * letter + columns * (u64::from(width) / shrink + gap),
            margins + label_lines + rows * (u64::from(height) / shrink + gap),
        )
    }

    /// The name of an image's file, without folders: `epoch-3-prompt-1-seed-1.png`.
    pub fn file_name(&self, shot: &Shot) -> String {
        ShotName { row: self.rows[shot.row].name.clone(), prompt: shot.prompt + 1, seed: shot.seed }.to_string()
    }

    /// What the stage made: the images under their files' names, each with its latents, and the sheet.
    pub fn artifact(&self, outputs: &[Vec<Output>]) -> Artifact {
        let mut artifact = Artifact::default();
        for (index, outputs) in outputs.iter().enumerate() {
            let before = artifact.entries.len();
            artifact.extend(outputs, &[]);
            for entry in &mut artifact.entries[before..] {
                if let Some(shot) = self.shots.get(index) {
                    entry.item = self.file_name(shot);
                    entry.size = Some(self.parameters.size);
                }
            }
        }
        artifact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_an_image_is_of() {
        for (row, epoch) in [("base", None), ("epoch 12", Some(12))] {
            let name = ShotName { row: row.to_owned(), prompt: 2, seed: u64::MAX };
            assert_eq!((ShotName::parse(&name.to_string()), name.epoch()), (Some(name.clone()), epoch));
        }
        for other in ["contact-sheet.png", "epoch-1-prompt-x-seed-1.png", "epoch-1-prompt-1-seed-1.jpg", ""] {
            assert_eq!(ShotName::parse(other), None, "{other}");
        }
    }
}
