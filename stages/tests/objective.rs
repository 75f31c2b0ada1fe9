//! What is learnt and how fast, against diffusers', PyTorch's and transformers' own functions (see `tools/goldens/objective.py`, which
//! names each option as a pipeline writes it).
//!
//! Whoever has to change a number here changes what equal inputs give, and must raise `train::REVISION`.
#![cfg(feature = "compute")]

mod golden;

use burn::tensor::{DType, Device, Tensor, TensorData};
use golden::{Golden, error, uniform, values};
use sd3pipe_stages::tensors::Array;
use sd3pipe_stages::train::density::Density;
use sd3pipe_stages::train::loss::{Loss, Objective, Target};
use sd3pipe_stages::train::schedule::Schedule;
use sd3pipe_stages::train::weighting::Weighting;
use sd3pipe_stages::train::{Batch, Drawn};

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    ron::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The goldens of one kind: the option as a pipeline writes it, and its values.
fn goldens(golden: &Golden, kind: &str) -> Vec<(String, Vec<f64>)> {
    let named = |name: &str| Some((name.strip_prefix(kind)?.trim_start().to_owned(), golden.doubles(name)));
    let found: Vec<_> = golden.file.names().filter_map(named).collect();
    assert!(!found.is_empty());
    found
}

fn assert_close(what: &str, found: impl IntoIterator<Item = f64>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= tolerance * expected.abs().max(1e-6), "{what}, {index}: {found} and not {expected}");
    }
}

#[test]
fn densities_equal_diffusers() {
    let golden = Golden::open("objective");
    let (uniforms, shares) = (golden.doubles("uniform"), golden.doubles("normal shares"));
    for (text, expected) in goldens(&golden, "density ") {
        let density: Density = read(&text);
        let normal = matches!(density, Density::LogitNormal { .. });
        let found = if normal { &shares } else { &uniforms }.iter().map(|uniform| density.of_uniform(*uniform));
        assert_close(&text, found, &expected, 1e-12);
    }
}

#[test]
fn weightings_equal_diffusers() {
    let golden = Golden::open("objective");
    for (text, expected) in goldens(&golden, "weighting ") {
        // diffusers rounds one of them to 32 bits.
        let weighting: Weighting = read(&text);
        assert_close(&text, golden.doubles("sigmas").into_iter().map(|sigma| weighting.factor(sigma)), &expected, 1e-7);
    }
}

#[test]
fn schedules_equal_transformers() {
    let golden = Golden::open("objective");
    let total = golden.config("total");
    for (text, expected) in goldens(&golden, "schedule ") {
        let schedule: Schedule = read(&text);
        assert_close(&text, (0..=total).map(|step| schedule.factor(step, total)), &expected, 1e-9);
    }
}

/// Every loss with every target and weighting, and its gradient: each sample has its own weight.
#[test]
fn losses_and_their_gradients_equal_torch() {
    let golden = Golden::open("objective");
    let (shape, sigmas): (Vec<usize>, Vec<f32>) = (golden.config("shape"), golden.config("loss_sigmas"));
    let each = shape.iter().product::<usize>();
    let [raw, noise, velocity] = ["raw", "noise", "velocity"].map(|name| uniform(name, sigmas.len() * each));
    let samples: Vec<Drawn> = sigmas
        .iter()
        .enumerate()
        .map(|(index, &sigma)| {
            let part = index * each..(index + 1) * each;
            let raw = Array { shape: shape.clone(), values: raw[part.clone()].to_vec() };
            Drawn { raw, noise: noise[part].to_vec(), sigma }
        })
        .collect();
    let place = (&Device::flex(), DType::F32);
    let batch = Batch::new(&samples, Tensor::zeros([3, 1, 1], place), Tensor::zeros([3, 1], place)).unwrap();
    let all = goldens(&golden, "loss ");
    assert_eq!(all.len(), 2 * 3 * 5);
    for (text, expected) in all {
        let mut words = text.splitn(3, ' ');
        let mut word = || words.next().unwrap();
        let (target, weighting, loss): (Target, Weighting, Loss) = (read(word()), read(word()), read(word()));
        let batch = Batch { objective: Objective { target, weighting, loss }, ..batch.clone() };
        let data = TensorData::new(velocity.clone(), [sigmas.len(), shape[0], shape[1], shape[2]]);
        let velocity = Tensor::<4>::from_data(data, place).autodiff().require_grad();
        let mean = batch.losses(velocity.clone()).mean();
        let found = f64::from(values(mean.clone().inner())[0]);
        assert!((found / expected[0] - 1.0).abs() <= 2e-6, "{text}: {found} and not {}", expected[0]);
        let gradient = values(velocity.grad(&mean.backward()).unwrap());
        let expected: Vec<f32> =
            golden.doubles(&format!("gradient {text}")).into_iter().map(|value| value as f32).collect();
        let off = error(&gradient, &expected);
        assert!(off <= 2e-6, "{text}: the gradient is off by {off:e}");
    }
}
