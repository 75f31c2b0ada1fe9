//! Runs the text encoders over texts, one encoder in memory at a time.

use crate::{
    action::output,
    checkpoint::Component,
    device::{self, DeviceKind},
    error::StageError,
    facts::{Facts, TEXT_ENCODERS},
    memory,
    nn::{self, Clip, ClipKind, T5, Weights},
    spread::spread,
    tensors::Array,
    text::{
        Encoded, TextJob,
        parameters::EncodeText,
        streamed::{STRETCH, StreamedT5},
        tokenizer::{ClipPad, ClipTokenizer, T5Tokenizer},
    },
    work::Work,
};
use burn::tensor::Tensor;
use std::time::Instant;

/// So many texts go through all encoders before the next: the CLIPs' outputs of a round wait in memory for T5's.
const ROUND: usize = 2048;

/// Carries out the missing actions of a job. `quiet` ones are kept for others but not reported as the stage's own.
pub fn encode(job: &TextJob, missing: &[usize], work: &mut Work<'_>, quiet: bool) -> Result<(), StageError> {
    let encoders = TEXT_ENCODERS.into_iter().filter(|component| job.facts.components.contains_key(component)).count();
    for absent in TEXT_ENCODERS.iter().filter(|component| !job.facts.components.contains_key(component)) {
        work.progress.line(&format!("the model has no {absent}: zeros stand in its place"));
    }
    spread(missing, work, |own, work| encode_texts(job, own, work, (encoders, quiet)))?;
    Ok(())
}

fn encode_texts(
    job: &TextJob,
    missing: &[usize],
    work: &mut Work<'_>,
    (encoders, quiet): (usize, bool),
) -> Result<(), StageError> {
    work.progress.begin("texts", (missing.len() * encoders) as u64, "encodings");
    let mut done = 0;
    for round in missing.chunks(ROUND) {
        let start = Instant::now();
        let mut encoded = vec![Encoded::default(); round.len()];
        for component in TEXT_ENCODERS {
            let Some(encoder) = Encoder::load(&job.facts, component, job, work)? else { continue };
            // On the CPU each text goes alone: the sums of a product, and so its last bits, depend on the shape of the whole
            // product, and a text's encoding must not depend on which others happened to be missing.
            let batch = if job.facts.device == DeviceKind::Cpu { 1 } else { job.parameters.batch as usize };
            let batches = batches(round, batch, &job.texts);
            for stretch in batches.chunks(encoder.stretch(batch)) {
                work.check_interrupt()?;
                let texts: Vec<&[&str]> = stretch.iter().map(|(_, texts)| texts.as_slice()).collect();
                for ((positions, _), outputs) in stretch.iter().zip(encoder.forward(&texts)?) {
                    for (position, output) in positions.iter().zip(outputs) {
                        output.store(component, &mut encoded[*position]);
                        done += 1;
                    }
                }
                work.progress.advance(done, &component.to_string());
            }
            // A block may have been read just now.
            job.facts.check(component)?;
        }
        let seconds = start.elapsed().as_secs_f64() / round.len() as f64;
        for (index, encoded) in round.iter().zip(encoded) {
            let object = work.store.put(&encoded.to_bytes(job.parameters.precision)?)?;
            let (action, outputs) = (&job.actions[*index], vec![output("text", job.texts[*index].clone(), object)]);
            if quiet {
                work.publish_quietly(action, outputs, seconds)?
            } else {
                work.publish(action, outputs, seconds)?
            }
        }
        work.flush()?;
    }
    work.progress.end();
    Ok(())
}

/// Batches of one size, with the positions in the round: the last is filled up with its own first text, so that on a GPU every
/// product has the same shape.
fn batches<'t>(round: &[usize], batch: usize, texts: &'t [String]) -> Vec<(Vec<usize>, Vec<&'t str>)> {
    let positions: Vec<usize> = (0..round.len()).collect();
    positions
        .chunks(batch.max(1))
        .map(|chunk| {
            let mut members: Vec<&str> = chunk.iter().map(|position| texts[round[*position]].as_str()).collect();
            members.resize(batch.max(1), members[0]);
            (chunk.to_vec(), members)
        })
        .collect()
}

enum Output {
    Clip([Array; 2]),
    T5(Array),
}

impl Output {
    fn store(self, component: Component, encoded: &mut Encoded) {
        match (self, component) {
            (Self::Clip(arrays), Component::ClipL) => encoded.clip_l = Some(arrays),
            (Self::Clip(arrays), _) => encoded.clip_g = Some(arrays),
            (Self::T5(array), _) => encoded.t5 = Some(array),
        }
    }
}

enum Encoder {
    Clip { network: Box<Clip>, tokenizer: ClipTokenizer, pad: ClipPad },
    T5 { network: Network, tokenizer: T5Tokenizer, tokens: usize },
}

enum Network {
    Whole(Box<T5>),
    Streamed(Box<StreamedT5>),
}

impl Encoder {
    fn load(facts: &Facts, component: Component, job: &TextJob, work: &Work<'_>) -> Result<Option<Self>, StageError> {
        let Some(source) = facts.open(component)? else { return Ok(None) };
        let device = work.device().open();
        let dtype = nn::dtype(job.parameters.precision);
        let load = |source| -> Result<Weights, StageError> {
            let weights = nn::load(source, &device, dtype)?;
            facts.check(component)?;
            Ok(weights)
        };
        Ok(Some(match component {
            Component::ClipL | Component::ClipG => Self::clip(facts, component, &load(&source)?)?,
            _ => {
                let named = facts.t5_tokenizer.as_ref();
                let Some((named, path)) = named.and_then(|tokenizer| Some((tokenizer, tokenizer.path.as_ref()?)))
                else {
                    return Err(StageError::Unfit(
                        "the model has a T5 encoder and no T5 tokenizer; set model.tokenizers.t5".to_owned(),
                    ));
                };
                let tokens = job.parameters.t5_tokens as usize;
                let tokenizer = T5Tokenizer::open(path)?;
                named.check(&tokenizer.identity())?;
                let EncodeText { batch, precision, t5_tokens, .. } = job.parameters;
                let needed = memory::text_encoder(&source, component, precision, t5_tokens, batch.into());
                let network = match device::room(&device).is_some_and(|room| needed > room) {
                    true => {
                        work.progress.line("the GPU has no room for T5: its blocks come one by one");
                        Network::Streamed(Box::new(StreamedT5::open(source, &device, dtype)?))
                    }
                    false => Network::Whole(Box::new(T5::new(&load(&source)?.root())?)),
                };
                Self::T5 { network, tokenizer, tokens }
            }
        }))
    }

    fn clip(facts: &Facts, component: Component, weights: &Weights) -> Result<Self, StageError> {
        let (kind, pad) = clip_kind(component);
        let network = Box::new(Clip::new(&weights.root(), kind)?);
        Ok(Self::Clip { network, tokenizer: clip_tokenizer(facts)?, pad })
    }

    /// How many batches it wants at once.
    fn stretch(&self, batch: usize) -> usize {
        match self {
            Self::T5 { network: Network::Streamed(_), .. } => (STRETCH / batch.max(1)).max(1),
            _ => 1,
        }
    }

    /// What becomes of each batch.
    fn forward(&self, batches: &[&[&str]]) -> Result<Vec<Vec<Output>>, StageError> {
        match self {
            Self::Clip { network, tokenizer, pad } => {
                let encode = |texts: &&[&str]| {
                    let ids = texts.iter().map(|text| Ok(tokenizer.encode(text, *pad)?.ids));
                    let result = network.forward(&ids.collect::<Result<Vec<_>, StageError>>()?)?;
                    let pairs = rows::<3>(result.penultimate).into_iter().zip(rows::<2>(result.pooled));
                    Ok(pairs.map(|(states, pooled)| Output::Clip([states, pooled])).collect())
                };
                batches.iter().map(encode).collect()
            }
            Self::T5 { network, tokenizer, tokens } => {
                let ids_of = |text: &&str| Ok(tokenizer.encode(text, *tokens)?.ids);
                let ids = batches.iter().map(|texts| texts.iter().map(ids_of).collect());
                let ids: Vec<Vec<Vec<u32>>> = ids.collect::<Result<_, StageError>>()?;
                let encoded = match network {
                    Network::Whole(network) => ids.iter().map(|ids| network.forward(ids)).collect::<Result<_, _>>()?,
                    Network::Streamed(network) => network.forward(&ids)?,
                };
                Ok(encoded.into_iter().map(|batch| rows::<3>(batch).into_iter().map(Output::T5).collect()).collect())
            }
        }
    }
}

/// Which of the two CLIPs it is, and how its texts are filled up.
pub(crate) fn clip_kind(component: Component) -> (ClipKind, ClipPad) {
    match component {
        Component::ClipL => (ClipKind::L, ClipPad::EndOfText),
        _ => (ClipKind::G, ClipPad::Zero),
    }
}

/// CLIP's tokenizer, as it was when the keys were taken.
pub(crate) fn clip_tokenizer(facts: &Facts) -> Result<ClipTokenizer, StageError> {
    let tokenizer = match &facts.clip_tokenizer.path {
        Some(path) => ClipTokenizer::open(path)?,
        None => ClipTokenizer::built_in(),
    };
    facts.clip_tokenizer.check(&tokenizer.identity())?;
    Ok(tokenizer)
}

/// What a CLIP of these weights makes of texts, one at a time: its penultimate states and its pooled vector.
///
/// # Errors
/// When the weights make no CLIP, or the tokenizer can't be opened or changed.
pub fn encode_clip(
    facts: &Facts,
    component: Component,
    weights: &Weights,
    texts: &[&str],
) -> Result<Vec<[Array; 2]>, StageError> {
    let encoder = Encoder::clip(facts, component, weights)?;
    let mut encoded = Vec::new();
    for text in texts {
        encoded.extend(encoder.forward(&[&[*text]])?.into_iter().flatten().filter_map(|output| match output {
            Output::Clip(arrays) => Some(arrays),
            Output::T5(_) => None,
        }));
    }
    Ok(encoded)
}

/// A batch on the host, cut into its samples.
fn rows<const D: usize>(batch: Tensor<D>) -> Vec<Array> {
    let shape = batch.dims();
    let values = nn::to_host(batch);
    let each = shape[1..].iter().product::<usize>().max(1);
    values.chunks_exact(each).map(|values| Array { shape: shape[1..].to_vec(), values: values.to_vec() }).collect()
}
