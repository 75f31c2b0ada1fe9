//! Training steps against PyTorch's: losses, gradients, AdamW, clipping, schedule, batches that are added up
//! (see `tools/goldens/train.py`), and adapters against PEFT's (`tools/goldens/lora.py`).
//!
//! Whoever has to change a number here changes what equal inputs give, and must raise `train::REVISION`.
#![cfg(feature = "compute")]

mod golden;
mod start;

use burn::tensor::{DType, Device, Tensor, TensorData};
use golden::{Golden, PROBES, distance, sketch, uniform, values};
use sd3pipe_stages::adapter::parameters::Lora;
use sd3pipe_stages::checkpoint::POSITION_TABLE;
use sd3pipe_stages::error::StageError;
use sd3pipe_stages::images::Mask;
use sd3pipe_stages::nn::{Mmdit, PositionCrop};
use sd3pipe_stages::precision::Precision;
use sd3pipe_stages::tensors::Array;
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer};
use sd3pipe_stages::train::parameters::Train;
use sd3pipe_stages::train::schedule::Schedule;
use sd3pipe_stages::train::span::Span;
use sd3pipe_stages::train::{Batch, Drawn, Gradients, State, network, tracked};
use start::{Size, adapter, batch, batch_of_captions};
use std::collections::BTreeMap;

/// The relative error of losses and of norms, and that by Euclidean length of each tensor's gradient at the first step.
const OF_GRADIENTS: f64 = 2e-5;
/// The relative error, by Euclidean length, of each tensor's change over ten steps. Of the weights themselves, which change
/// little, the error would say little.
const OF_UPDATES: f64 = 2e-4;

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

/// Ten steps from the one that `start` is.
fn ten_steps(name: &str, golden: &Golden, start: &State, batch: fn(&str, Size) -> Batch) -> State {
    let [learning_rate, weight_decay]: [f64; 2] = ["learning_rate", "weight_decay"].map(|field| golden.config(field));
    let parameters = Train {
        optimizer: Optimizer::AdamW(AdamW { weight_decay, ..AdamW::default() }),
        max_gradient_norm: golden.config("largest_norm"),
        precision: Precision::F32,
        ..Train::default()
    };
    let schedule = Schedule::Cosine { warmup: Span::Steps(golden.config("warmup")), minimum_ratio: 0.0 };
    let steps: Vec<Vec<Size>> = golden.config("batches");
    let measured = golden.doubles("measured");

    let mut state = start.clone();
    for (step, (sizes, &[loss, norm, rate])) in steps.iter().zip(measured.as_chunks::<3>().0).enumerate() {
        let samples = sizes.iter().map(|size| size.0).sum();
        let batches =
            sizes.iter().enumerate().map(|(index, size)| Ok(batch(&format!("step {step} batch {index}"), *size)));
        let gradients = Gradients::of(&network(&state, &parameters), batches, samples).unwrap();
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
    let trained = start.weights.iter().filter(|(name, _)| *name != POSITION_TABLE);
    let updates = trained
        .map(|(name, weight)| (name, values(state.weights.get(name).unwrap().values.clone() - weight.values.clone())));
    let (error, tensor) = worst(golden, "updates", 0.0, updates);
    assert!(error <= OF_UPDATES, "{name}: the update of {tensor} is off by {error:e}");
    state
}

fn train_all(form: &str) {
    let golden = Golden::open(&format!("train-{form}"));
    let start = State::start(golden.mmdit());
    let state = ten_steps(form, &golden, &start, batch);
    let fixed = |state: &State| values(state.weights.get(POSITION_TABLE).unwrap().values.clone());
    assert_eq!(fixed(&state), fixed(&start));
}

fn train_adapter(case: &str, lora: Lora) {
    let golden = Golden::open(&format!("train-{case}"));
    ten_steps(case, &golden, &adapter(&golden, lora), batch);
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
fn ten_steps_of_a_lora_of_both_clips_and_the_mmdit_equal_the_reference() {
    let golden = Golden::open("train-lora-clips");
    let start = adapter(&golden, Lora::default());
    assert_eq!(start.weights.names().filter(|name| name.starts_with("clip_")).count(), 2 * 2 * 3 * 6);
    ten_steps("lora-clips", &golden, &start, batch_of_captions);
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

/// Two batches of unlike size, as one step adds them up.
const SIZES: [Size; 2] = [(2, 6, 10), (1, 8, 4)];

fn batches() -> impl Iterator<Item = Result<Batch, StageError>> {
    SIZES.into_iter().enumerate().map(|(index, size)| Ok(batch(&format!("batch {index}"), size)))
}

fn plain(state: &State, parameters: &Train) -> Gradients {
    Gradients::of(&network(state, parameters), batches(), 3).unwrap()
}

fn by_blocks(state: &mut State, parameters: &Train) -> Gradients {
    Gradients::by_blocks(state, parameters, batches(), 3).unwrap()
}

fn bits(tensors: impl IntoIterator<Item = (String, Tensor<1>)>) -> BTreeMap<String, Vec<u32>> {
    let of = |tensor: Tensor<1>| tensor.into_data().iter::<f32>().map(f32::to_bits).collect();
    tensors.into_iter().map(|(name, tensor)| (name, of(tensor))).collect()
}

fn state_bits(state: &State) -> BTreeMap<String, Vec<u32>> {
    bits(state.weights.iter().map(|(name, weight)| (name.to_owned(), weight.values.clone())))
}

fn parameters(settings: &str) -> Train {
    ron::from_str(&format!("(precision: F32, {settings})")).unwrap()
}

#[test]
fn gradients_by_blocks_are_those_of_the_plain_pass() {
    for form in ["3-medium", "3.5-medium", "3.5-large"] {
        let mut state = State::start(Golden::open(&format!("train-{form}")).mmdit());
        let parameters = parameters("");
        let (plain, again) = (plain(&state, &parameters), plain(&state, &parameters));
        let (found, repeated) = (by_blocks(&mut state, &parameters), by_blocks(&mut state, &parameters));
        assert_eq!(bits(plain.tensors.clone()), bits(again.tensors));
        assert_eq!(bits(found.tensors.clone()), bits(repeated.tensors));
        assert_eq!(found.loss.to_bits(), plain.loss.to_bits());
        assert_eq!(found.tensors.keys().collect::<Vec<_>>(), plain.tensors.keys().collect::<Vec<_>>());
        let largest = plain.tensors.values().map(|gradient| length(&values(gradient.clone()))).fold(0.0, f64::max);
        for (name, expected) in plain.tensors {
            let (found, expected) = (values(found.tensors[&name].clone()), values(expected));
            let apart: Vec<f32> = found.iter().zip(&expected).map(|(found, expected)| found - expected).collect();
            let error = length(&apart) / length(&expected).max(1e-4 * largest);
            assert!(error <= 1e-6, "{form}: the gradient of {name} is off by {error:e}");
            // The rest is the same arithmetic.
            assert!(name.starts_with("t_embedder") || name.starts_with("y_embedder") || found == expected, "{name}");
        }
    }
}

#[test]
fn an_adapters_gradients_by_blocks_are_those_of_the_plain_pass() {
    let golden = Golden::open("train-lora");
    let parameters = parameters("");
    for dora in [false, true] {
        let mut state = adapter(&golden, Lora { dora, ..Lora::default() });
        let plain = plain(&state, &parameters);
        let found = by_blocks(&mut state, &parameters);
        assert_eq!(found.loss.to_bits(), plain.loss.to_bits());
        assert!(found.tensors.keys().eq(state.weights.names()), "{:?}", found.tensors.keys());
        let (found, plain) = (bits(found.tensors), bits(plain.tensors));
        let in_blocks = |name: &str| name.starts_with("joint_blocks.");
        assert!(plain.iter().filter(|(name, _)| in_blocks(name)).all(|(name, gradient)| found[name] == *gradient));
        assert_eq!(found.len(), plain.len());
    }
}

/// Gradients of the CLIPs come last of all, by the gradients of the conditioning, and are those of one pass through everything.
#[test]
fn gradients_of_clips_by_blocks_are_those_of_the_plain_pass() {
    let golden = Golden::open("train-lora-clips");
    let batch = || batch_of_captions("batch", SIZES[0]);
    for (settings, dora) in [("", false), ("", true), ("optimizer: AdamW8bit(())", false)] {
        let parameters = parameters(settings);
        let mut state = adapter(&golden, Lora { dora, ..Lora::default() });
        let plain = Gradients::of(&network(&state, &parameters), [Ok(batch())], SIZES[0].0).unwrap();
        let found = Gradients::by_blocks(&mut state, &parameters, [Ok(batch())], SIZES[0].0).unwrap();
        assert_eq!(found.loss.to_bits(), plain.loss.to_bits());
        assert!(found.tensors.keys().eq(state.weights.names()), "{:?}", found.tensors.keys());
        let largest = plain.tensors.values().map(|gradient| length(&values(gradient.clone()))).fold(0.0, f64::max);
        for (name, expected) in plain.tensors {
            let (found, expected) = (values(found.tensors[&name].clone()), values(expected));
            let apart: Vec<f32> = found.iter().zip(&expected).map(|(found, expected)| found - expected).collect();
            let error = length(&apart) / length(&expected).max(1e-4 * largest);
            assert!(error <= 2e-6, "the gradient of {name} is off by {error:e}");
        }
        let mut fused = state.clone();
        let gradients = Gradients::by_blocks(&mut state, &parameters, [Ok(batch())], SIZES[0].0).unwrap();
        let expected = state.update(gradients, &parameters, 1e-3, 0).unwrap();
        assert_eq!(fused.update_by_blocks(batch(), SIZES[0].0, &parameters, 1e-3, 0).unwrap(), expected);
        assert_eq!(state_bits(&fused), state_bits(&state));
    }
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn a_fused_step_gives_the_bits_of_a_step_by_blocks() {
    for optimizer in ["AdamW(())", "Adafactor((scale_parameter: true))", "AdamWScheduleFree(())"] {
        for norm in [0.0, 0.5] {
            for weights in ["F32", "Bf16Stochastic"] {
                let settings = format!("optimizer: {optimizer}, max_gradient_norm: {norm:?}, weights: {weights}");
                let parameters = parameters(&settings);
                let mut apart = State::start(Golden::open("train-3-medium").mmdit());
                let mut fused = apart.clone();
                for step in 0..3 {
                    let batch = batch(&format!("batch {step}"), SIZES[0]);
                    let gradients = Gradients::by_blocks(&mut apart, &parameters, [Ok(batch.clone())], 2).unwrap();
                    let expected = apart.update(gradients, &parameters, 1e-3, step).unwrap();
                    let found = fused.update_by_blocks(batch, 2, &parameters, 1e-3, step).unwrap();
                    assert_eq!(found, expected, "{settings}");
                    assert!(expected.gradient_norm > norm);
                }
                assert_eq!(state_bits(&fused), state_bits(&apart), "{settings}");
                assert_eq!(fused.course, apart.course, "{settings}");
            }
        }
    }
}

/// The embedders and the first block.
const BEGINNING: &str = r#"freeze: ["*_embedder.*", "joint_blocks.0.*"]"#;

#[test]
fn frozen_tensors_have_no_gradients_and_leave_the_others_as_they_are() {
    let golden = Golden::open("train-3-medium");
    let mut state = State::start(golden.mmdit());
    let all = bits(plain(&state, &parameters("")).tensors);
    let parameters = parameters(BEGINNING);
    let found = bits(plain(&state, &parameters).tensors);
    assert_eq!(bits(by_blocks(&mut state, &parameters).tensors), found);
    let trained = all.keys().filter(|name| parameters.trains(name));
    assert_eq!(found.keys().collect::<Vec<_>>(), trained.collect::<Vec<_>>());
    assert!(found.iter().all(|(name, gradient)| all[name] == *gradient));
    assert!(found.len() < all.len());
}

#[test]
fn nothing_is_recorded_below_the_first_tensor_that_is_trained() {
    let weights = Golden::open("train-3-medium").mmdit();
    for (settings, after_first, after_second) in [(BEGINNING, false, true), ("", true, true)] {
        let parameters = parameters(settings);
        let tracked = tracked(&weights, DType::F32, |name| parameters.trains(name));
        let network = Mmdit::new(&tracked.root()).unwrap();
        let Batch { noisy, timesteps, context, pooled, .. } = batch("batch", SIZES[0]);
        let condition = network.condition(timesteps, pooled);
        let streams = network.embed(noisy, context, PositionCrop::Centre);
        let streams = network.blocks[0].forward(streams, condition.clone());
        assert_eq!(streams.image.is_tracked(), after_first, "{settings}");
        let streams = network.blocks[1].forward(streams, condition);
        assert_eq!(streams.image.is_tracked(), after_second, "{settings}");
    }
}

#[test]
fn a_loss_that_is_not_finite_moves_nothing() {
    let mut state = State::start(Golden::open("train-3-medium").mmdit());
    let before = state_bits(&state);
    for settings in ["max_gradient_norm: 1.0", "max_gradient_norm: 0.0"] {
        let parameters = parameters(settings);
        let mut batch = batch("batch", SIZES[0]);
        batch.target = batch.target * f32::NAN;
        let error = state.update_by_blocks(batch, 2, &parameters, 1e-3, 0).unwrap_err();
        assert!(error.to_string().contains("learning_rate"), "{error}");
        assert_eq!(state_bits(&state), before);
    }
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

#[test]
fn what_is_masked_has_no_gradient_and_each_sample_counts_for_itself() {
    const CELLS: usize = 8;
    let place = (&Device::flex(), DType::F32);
    let half = |first: f32, last: f32| {
        let values = (0..CELLS).map(|cell| if cell < CELLS / 2 { first } else { last }).collect();
        Some(Mask { cells: Array { shape: vec![2, 4], values } })
    };
    let measured = |counts: &[(f64, Option<Mask>)]| {
        let mut batch = batch("counts", (2, 2, 4));
        batch.count(counts).unwrap();
        let velocity = TensorData::new(uniform("velocity", 2 * 16 * CELLS), [2, 16, 2, 4]);
        let velocity = Tensor::<4>::from_data(velocity, place).autodiff().require_grad();
        let loss = batch.losses(velocity.clone()).mean();
        let all = loss.clone().backward();
        (values(loss.inner())[0], values(velocity.grad(&all).unwrap()))
    };
    let (loss, plain) = measured(&[(1.0, None), (1.0, None)]);
    assert!(plain.iter().all(|value| *value != 0.0));
    // To the bit what it is without.
    assert_eq!(measured(&[(1.0, half(1.0, 1.0)), (1.0, None)]), (loss, plain.clone()));

    let (_, masked) = measured(&[(1.0, half(0.0, 1.0)), (0.5, None)]);
    let (first, second) = masked.split_at(16 * CELLS);
    for (index, (found, plain)) in first.iter().zip(&plain).enumerate() {
        // The other half counts as much as the whole.
        let expected = if index % CELLS < CELLS / 2 { 0.0 } else { plain * 2.0 };
        assert_eq!(*found, expected, "value {index}");
    }
    // Neither the neighbour's mask nor its size of learning matters.
    assert!(second.iter().zip(&plain[16 * CELLS..]).all(|(found, plain)| *found == plain * 0.5));
    let (_, grey) = measured(&[(1.0, half(0.25, 0.25)), (1.0, None)]);
    assert_eq!(grey, plain, "only a mask's shape counts");

    let mut misfit = batch("counts", (1, 2, 2));
    assert!(misfit.count(&[(1.0, half(1.0, 1.0))]).unwrap_err().to_string().contains("has not the size"));
}
