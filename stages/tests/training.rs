//! Training steps against PyTorch's: losses, gradients, AdamW, clipping, schedule, batches that are added up
//! (see `tools/goldens/train.py`), and adapters against PEFT's (`tools/goldens/lora.py`).
//!
//! Whoever has to change a number here changes what equal inputs give, and must raise `train::REVISION`.
#![cfg(feature = "compute")]

mod golden;

use burn::tensor::{DType, Device, Tensor, TensorData};
use golden::{Golden, PROBES, distance, sketch, uniform, values, weight};
use sd3pipe_stages::adapter::{
    self,
    parameters::{Lora, Target},
};
use sd3pipe_stages::checkpoint::{MmditGeometry, POSITION_TABLE};
use sd3pipe_stages::nn::{Weight, Weights};
use sd3pipe_stages::tensors::Array;
use sd3pipe_stages::train::parameters::{Optimizer, Train};
use sd3pipe_stages::train::schedule::Schedule;
use sd3pipe_stages::train::{self, Batch, Drawn, Gradients, State, tracked};
use std::collections::BTreeMap;

/// The relative error of losses and of norms, and that by Euclidean length of each tensor's gradient at the first step.
const OF_GRADIENTS: f64 = 2e-5;
/// The relative error, by Euclidean length, of each tensor's change over ten steps. Of the weights themselves, which change
/// little, the error would say little.
const OF_UPDATES: f64 = 2e-4;

/// Samples, rows and columns.
type Size = (usize, usize, usize);

fn batch(name: &str, (samples, rows, columns): Size) -> Batch {
    let (context, pooled) = (24, 20);
    let each = 16 * rows * columns;
    let [raw, noise] = ["raw", "noise"].map(|what| uniform(&format!("{name} {what}"), samples * each));
    let drawn = uniform(&format!("{name} sigma"), samples).into_iter().enumerate().map(|(index, value)| {
        let part = index * each..(index + 1) * each;
        let raw = Array { shape: vec![16, rows, columns], values: raw[part.clone()].to_vec() };
        Drawn { raw, noise: noise[part].to_vec(), sigma: value * 0.5 + 0.5 }
    });
    let data = |what: &str, shape: &[usize]| {
        TensorData::new(uniform(&format!("{name} {what}"), shape.iter().product()), shape)
    };
    let place = (&Device::flex(), DType::F32);
    let context = Tensor::from_data(data("context", &[samples, 7, context]), place);
    Batch::new(&drawn.collect::<Vec<_>>(), context, Tensor::from_data(data("pooled", &[samples, pooled]), place))
        .unwrap()
}

/// Compares tensors, sorted by name, with a golden's sketches. What is measured is relative to the larger of the expected length
/// and `floor`: nothing reads the last block's text queries, so the gradient of their norm is zero.
fn worst<'t>(
    golden: &Golden,
    key: &str,
    floor: f64,
    tensors: impl Iterator<Item = (&'t str, Vec<f32>)>,
) -> (f64, String) {
    let expected = golden.doubles(key);
    let mut expected = expected.as_chunks::<{ PROBES + 1 }>().0.iter();
    let mut worst = (0.0, String::new());
    for (name, found) in tensors {
        let expected = expected.next().unwrap();
        let error = distance(&sketch(name, &found), expected) / expected[PROBES].max(floor);
        println!("{key} {name}: {error:.1e} of {:.1e}", expected[PROBES]);
        if error > worst.0 {
            worst = (error, name.to_owned());
        }
    }
    assert!(expected.next().is_none());
    worst
}

/// Ten steps of the tensors that `start` has, on the network that `network` makes of them.
fn ten_steps(name: &str, golden: &Golden, start: Weights, network: impl Fn(&Weights) -> Weights) -> State {
    let [learning_rate, weight_decay]: [f64; 2] = ["learning_rate", "weight_decay"].map(|field| golden.config(field));
    let Optimizer::AdamW { beta1, beta2, epsilon, .. } = Optimizer::default();
    let parameters = Train {
        optimizer: Optimizer::AdamW { beta1, beta2, epsilon, weight_decay },
        max_gradient_norm: golden.config("largest_norm"),
        ..Train::default()
    };
    let schedule = Schedule::Cosine { warmup: golden.config("warmup") };
    let steps: Vec<Vec<Size>> = golden.config("batches");
    let measured = golden.doubles("measured");

    let mut state = State::start(start.clone());
    for (step, (sizes, &[loss, norm, rate])) in steps.iter().zip(measured.as_chunks::<3>().0).enumerate() {
        let samples = sizes.iter().map(|size| size.0).sum();
        let batches =
            sizes.iter().enumerate().map(|(index, size)| Ok(batch(&format!("step {step} batch {index}"), *size)));
        let gradients = Gradients::of(&network(&state.weights), batches, samples).unwrap();
        if step == 0 {
            let found = gradients.tensors.iter().map(|(name, gradient)| (name.as_str(), values(gradient.clone())));
            let (error, tensor) = worst(golden, "gradients", 1e-4 * norm, found);
            assert!(error <= OF_GRADIENTS, "{name}: the gradient of {tensor} is off by {error:e}");
        }
        let factor = schedule.factor(step as u64, steps.len() as u64);
        let found = state.update(gradients, &parameters, learning_rate * factor, step as u64).unwrap();
        println!("{name} step {step}: {:.1e} {:.1e}", found.loss / loss - 1.0, found.gradient_norm / norm - 1.0);
        for (what, found, expected) in [("loss", found.loss, loss), ("norm", found.gradient_norm, norm)] {
            let error = (found / expected - 1.0).abs();
            assert!(error <= OF_GRADIENTS, "{name}: the {what} of step {step} is {found} and not {expected}");
        }
        assert!((found.learning_rate - rate).abs() <= 1e-12);
    }
    let trained = start.iter().filter(|(name, _)| *name != POSITION_TABLE);
    let updates = trained
        .map(|(name, weight)| (name, values(state.weights.get(name).unwrap().values.clone() - weight.values.clone())));
    let (error, tensor) = worst(golden, "updates", 0.0, updates);
    assert!(error <= OF_UPDATES, "{name}: the update of {tensor} is off by {error:e}");
    state
}

fn train_all(form: &str) {
    let golden = Golden::open(&format!("train-{form}"));
    let start = golden.mmdit();
    let state = ten_steps(form, &golden, start.clone(), |weights| tracked(weights, DType::F32));
    let fixed = |weights: &Weights| values(weights.get(POSITION_TABLE).unwrap().values.clone());
    assert_eq!(fixed(&state.weights), fixed(&start));
}

/// The adapter of `tools/goldens/lora.py`.
fn train_adapter(case: &str, lora: Lora) {
    let golden = Golden::open(&format!("train-{case}"));
    let (scale, shapes): (f32, BTreeMap<String, Vec<usize>>) = (golden.config("scale"), golden.config("adapter"));
    let geometry = MmditGeometry::of(|name| golden.shapes.get(name).cloned()).unwrap();
    let targets = Target::BLOCKS.into_iter().chain([Target::Embedders, Target::FinalLayer]).collect();
    let lora = Lora { rank: 4, alpha: Some(6.0), targets, ..lora };
    let places = adapter::places(&lora, &geometry).unwrap();
    assert!(places.iter().all(|place| place.scale == scale));

    let device = Device::flex();
    let base = golden.mmdit();
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
        let values =
            Tensor::from_data(TensorData::new(values, [shape.iter().product::<usize>()]), (&device, DType::F32));
        (name.clone(), Weight { values, shape: shape.clone() })
    });
    let start: Weights = start.collect();
    let frozen = train::adapter::frozen(base, &places, &device);
    ten_steps(case, &golden, start, |trained| train::adapter::tracked(&frozen, trained, DType::F32));
}

#[test]
fn ten_steps_of_a_lora_equal_the_reference() {
    train_adapter("lora", Lora::default());
}

#[test]
fn ten_steps_of_a_lora_with_queries_keys_and_values_apart_equal_the_reference() {
    train_adapter("lora-split", Lora { split_qkv: true, ..Lora::default() });
}

#[test]
fn ten_steps_of_a_dora_equal_the_reference() {
    train_adapter("dora", Lora { dora: true, ..Lora::default() });
}

#[test]
fn ten_steps_of_sd3_medium_equal_the_reference() {
    train_all("3-medium");
}

#[test]
fn ten_steps_of_sd35_medium_equal_the_reference() {
    train_all("3.5-medium");
}

#[test]
fn ten_steps_of_sd35_large_equal_the_reference() {
    train_all("3.5-large");
}

#[test]
fn latents_of_two_sizes_are_refused_in_one_batch() {
    let sample = |columns: usize| Drawn {
        raw: Array { shape: vec![16, 2, columns], values: vec![0.0; 32 * columns] },
        noise: vec![0.0; 32 * columns],
        sigma: 0.5,
    };
    let place = (&Device::flex(), DType::F32);
    let make = |samples: &[Drawn]| Batch::new(samples, Tensor::zeros([2, 7, 24], place), Tensor::zeros([2, 20], place));
    assert_eq!(make(&[sample(2), sample(2)]).unwrap().len(), 2);
    assert!(make(&[sample(2), sample(4)]).unwrap_err().to_string().contains("in one batch"));
    assert!(make(&[]).is_err());
}
