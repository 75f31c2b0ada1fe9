//! Draws the missing images: prompts first, then checkpoint by checkpoint, then the sheet.

use crate::{
    action::{Entry, output},
    adapter::{Adapter, network_of},
    checkpoint::{Component, ComponentSource, TensorFile},
    error::StageError,
    nn::{self, Mmdit, VaeDecoder, Weight, Weights},
    precision::Precision,
    random::Draws,
    sample::{
        SAMPLE_LATENTS, SampleJob, Shot,
        draw::{Guidance, draw},
        job::Row,
        pixels::to_rgb,
        png, sheet,
        sigmas::sigmas,
    },
    share::{Sharing, share},
    tensors::{Array, to_bytes},
    text::{self, Conditioning, Dropped, Encoded},
    work::Work,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::Digest;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Instant};

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
        let encoded = studio.encoded(row, work)?;
        let weights = studio.weights(row, row.checkpoint.as_ref(), Component::Mmdit, work)?;
        let network = Mmdit::new(&weights.root())?;
        for index in of_row {
            let start = Instant::now();
            let shot = &job.shots[index];
            let (png, latents) = studio.image(&network, &encoded, shot, &job.actions[index].label, &mut steps, work)?;
            let name = job.file_name(shot);
            let outputs = vec![
                output("image", &name, work.store.put(&png)?),
                output(SAMPLE_LATENTS, &name, work.store.put(&latents)?),
            ];
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

    /// The weights of a network in a row: those in the file `held`, those of the model with the adapter in it added to them, or the
    /// model's own.
    fn weights(
        &self,
        row: &Row,
        held: Option<&Entry>,
        network: Component,
        work: &Work<'_>,
    ) -> Result<Weights, StageError> {
        let file = held.map(|entry| work.store.file(&entry.digest)).transpose()?;
        if let Some(path) = file.as_ref().filter(|_| !row.has_adapter()) {
            let source = ComponentSource::find(Arc::new(TensorFile::open(path)?), network)?;
            return Ok(nn::load(&source, &self.device, self.dtype)?);
        }
        let facts = &self.job.facts;
        let networks: Vec<_> = [Component::Mmdit].into_iter().chain(row.clips.iter().map(|(clip, _)| *clip)).collect();
        let base = facts.base(&networks)?;
        let Some(source) = base.source(network) else { return Ok(Weights::default()) };
        let mut weights = nn::load(source, &self.device, self.dtype)?;
        if let Some(path) = file {
            let adapter = Adapter::read(&path, &base)?;
            for layer in adapter.layers().filter(|layer| network_of(layer).0 == network) {
                let name = format!("{layer}.weight");
                let Some(Array { shape, values }) = adapter.merged(&base, &name, 1.0) else { continue };
                let values = TensorData::new(values, [shape.iter().product::<usize>()]);
                let values = Tensor::<1>::from_data(values, (&self.device, DType::F32)).cast(self.dtype);
                weights.insert(network_of(&name).1, Weight { values, shape });
            }
        }
        networks.into_iter().try_for_each(|network| facts.check(network))?;
        Ok(weights)
    }

    /// The prompts' encodings in a row: those of the model, but for CLIPs that were trained.
    fn encoded(&self, row: &Row, work: &Work<'_>) -> Result<Cow<'_, BTreeMap<String, Encoded>>, StageError> {
        let mut encoded = Cow::Borrowed(&self.encoded);
        for (clip, entry) in &row.clips {
            let weights = self.weights(row, Some(entry), *clip, work)?;
            let texts: Vec<&str> = self.encoded.keys().map(String::as_str).collect();
            let own = text::encode_clip(&self.job.facts, *clip, &weights, &texts)?;
            for (encoded, own) in encoded.to_mut().values_mut().zip(own) {
                *(if *clip == Component::ClipL { &mut encoded.clip_l } else { &mut encoded.clip_g }) = Some(own);
            }
        }
        Ok(encoded)
    }

    fn conditioning(
        &self,
        encoded: &BTreeMap<String, Encoded>,
        text: &str,
    ) -> Result<(Tensor<3>, Tensor<2>), StageError> {
        let encoded =
            encoded.get(text).ok_or_else(|| StageError::Unfit(format!("the prompt {text:?} was not encoded")))?;
        self.conditioning.assemble(&[(encoded, Dropped::default())], &self.device, self.dtype)
    }

    /// One image as a PNG, and the latents that it was decoded from.
    fn image(
        &self,
        network: &Mmdit,
        encoded: &BTreeMap<String, Encoded>,
        shot: &Shot,
        label: &str,
        steps: &mut u64,
        work: &mut Work<'_>,
    ) -> Result<(Vec<u8>, Vec<u8>), StageError> {
        let parameters = &self.job.parameters;
        let prompt = &parameters.prompts[shot.prompt];
        let negative = (parameters.cfg != 1.0).then(|| self.conditioning(encoded, &parameters.negative)).transpose()?;
        let guidance = Guidance { prompt: self.conditioning(encoded, prompt)?, negative, cfg: parameters.cfg };
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
        let latents = nn::process_out(latents);
        let values = nn::to_host(latents.clone());
        let rgb = to_rgb(self.decoder.decode(latents)).ok_or_else(|| {
            StageError::Unfit(format!("{label}: the image has values that are not finite; use precision F32 or Bf16"))
        })?;
        let texts = [
            ("prompt", prompt.clone()),
            ("negative prompt", parameters.negative.clone()),
            ("checkpoint", self.job.rows[shot.row].name.clone()),
            ("weights", self.digest(shot)),
            (
                "sampler",
                format!(
                    "Euler, {} steps, shift {}, cfg {}, seed {}",
                    parameters.steps, parameters.shift, parameters.cfg, shot.seed
                ),
            ),
            ("software", "sd3pipe".to_owned()),
        ];
        let latents = Array { shape: shape[1..].to_vec(), values };
        // As wide as 32 bits, and closer than any measure of a picture: a training that went astray has large ones.
        let latents = to_bytes(&[("latents", &latents)], Precision::Bf16, None)?;
        Ok((png::encode(parameters.size.0, parameters.size.1, &rgb, &texts)?, latents))
    }

    fn digest(&self, shot: &Shot) -> String {
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
