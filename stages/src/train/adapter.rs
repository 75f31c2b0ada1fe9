//! Training an adapter: what it starts from, what is tracked beside weights that stay as they are, and its dropout.

use crate::{
    adapter::{ALPHA, Adapter, DOWN, MAGNITUDE, Place, UP, parameters::Lora},
    checkpoint::ComponentSource,
    error::StageError,
    nn::{
        Weight, Weights,
        low_rank::{MASK, SCALE},
    },
    random::Draws,
    tensors::Array,
    train::TrainJob,
};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// The adapter before the first step.
pub(super) fn start(job: &TrainJob, lora: &Lora, base: &ComponentSource) -> Result<Adapter, StageError> {
    let mut adapter = Adapter::start(&job.adapter, lora.dora, job.parameters.seed, base);
    if let Some(path) = &lora.from {
        job.facts.check_adapter(path)?;
        adapter.take(Adapter::read(path, &job.facts.geometry, base)?, path)?;
        job.facts.check_adapter(path)?;
    }
    Ok(adapter)
}

/// The tensors of an adapter that are trained, in 32 bits.
pub fn trained(adapter: &Adapter, home: impl Fn(&str) -> Device) -> Weights {
    let mut weights = Weights::default();
    for (site, low_rank) in &adapter.sites {
        let mut add = |ending: &str, shape: &[usize], values: &[f32]| {
            let name = format!("{site}{ending}");
            let weight = on_device(shape, values, &home(&name));
            weights.insert(name, weight);
        };
        for (ending, Array { shape, values }) in [(DOWN, &low_rank.down), (UP, &low_rank.up)] {
            add(ending, shape, values);
        }
        if let Some(magnitude) = &low_rank.magnitude {
            add(MAGNITUDE, &[magnitude.len()], magnitude);
        }
    }
    weights
}

/// The weights that stay as they are, with what the adapter's tensors are scaled by.
pub fn frozen(mut weights: Weights, places: &[Place], home: impl Fn(&str) -> Device) -> Weights {
    for place in places {
        let name = format!("{}{SCALE}", place.site);
        let scale = on_device(&[1], &[place.scale], &home(&name));
        weights.insert(name, scale);
    }
    weights
}

/// An epoch's adapter as its file has it: the tensors that are trained, and alphas.
pub(super) fn saved<'s>(trained: &'s Weights, places: &'s [Place]) -> impl Iterator<Item = (String, Weight)> + 's {
    let alphas = places.iter().map(|place| {
        let alpha = on_device(&[], &[place.scale * place.rank as f32], &Device::flex());
        (format!("{}{ALPHA}", place.site), alpha)
    });
    trained.iter().map(|(name, weight)| (name.to_owned(), weight.clone())).chain(alphas)
}

/// What the inner values of a batch are multiplied by: 0, or so much that their sum stays as it is expected. `samples` names each
/// sample, `tokens` are those of an image and of a text.
pub(super) fn masks(
    places: &[Place],
    dropout: f64,
    draws: &dyn Fn(&str, &str) -> Draws,
    samples: &[String],
    tokens: [usize; 2],
    device: &Device,
) -> Weights {
    let (threshold, kept) = ((dropout * 65536.0) as u32, (1.0 / (1.0 - dropout)) as f32);
    let mask = |place: &Place| {
        let site = place.site.to_string();
        let mut bytes = vec![0; 2 * rows(&place.site.layer, tokens) * place.rank];
        let mut values = Vec::with_capacity(samples.len() * bytes.len() / 2);
        for sample in samples {
            draws(sample, &site).fill(&mut bytes);
            let drawn = bytes.as_chunks::<2>().0.iter().map(|bytes| u32::from(u16::from_le_bytes(*bytes)));
            values.extend(drawn.map(|drawn| if drawn < threshold { 0.0 } else { kept }));
        }
        (format!("{site}{MASK}"), on_device(&[values.len()], &values, device))
    };
    places.iter().map(mask).collect()
}

/// How many times a layer is used for a sample: once for each token, or once.
fn rows(layer: &str, [image, text]: [usize; 2]) -> usize {
    match layer {
        _ if layer.contains("adaLN_modulation")
            || layer.starts_with("t_embedder")
            || layer.starts_with("y_embedder") =>
        {
            1
        }
        _ if layer.contains("context_") => text,
        _ => image,
    }
}

fn on_device(shape: &[usize], values: &[f32], device: &Device) -> Weight {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Weight { values: Tensor::from_data(data, (device, DType::F32)), shape: shape.to_vec() }
}
