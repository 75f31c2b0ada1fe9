//! Optimizers against the references' own, on the same gradients (see `tools/goldens/optimizers.py`), and their states in files.
#![cfg(feature = "compute")]

mod golden;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use golden::{Golden, uniform, values, weight};
use sd3pipe_stages::nn::{Weight, Weights};
use sd3pipe_stages::train::average::Average;
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer, Stored};
use sd3pipe_stages::train::parameters::{Train, WeightType};
use sd3pipe_stages::train::{Gradients, Rank, State};
use serde::Deserialize;
use std::collections::BTreeMap;

/// An optimizer with the learning rate of each step.
#[derive(Deserialize)]
struct Case {
    name: String,
    optimizer: Optimizer,
    rates: Vec<f64>,
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (&Device::flex(), DType::F32))
}

fn start(golden: &Golden, dtype: DType) -> State {
    let weights: Weights = golden
        .shapes
        .iter()
        .map(|(name, shape)| {
            (name.clone(), Weight { values: tensor(weight(name, shape)).cast(dtype), shape: shape.clone() })
        })
        .collect();
    State::start(weights)
}

/// Those of a valley with noise.
fn gradients(state: &State, step: usize) -> Gradients {
    let gradient = |(name, weight): (&str, &Weight)| {
        let uniform = |what: &str| tensor(uniform(&format!("{name} {what}"), weight.values.dims()[0]));
        let values = weight.values.clone().cast(DType::F32);
        let gradient = (values - uniform("target")).mul_scalar(0.5) + uniform(&step.to_string()).mul_scalar(0.1);
        (name.to_owned(), gradient)
    };
    Gradients::new(1.0, state.weights.iter().map(gradient).collect())
}

fn parameters(optimizer: &Optimizer, weights: WeightType) -> Train {
    Train { optimizer: optimizer.clone(), weights, max_gradient_norm: 0.0, ..Train::default() }
}

fn run(state: &mut State, case: &Case, weights: WeightType, steps: std::ops::Range<usize>) {
    let parameters = parameters(&case.optimizer, weights);
    for step in steps {
        let gradients = gradients(state, step);
        state.update(gradients, &parameters, case.rates[step], step as u64).unwrap();
    }
}

fn assert_near(what: &str, found: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
    println!("{what}: {worst:.1e}");
    assert!(worst <= bound, "{what} is off by {worst:e}");
}

#[test]
fn twelve_steps_of_every_optimizer_equal_the_references() {
    let golden = Golden::open("optimizers");
    for case in golden.config::<Vec<Case>>("cases") {
        let mut state = start(&golden, DType::F32);
        run(&mut state, &case, WeightType::F32, 0..case.rates.len());
        let first = start(&golden, DType::F32);
        for (name, weight) in state.weights.iter() {
            let key = format!("{}/{name}", case.name);
            // A hundredth of what it has moved where that is less: the comparison would say nothing otherwise.
            let moved = weight.values.clone() - first.weights.get(name).unwrap().values.clone();
            let bound = (0.01 * values(moved.abs().mean())[0]).min(1e-5);
            assert_near(&key, &values(weight.values.clone()), &golden.floats(&key), bound);
        }
        for (name, weight) in state.results(&case.optimizer) {
            let key = format!("{} result/{name}", case.name);
            if golden.file.info(&key).is_some() {
                assert_near(&key, &values(weight.values), &golden.floats(&key), 1e-5);
            } else {
                assert_eq!(values(weight.values), values(state.weights.get(&name).unwrap().values.clone()));
            }
        }
    }
}

/// Everything that a state holds, in bits.
fn bits(state: &State) -> BTreeMap<String, Vec<u64>> {
    let floats = |values: &Tensor<1>| -> Vec<u64> {
        values.clone().into_data().iter::<f32>().map(|value| u64::from(value.to_bits())).collect()
    };
    let codes =
        |values: &Tensor<1, Int>| -> Vec<u64> { values.clone().into_data().iter::<u8>().map(u64::from).collect() };
    let weights = state.weights.iter().map(|(name, weight)| (name.to_owned(), floats(&weight.values)));
    let average = state.average.iter().map(|(name, weight)| (format!("average of {name}"), floats(&weight.values)));
    let kept = state.kept.iter().flat_map(|(name, kept)| {
        kept.iter().map(move |(kind, stored)| {
            let bits = match stored {
                Stored::Floats(values) => floats(values),
                Stored::Codes(values) => codes(values),
            };
            (format!("{kind} of {name}"), bits)
        })
    });
    weights.chain(average).chain(kept).collect()
}

#[test]
fn a_state_that_was_saved_and_loaded_goes_on_to_the_same_bits() {
    let golden = Golden::open("optimizers");
    let mut cases = golden.config::<Vec<Case>>("cases");
    let rates = cases[0].rates.clone();
    cases.push(Case { name: "8 bits".to_owned(), optimizer: Optimizer::AdamW8bit(AdamW::default()), rates });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let large = Golden::open("optimizer-8-bit");
    for case in cases {
        for (weights, dtype) in [(WeightType::F32, DType::F32), (WeightType::Bf16Stochastic, DType::BF16)] {
            let mut state = start(&large, dtype);
            run(&mut state, &case, weights, 0..6);
            state.follow(&Average::default(), |name| name != "bias", 5, &Device::flex());
            state.save(&path).unwrap();
            let mut loaded = State::load(&path, |_| Device::flex(), Rank::default()).unwrap();
            assert_eq!((bits(&loaded), loaded.course), (bits(&state), state.course), "{}", case.name);
            run(&mut state, &case, weights, 6..12);
            run(&mut loaded, &case, weights, 6..12);
            assert_eq!((bits(&loaded), loaded.course), (bits(&state), state.course), "{}", case.name);
            assert!(state.weights.iter().all(|(_, weight)| weight.values.dtype() == dtype), "{}", case.name);
        }
    }
}

/// How far codes are from the reference's: the farthest, and the share that is not equal.
fn apart(found: &[u8], expected: &[u8]) -> (u8, f64) {
    assert_eq!(found.len(), expected.len());
    let distances = || found.iter().zip(expected).map(|(found, expected)| found.abs_diff(*expected));
    let unequal = distances().filter(|distance| *distance > 0).count();
    (distances().max().unwrap_or_default(), unequal as f64 / found.len() as f64)
}

#[test]
fn states_in_8_bits_stay_within_one_code_of_the_references_over_a_hundred_steps() {
    let golden = Golden::open("optimizer-8-bit");
    let adamw = AdamW { weight_decay: golden.config("weight_decay"), ..AdamW::default() };
    let parameters = parameters(&Optimizer::AdamW8bit(adamw), WeightType::F32);
    let mut state = start(&golden, DType::F32);
    for step in 0..golden.config::<usize>("steps") {
        let gradient = |(name, weight): (&str, &Weight)| {
            let [length] = weight.values.dims();
            let size = tensor(uniform(&format!("{name} size"), length)).mul_scalar(0.45).add_scalar(0.55);
            let noise = tensor(uniform(&format!("{name} {step}"), length));
            (name.to_owned(), noise * size.clone() * size.clone() * size)
        };
        let tensors = state.weights.iter().map(gradient).collect();
        state.update(Gradients::new(1.0, tensors), &parameters, golden.config("learning_rate"), step as u64).unwrap();
        if golden.file.info(&format!("{}/state1", step + 1)).is_none() {
            continue;
        }
        let kept: BTreeMap<&str, &Stored> = state.kept["large.weight"].iter().collect();
        for (ours, reference) in [("first", "1"), ("second", "2")] {
            let (Stored::Codes(codes), Stored::Floats(scales)) =
                (kept[format!("{ours} codes").as_str()], kept[format!("{ours} scales").as_str()])
            else {
                panic!("{ours} is not in 8 bits");
            };
            let codes: Vec<u8> = codes.clone().into_data().iter::<u8>().collect();
            let expected = golden.file.bytes(&format!("{}/state{reference}", step + 1)).unwrap();
            let (farthest, unequal) = apart(&codes, expected);
            println!("step {}: {ours}: {unequal:.1e} of the codes differ, by {farthest} at most", step + 1);
            assert!(farthest <= 1 && unequal < 0.01, "step {}: {ours} differs", step + 1);
            let key = format!("{}/absmax{reference}", step + 1);
            assert_near(&key, &values(scales.clone()), &golden.floats(&key), 1e-6);
        }
    }
    for (name, weight) in state.weights.iter() {
        let key = format!("100/{name}");
        // A code that differs moves its weight a little differently.
        assert_near(&key, &values(weight.values.clone()), &golden.floats(&key), 1e-4);
    }
    // Below 4096 values the states stay in 32 bits.
    assert!(state.kept["bias"].iter().all(|(_, stored)| matches!(stored, Stored::Floats(_))));
}

#[test]
fn groups_and_exclusions_set_rate_and_decay_and_the_first_group_counts() {
    let parameters: Train = ron::from_str(
        r#"(groups: [(match: "joint_blocks.0-1.*", learning_rate: 0.5), (match: "*.bias", weight_decay: Some(0.2))],
            freeze: ["*.ln_q.*"], decay: Matrices)"#,
    )
    .unwrap();
    assert_eq!(parameters.pace_of("joint_blocks.1.x_block.attn.qkv.bias", 1), (0.5, 0.0));
    assert_eq!(parameters.pace_of("joint_blocks.1.x_block.attn.qkv.weight", 2), (0.5, 0.01));
    assert_eq!(parameters.pace_of("x_embedder.proj.bias", 2), (1.0, 0.2));
    assert_eq!(parameters.pace_of("x_embedder.proj.weight", 4), (1.0, 0.01));
    assert!(!parameters.trains("joint_blocks.1.x_block.attn.ln_q.weight") && !parameters.trains("pos_embed"));
    assert!(parameters.trains("joint_blocks.1.x_block.attn.ln_k.weight"));
}

#[test]
fn a_group_moves_at_its_own_pace_and_a_frozen_tensor_not_at_all() {
    let golden = Golden::open("optimizers");
    let moved = |settings: &str| -> BTreeMap<String, f32> {
        let parameters: Train = ron::from_str(settings).unwrap();
        let mut state = start(&golden, DType::F32);
        let before = state.weights.clone();
        let mut gradients = gradients(&state, 0);
        gradients.tensors.retain(|name, _| parameters.trains(name));
        state.update(gradients, &parameters, 1e-2, 0).unwrap();
        assert!(state.kept.keys().all(|name| parameters.trains(name)), "a frozen tensor has a state");
        let distance = |(name, weight): (&str, &Weight)| {
            let distance = weight.values.clone() - before.get(name).unwrap().values.clone();
            (name.to_owned(), values(distance.abs().mean())[0])
        };
        state.weights.iter().map(distance).collect()
    };
    let lion = "optimizer: Lion(()), max_gradient_norm: 0.0";
    let found = moved(&format!("({lion}, groups: [(match: \"matrix*\", learning_rate: 0.25)], freeze: [\"bias\"])"));
    assert_eq!(found["bias"], 0.0);
    assert!((found["matrix.weight"] - 0.0025).abs() < 1e-6 && (found["convolution.weight"] - 0.01).abs() < 1e-6);
}

/// A running mean with its settings.
#[derive(Deserialize)]
struct Mean {
    name: String,
    average: Average,
}

#[test]
fn twelve_steps_of_the_average_equal_the_reference() {
    let golden = Golden::open("average");
    for Mean { name: case, average } in golden.config::<Vec<Mean>>("cases") {
        let mut state = start(&golden, DType::F32);
        for step in 0..golden.config("steps") {
            for (name, shape) in &golden.shapes {
                let values = tensor(uniform(&format!("{name} {step}"), shape.iter().product()));
                state.weights.insert(name.clone(), Weight { values, shape: shape.clone() });
            }
            state.follow(&average, |_| true, step, &Device::flex());
            for (name, weight) in state.averages().iter() {
                let key = format!("{case} {step}/{name}");
                assert_near(&key, &values(weight.values.clone()), &golden.floats(&key), 1e-6);
            }
        }
    }
}

#[test]
fn the_average_is_in_32_bits_and_of_what_is_trained() {
    let mut state = start(&Golden::open("average"), DType::BF16);
    state.follow(&Average::default(), |name| name != "bias", 0, &Device::flex());
    assert!(state.average.iter().all(|(_, weight)| weight.values.dtype() == DType::F32));
    assert_eq!(state.average.names().collect::<Vec<_>>(), ["matrix.weight"]);
    assert_eq!(state.averages().len(), state.weights.len());
}
