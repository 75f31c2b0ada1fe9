//! Draws the missing images: prompts first, then checkpoint by checkpoint, then the sheet.

use crate::{
    action::output,
    adapter::Adapter,
    checkpoint::{Component, ComponentSource, TensorFile},
    error::StageError,
    nn::{self, Mmdit, VaeDecoder, Weight},
    random::Draws,
    sample::{
        SampleJob, Shot,
        draw::{Guidance, draw},
        job::Row,
        pixels::to_rgb,
        png, sheet,
        sigmas::sigmas,
    },
    share::{Sharing, share},
    tensors::Array,
    text::{self, Conditioning, Dropped, Encoded},
    work::Work,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::Digest;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// Carries out the missing actions of a job.
pub fn sample(job: &SampleJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    let images: Vec<usize> = missing.iter().copied().filter(|index| *index != job.sheet()).collect();
    if !images.is_empty() {
        draw_images(job, &images, work)?;
    }
    if missing.contains(&job.sheet()) {
        let start = Instant::now();
        let sheet = make_sheet(job, work)?;
        let outputs = vec![output("sheet", "contact-sheet.png", work.store.put(&sheet)?)];
        work.publish(&job.actions[job.sheet()], outputs, start.elapsed().as_secs_f64())?;
    }
    work.flush()
}

fn draw_images(job: &SampleJob, images: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    let encoded = encode_prompts(job, work)?;
    let studio = Studio::open(job, encoded, work)?;
    work.progress.begin("samples", images.len() as u64 * u64::from(job.parameters.steps), "steps");
    let mut steps = 0;
    for (row_index, row) in job.rows.iter().enumerate() {
        let of_row: Vec<usize> = images.iter().copied().filter(|index| job.shots[*index].row == row_index).collect();
        if of_row.is_empty() {
            continue;
        }
        // One checkpoint in memory at a time.
        let network = studio.network(row, work)?;
        for index in of_row {
            let start = Instant::now();
            let png = studio.image(&network, &job.shots[index], &job.actions[index].label, &mut steps, work)?;
            let outputs = vec![output("image", job.file_name(&job.shots[index]), work.store.put(&png)?)];
            work.publish(&job.actions[index], outputs, start.elapsed().as_secs_f64())?;
            work.flush()?;
        }
    }
    work.progress.end();
    Ok(())
}

/// The prompts' encodings, from the store where they are.
fn encode_prompts(job: &SampleJob, work: &mut Work<'_>) -> Result<BTreeMap<String, Encoded>, StageError> {
    let texts = job.texts()?;
    let mut missing = Vec::new();
    for (index, action) in texts.actions.iter().enumerate() {
        if work.store.outputs(&action.key)?.is_none() {
            missing.push(index);
        }
    }
    if !missing.is_empty() {
        // Captions and other samples may want the same texts just now.
        let sharing = Sharing { stage: "prompts", chained: false, last: None, anew: false };
        share(&texts.actions, missing, sharing, work, &mut |mine, work| text::encode(&texts, mine, work, true))?;
    }
    let mut encoded = BTreeMap::new();
    for (text, action) in texts.texts.iter().zip(&texts.actions) {
        let outputs = work.store.outputs(&action.key)?.unwrap_or_default();
        if let Some(output) = outputs.first() {
            encoded.insert(text.clone(), Encoded::read(work.store, &output.digest)?);
        }
    }
    Ok(encoded)
}

/// What stays the same from image to image.
struct Studio<'j> {
    job: &'j SampleJob,
    encoded: BTreeMap<String, Encoded>,
    conditioning: Conditioning,
    decoder: VaeDecoder,
    device: Device,
    dtype: DType,
}

impl<'j> Studio<'j> {
    fn open(job: &'j SampleJob, encoded: BTreeMap<String, Encoded>, work: &Work<'_>) -> Result<Self, StageError> {
        let device = work.device.open();
        let dtype = nn::dtype(job.parameters.precision);
        let Some(source) = job.facts.open(Component::VaeDecoder)? else {
            return Err(StageError::Unfit(
                "the model has no VAE; name one: model: (…, vae: \"vae.safetensors\")".to_owned(),
            ));
        };
        let weights = nn::load(&source, &device, dtype)?;
        job.facts.check(Component::VaeDecoder)?;
        let decoder = VaeDecoder::new(&weights.root())?;
        let conditioning = Conditioning::new(&job.facts.geometry, job.parameters.t5_tokens);
        Ok(Self { job, encoded, conditioning, decoder, device, dtype })
    }

    fn network(&self, row: &Row, work: &Work<'_>) -> Result<Mmdit, StageError> {
        let source = match &row.checkpoint {
            Some(entry) if !row.has_adapter() => {
                ComponentSource::find(Arc::new(TensorFile::open(work.store.file(&entry.digest)?)?), Component::Mmdit)?
            }
            _ => self
                .job
                .facts
                .open(Component::Mmdit)?
                .ok_or_else(|| StageError::Unfit("the model has no MMDiT".to_owned()))?,
        };
        let mut weights = nn::load(&source, &self.device, self.dtype)?;
        if let Some(entry) = row.checkpoint.as_ref().filter(|_| row.has_adapter()) {
            let adapter = Adapter::read(&work.store.file(&entry.digest)?, &self.job.facts.geometry, &source)?;
            for name in adapter.layers().map(|layer| format!("{layer}.weight")) {
                let Some(Array { shape, values }) = adapter.merged(&source, &name, 1.0) else { continue };
                let values = TensorData::new(values, [shape.iter().product::<usize>()]);
                let values = Tensor::<1>::from_data(values, (&self.device, DType::F32)).cast(self.dtype);
                weights.insert(name, Weight { values, shape });
            }
        }
        if row.checkpoint.is_none() || row.has_adapter() {
            self.job.facts.check(Component::Mmdit)?;
        }
        Ok(Mmdit::new(&weights.root())?)
    }

    fn conditioning(&self, text: &str) -> Result<(Tensor<3>, Tensor<2>), StageError> {
        let encoded =
            self.encoded.get(text).ok_or_else(|| StageError::Unfit(format!("the prompt {text:?} was not encoded")))?;
        self.conditioning.assemble(&[(encoded, Dropped::default())], &self.device, self.dtype)
    }

    /// One image as a PNG.
    fn image(
        &self,
        network: &Mmdit,
        shot: &Shot,
        label: &str,
        steps: &mut u64,
        work: &mut Work<'_>,
    ) -> Result<Vec<u8>, StageError> {
        let parameters = &self.job.parameters;
        let prompt = &parameters.prompts[shot.prompt];
        let negative = (parameters.cfg != 1.0).then(|| self.conditioning(&parameters.negative)).transpose()?;
        let guidance = Guidance { prompt: self.conditioning(prompt)?, negative, cfg: parameters.cfg };
        let (width, height) = (parameters.size.0 as usize, parameters.size.1 as usize);
        let channels = self.job.facts.geometry.channels;
        let shape = [1, channels, height / 8, width / 8];
        // The same noise for every checkpoint and prompt of a seed: what differs on the sheet is the checkpoint's doing.
        let noise = Draws::new(shot.seed, "sample noise", 0, "").normals_f32(shape.iter().product());
        let noise = Tensor::<4>::from_data(TensorData::new(noise, shape), (&self.device, DType::F32));
        let latents = draw(network, noise, &guidance, &sigmas(parameters.steps, parameters.shift), || {
            *steps += 1;
            work.progress.advance(*steps, label);
            work.check_interrupt()
        })?;
        let rgb = to_rgb(self.decoder.decode(nn::process_out(latents))).ok_or_else(|| {
            StageError::Unfit(format!("{label}: the image has values that are not finite; use precision F32 or Bf16"))
        })?;
        let texts = [
            ("prompt", prompt.clone()),
            ("negative prompt", parameters.negative.clone()),
            ("checkpoint", self.job.rows[shot.row].name.clone()),
            ("weights", self.weights(shot)),
            (
                "sampler",
                format!(
                    "Euler, {} steps, shift {}, cfg {}, seed {}",
                    parameters.steps, parameters.shift, parameters.cfg, shot.seed
                ),
            ),
            ("software", "sd3pipe".to_owned()),
        ];
        png::encode(parameters.size.0, parameters.size.1, &rgb, &texts)
    }

    fn weights(&self, shot: &Shot) -> String {
        let digest: Option<Digest> = match &self.job.rows[shot.row].checkpoint {
            Some(entry) => entry.content,
            None => self.job.facts.components.get(&Component::Mmdit).map(|located| located.digest),
        };
        digest.map_or(String::new(), |digest| digest.to_string())
    }
}

fn make_sheet(job: &SampleJob, work: &mut Work<'_>) -> Result<Vec<u8>, StageError> {
    work.flush()?;
    let mut images = Vec::new();
    for action in &job.actions[..job.shots.len()] {
        let outputs = work.store.outputs(&action.key)?.unwrap_or_default();
        // A sheet with a gap would be kept for good.
        let lost = || StageError::Unfit(format!("{} was made and is not there any more; run again", action.label));
        let output = outputs.first().ok_or_else(lost)?;
        let bytes = work.store.read(&output.digest)?;
        let image = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png);
        let reason =
            |error: image::ImageError| StageError::Unreadable { what: action.label.clone(), reason: error.to_string() };
        images.push(image.map_err(reason)?.to_rgb8().into_raw());
    }
    let rows: Vec<String> = job.rows.iter().map(|row| row.name.clone()).collect();
    let several = job.parameters.seeds.len() > 1;
    let columns = job.parameters.prompts.iter().flat_map(|prompt| {
        job.parameters.seeds.iter().map(move |seed| if several { format!("{seed}: {prompt}") } else { prompt.clone() })
    });
    let (width, height) = job.parameters.size;
    let sheet = sheet::lay_out(&rows, &columns.collect::<Vec<_>>(), &images, (width as usize, height as usize));
    png::encode(sheet.width, sheet.height, &sheet.rgb, &[("software", "sd3pipe".to_owned())])
}
