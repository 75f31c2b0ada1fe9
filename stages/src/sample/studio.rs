//! What draws images of one job: the networks that stay, the weights of each row, and one batch of images after another.

use crate::{
    action::Entry,
    adapter::{Adapter, Base, merged_all, network_of},
    checkpoint::{Component, ComponentSource, TensorFile},
    error::StageError,
    nn::{self, Mmdit, VaeDecoder, Weight, Weights},
    precision::Precision,
    random::Draws,
    sample::{
        SampleJob, Shot,
        draw::{Guidance, Steps, draw},
        job::Row,
        pixels::to_rgb,
        png,
        sigmas::sigmas,
        start,
    },
    tensors::{Array, to_bytes},
    text::{self, Conditioning, Dropped, Encoded},
    work::Work,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::Digest;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One image: its PNG, and the latents that it was decoded from, as a file.
pub(super) struct Picture {
    pub(super) png: Vec<u8>,
    pub(super) latents: Vec<u8>,
}

/// What stays the same from image to image.
pub(super) struct Studio<'j> {
    job: &'j SampleJob,
    encoded: BTreeMap<String, Encoded>,
    conditioning: Conditioning,
    decoder: VaeDecoder,
    /// An adapter from a file, for every row.
    added: Option<Adapter>,
    /// The latents of a picture to start from.
    start: Option<Tensor<4>>,
    device: Device,
    dtype: DType,
}

impl<'j> Studio<'j> {
    pub(super) fn open(
        job: &'j SampleJob,
        encoded: BTreeMap<String, Encoded>,
        work: &Work<'_>,
    ) -> Result<Self, StageError> {
        let device = work.device().open();
        let dtype = nn::dtype(job.parameters.precision);
        let image = job.parameters.image.as_ref();
        let start = image.map(|image| start::latents(job, image, &device, dtype)).transpose()?;
        let Some(source) = job.facts.open(Component::VaeDecoder)? else {
            return Err(StageError::Unfit(
                "the model has no VAE; name one: model: (…, vae: \"vae.safetensors\")".to_owned(),
            ));
        };
        let weights = nn::load(&source, &device, dtype)?;
        job.facts.check(Component::VaeDecoder)?;
        let decoder = VaeDecoder::new(&weights.root())?;
        let conditioning = Conditioning::new(&job.facts.geometry, job.parameters.t5_tokens);
        Ok(Self { job, encoded, conditioning, decoder, added: added(job)?, start, device, dtype })
    }

    /// How many steps an image takes.
    pub(super) fn steps(&self) -> u64 {
        u64::from(self.job.parameters.steps) - self.skipped() as u64
    }

    fn skipped(&self) -> usize {
        let parameters = &self.job.parameters;
        parameters.image.as_ref().map_or(0, |image| image.skipped(parameters.steps))
    }

    /// The MMDiT's weights in a row.
    pub(super) fn mmdit(&self, row: &Row, work: &Work<'_>) -> Result<Weights, StageError> {
        self.weights(row, row.checkpoint.as_ref(), Component::Mmdit, work)
    }

    /// The weights of a network in a row: those in the file `held`, those of the model with the adapter in it added to them, or the
    /// model's own; and then the adapter that goes into all rows.
    fn weights(
        &self,
        row: &Row,
        held: Option<&Entry>,
        network: Component,
        work: &Work<'_>,
    ) -> Result<Weights, StageError> {
        let facts = &self.job.facts;
        let file = held.map(|entry| work.store.file(&entry.digest)).transpose()?;
        let networks: Vec<_> = [Component::Mmdit].into_iter().chain(row.clips.iter().map(|(clip, _)| *clip)).collect();
        let networks: Vec<_> = if networks.contains(&network) { networks } else { vec![network] };
        let base = match file.as_ref().filter(|_| !row.has_adapter()) {
            Some(path) => {
                let source = ComponentSource::find(Arc::new(TensorFile::open(path)?), network)?;
                Base::new(&facts.geometry, &facts.clips, [source])
            }
            None => facts.base(&networks)?,
        };
        let Some(source) = base.source(network) else { return Ok(Weights::default()) };
        let mut weights = nn::load(source, &self.device, self.dtype)?;
        let trained = match &file {
            Some(path) if row.has_adapter() => Some(Adapter::read(path, &base)?),
            _ => None,
        };
        let strength = self.job.parameters.lora.as_ref().map_or(1.0, |lora| lora.strength);
        let trained = trained.iter().map(|adapter| (adapter, self.job.parameters.lora_strength as f32));
        let adapters: Vec<_> = trained.chain(self.added.iter().map(|adapter| (adapter, strength as f32))).collect();
        let layers = adapters.iter().flat_map(|(adapter, _)| adapter.layers());
        let layers: BTreeSet<&str> = layers.filter(|layer| network_of(layer).0 == network).collect();
        for layer in layers {
            let Some(Array { shape, values }) = merged_all(&adapters, &base, layer) else { continue };
            let values = TensorData::new(values, [shape.iter().product::<usize>()]);
            let values = Tensor::<1>::from_data(values, (&self.device, DType::F32)).cast(self.dtype);
            weights.insert(network_of(&format!("{layer}.weight")).1, Weight { values, shape });
        }
        networks.into_iter().try_for_each(|network| facts.check(network))?;
        Ok(weights)
    }

    /// The prompts' encodings in a row: those of the model, but for CLIPs that were trained or have an adapter added.
    pub(super) fn encoded(&self, row: &Row, work: &Work<'_>) -> Result<Cow<'_, BTreeMap<String, Encoded>>, StageError> {
        let mut own: BTreeMap<Component, Option<&Entry>> = BTreeMap::new();
        let of_added = self.added.iter().flat_map(Adapter::layers).map(|layer| network_of(layer).0);
        own.extend(of_added.filter(|network| *network != Component::Mmdit).map(|clip| (clip, None)));
        own.extend(row.clips.iter().map(|(clip, entry)| (*clip, Some(entry))));
        let mut encoded = Cow::Borrowed(&self.encoded);
        for (clip, entry) in own {
            let weights = self.weights(row, entry, clip, work)?;
            let texts: Vec<&str> = self.encoded.keys().map(String::as_str).collect();
            let own = text::encode_clip(&self.job.facts, clip, &weights, &texts)?;
            for (encoded, own) in encoded.to_mut().values_mut().zip(own) {
                *(if clip == Component::ClipL { &mut encoded.clip_l } else { &mut encoded.clip_g }) = Some(own);
            }
        }
        Ok(encoded)
    }

    fn conditioning(
        &self,
        encoded: &BTreeMap<String, Encoded>,
        texts: &[&str],
    ) -> Result<(Tensor<3>, Tensor<2>), StageError> {
        let find = |text: &&str| {
            let found = encoded.get(*text).map(|encoded| (encoded, Dropped::default()));
            found.ok_or_else(|| StageError::Unfit(format!("the prompt {text:?} was not encoded")))
        };
        let encoded = texts.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        self.conditioning.assemble(&encoded, &self.device, self.dtype)
    }

    /// Some images of one row, drawn as `batch`: filled up with the first one, so that on a GPU every product has the same
    /// shape.
    pub(super) fn images(
        &self,
        network: &Mmdit,
        encoded: &BTreeMap<String, Encoded>,
        indices: &[usize],
        batch: usize,
        steps: &mut u64,
        work: &mut Work<'_>,
    ) -> Result<Vec<Picture>, StageError> {
        let (job, parameters) = (self.job, &self.job.parameters);
        let shots: Vec<&Shot> =
            indices.iter().chain(std::iter::repeat(&indices[0])).take(batch).map(|index| &job.shots[*index]).collect();
        let prompts: Vec<&str> = shots.iter().map(|shot| parameters.prompts[shot.prompt].as_str()).collect();
        let negatives = vec![parameters.negative.as_str(); batch];
        let guided = parameters.cfg != 1.0;
        let guidance = Guidance {
            prompt: self.conditioning(encoded, &prompts)?,
            negative: guided.then(|| self.conditioning(encoded, &negatives)).transpose()?,
            cfg: parameters.cfg,
            skip_layers: parameters.skip_layers.clone(),
        };
        let sigmas = sigmas(parameters.steps, parameters.shift);
        let how = Steps { sampler: parameters.sampler, sigmas: &sigmas, skipped: self.skipped() };
        let label = &job.actions[indices[0]].label;
        let latents = draw(network, self.noisy(&shots, sigmas[how.skipped]), &guidance, &how, || {
            *steps += indices.len() as u64;
            work.progress.advance(*steps, label);
            work.check_interrupt()
        })?;
        let finish = |(position, index): (usize, &usize)| self.picture(*index, latents.clone().narrow(0, position, 1));
        indices.iter().enumerate().map(finish).collect()
    }

    /// Where drawing begins: at noise, or at what a picture is with that much noise, `(1 − sigma)·picture + sigma·noise`.
    fn noisy(&self, shots: &[&Shot], sigma: f64) -> Tensor<4> {
        let (width, height) = self.job.parameters.size;
        let shape = [1, self.job.facts.geometry.channels, height as usize / 8, width as usize / 8];
        // The same noise for every checkpoint and prompt of a seed: what differs on the sheet is the checkpoint's doing.
        let noise = |shot: &&Shot| {
            let noise = Draws::new(shot.seed, "sample noise", 0, "").normals_f32(shape.iter().product());
            Tensor::<4>::from_data(TensorData::new(noise, shape), (&self.device, DType::F32))
        };
        let noise = Tensor::cat(shots.iter().map(noise).collect(), 0).mul_scalar(sigma);
        match &self.start {
            Some(start) => noise + start.clone().mul_scalar(1.0 - sigma),
            None => noise,
        }
    }

    /// The image of its latents.
    fn picture(&self, index: usize, latents: Tensor<4>) -> Result<Picture, StageError> {
        let latents = nn::process_out(latents);
        let [_, channels, height, width] = latents.dims();
        let raw = Array { shape: vec![channels, height, width], values: nn::to_host(latents.clone()) };
        let (shot, label, parameters) = (&self.job.shots[index], &self.job.actions[index].label, &self.job.parameters);
        let rgb = to_rgb(self.decoder.decode(latents)).ok_or_else(|| {
            StageError::Unfit(format!("{label}: the image has values that are not finite; use precision F32 or Bf16"))
        })?;
        let mut sampler = format!(
            "{}, {} steps, shift {}, cfg {}, seed {}",
            parameters.sampler, parameters.steps, parameters.shift, parameters.cfg, shot.seed
        );
        if let Some(skip) = &parameters.skip_layers {
            sampler +=
                &format!(", without blocks {:?} {} from {} to {}", skip.layers, skip.scale, skip.start, skip.stop);
        }
        if let Some(image) = &parameters.image {
            sampler += &format!(", from a picture at {}", image.strength);
        }
        if let Some(lora) = &parameters.lora {
            sampler += &format!(", with a LoRA at {}", lora.strength);
        }
        if parameters.lora_strength != 1.0 {
            sampler += &format!(", the trained LoRA at {}", parameters.lora_strength);
        }
        let texts = [
            ("prompt", parameters.prompts[shot.prompt].clone()),
            ("negative prompt", parameters.negative.clone()),
            ("checkpoint", self.job.rows[shot.row].name.clone()),
            ("weights", self.digest(shot)),
            ("sampler", sampler),
            ("software", "sd3pipe".to_owned()),
        ];
        // As wide as 32 bits, and closer than any measure of a picture: a training that went astray has large ones.
        let latents = to_bytes(&[("latents", &raw)], Precision::Bf16, None)?;
        Ok(Picture { png: png::encode(parameters.size.0, parameters.size.1, &rgb, &texts)?, latents })
    }

    fn digest(&self, shot: &Shot) -> String {
        let digest: Option<Digest> = match &self.job.rows[shot.row].checkpoint {
            Some(entry) => entry.content,
            None => self.job.facts.components.get(&Component::Mmdit).map(|located| located.digest),
        };
        digest.map_or(String::new(), |digest| digest.to_string())
    }
}

/// The adapter that goes into all rows, if there is one.
fn added(job: &SampleJob) -> Result<Option<Adapter>, StageError> {
    let Some(lora) = &job.parameters.lora else { return Ok(None) };
    let clips = [Component::ClipL, Component::ClipG].into_iter().filter(|clip| job.facts.components.contains_key(clip));
    let base = job.facts.base(&[Component::Mmdit].into_iter().chain(clips).collect::<Vec<_>>())?;
    let adapter = Adapter::read(&lora.path, &base)?;
    job.facts.check_adapter(&lora.path)?;
    Ok(Some(adapter))
}
