//! What trainings of tests start from, by formulas: batches, and adapters without a step.

use crate::golden::{Golden, uniform, values, weight};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_stages::adapter::{
    self, Clips, network_of,
    parameters::{Layers, Lora},
};
use sd3pipe_stages::checkpoint::{Component, MmditGeometry};
use sd3pipe_stages::nn::{Weight, Weights};
use sd3pipe_stages::tensors::Array;
use sd3pipe_stages::train::{self, Batch, Drawn, Prompt, State};
use std::collections::BTreeMap;

/// Samples, rows and columns.
pub type Size = (usize, usize, usize);

pub fn batch(name: &str, size: Size) -> Batch {
    let data = |what: &str, shape: &[usize]| {
        TensorData::new(uniform(&format!("{name} {what}"), shape.iter().product()), shape)
    };
    let place = (&Device::flex(), DType::F32);
    let context = Tensor::from_data(data("context", &[size.0, 7, 24]), place);
    conditioned(name, size, context, Tensor::from_data(data("pooled", &[size.0, 20]), place))
}

/// The same with captions for both CLIPs: `encoders` of `tools/goldens/lora.py`.
pub fn batch_of_captions(name: &str, size: Size) -> Batch {
    let (samples, words, t5_rows, width) = (size.0, 10, 3, 128);
    let channels = 2 * width + 16;
    // What stands in the CLIPs' places is not what the network reads.
    let row = |_| (0..channels).map(|channel| if channel < 2 * width { 9.0 } else { 0.0 });
    let t5 = uniform(&format!("{name} t5"), samples * t5_rows * channels);
    let samples_of_t5 = t5.chunks(t5_rows * channels);
    let context: Vec<f32> = samples_of_t5.flat_map(|t5| (0..words).flat_map(row).chain(t5.iter().copied())).collect();
    let context = TensorData::new(context, [samples, words + t5_rows, channels]);

    let drawn = uniform(&format!("{name} ids"), samples * words);
    let share = |value: f32| f64::from((value + 1.0) / 2.0);
    let prompt = |clip, padding, channel| {
        let ids = drawn.chunks(words).map(|row| {
            let count = 2 + (share(row[0]) * 6.0) as usize;
            let mut ids = vec![98];
            ids.extend(row[1..=count].iter().map(|value| (share(*value) * 98.0) as u32).chain([99]));
            ids.resize(words, padding);
            ids
        });
        let kept = |index: usize| if clip == Component::ClipG && index % 3 == 1 { 0.0 } else { 1.0 };
        Prompt { clip, ids: ids.collect(), kept: (0..samples).map(kept).collect(), channel }
    };
    let place = (&Device::flex(), DType::F32);
    let (context, pooled) = (Tensor::from_data(context, place), Tensor::ones([samples, 2 * width], place));
    let prompts = vec![prompt(Component::ClipL, 99, 0), prompt(Component::ClipG, 0, width)];
    Batch { prompts, ..conditioned(name, size, context, pooled) }
}

fn conditioned(name: &str, (samples, rows, columns): Size, context: Tensor<3>, pooled: Tensor<2>) -> Batch {
    let each = 16 * rows * columns;
    let [raw, noise] = ["raw", "noise"].map(|what| uniform(&format!("{name} {what}"), samples * each));
    let drawn = uniform(&format!("{name} sigma"), samples).into_iter().enumerate().map(|(index, value)| {
        let part = index * each..(index + 1) * each;
        let raw = Array { shape: vec![16, rows, columns], values: raw[part.clone()].to_vec() };
        Drawn { raw, noise: noise[part].to_vec(), sigma: value * 0.5 + 0.5 }
    });
    Batch::new(&drawn.collect::<Vec<_>>(), context, pooled).unwrap()
}

/// The adapter of `tools/goldens/lora.py` before the first step.
pub fn adapter(golden: &Golden, lora: Lora) -> State {
    let (scale, shapes): (f32, BTreeMap<String, Vec<usize>>) = (golden.config("scale"), golden.config("adapter"));
    let geometry = MmditGeometry::of(|name| golden.shapes.get(name).cloned()).unwrap();
    let clips = [(Component::ClipL, "clip_l."), (Component::ClipG, "clip_g.")].map(|(clip, prefix)| {
        let own = |(name, shape): (&String, &Vec<usize>)| Some((name.strip_prefix(prefix)?.to_owned(), shape.clone()));
        (clip, golden.shapes.iter().filter_map(own).collect::<Vec<_>>())
    });
    let clips: Clips = clips.into_iter().filter(|(_, tensors)| !tensors.is_empty()).collect();
    let of_clips = [Layers::ClipLAttention, Layers::ClipLFeedForward, Layers::ClipGAttention, Layers::ClipGFeedForward];
    let targets = Layers::BLOCKS.into_iter().chain([Layers::Embedders, Layers::FinalLayer]);
    let targets = targets.chain(of_clips.into_iter().filter(|_| !clips.is_empty())).collect();
    let lora = Lora { rank: 4, alpha: Some(6.0), targets, ..lora };
    let places = adapter::places(&lora, &geometry, &clips).unwrap();
    assert!(places.iter().all(|place| place.scale == scale));

    let device = Device::flex();
    let on_device = |values: Vec<f32>, shape: &[usize]| {
        let values = TensorData::new(values, [shape.iter().product::<usize>()]);
        Weight { values: Tensor::from_data(values, (&device, DType::F32)), shape: shape.to_vec() }
    };
    // A CLIP's weights follow from their names in its own file.
    let base = golden.shapes.iter();
    let base: Weights =
        base.map(|(name, shape)| (name.clone(), on_device(weight(network_of(name).1, shape), shape))).collect();
    let start = shapes.iter().map(|(name, shape)| {
        let formula = || weight(name, shape).into_iter();
        let values: Vec<f32> = match name.split_once(".lora_") {
            Some((layer, "magnitude_vector")) => {
                let rows = values(base.get(&format!("{layer}.weight")).unwrap().values.clone());
                let lengths = rows.chunks(rows.len() / shape[0]).map(|row| {
                    row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt() as f32
                });
                lengths.zip(formula()).map(|(length, by)| length * (1.0 + by)).collect()
            }
            Some((_, "up.weight")) => formula().map(|value| value * 0.1).collect(),
            _ => formula().collect(),
        };
        (name.clone(), on_device(values, shape))
    });
    let start: Weights = start.collect();
    State { frozen: train::adapter::frozen(base, &places, |_| device.clone()), ..State::start(start) }
}
