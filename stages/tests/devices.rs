//! Several devices, here so many threads of the CPU, train as one does.
#![cfg(feature = "compute")]

mod golden;
mod start;

use burn::tensor::{Device, Tensor};
use golden::{Golden, values};
use sd3pipe_stages::adapter::parameters::Lora;
use sd3pipe_stages::train::parameters::{Checkpointing, Train};
use sd3pipe_stages::train::{Batch, Gradients, Measured, Rank, State, network};
use start::{Size, adapter, batch, batch_of_captions};
use std::collections::BTreeSet;

const STEPS: u64 = 3;
const SIZE: Size = (6, 4, 6);

/// Samples of a batch.
fn part(batch: &Batch, first: usize, count: usize) -> Batch {
    let range = first..first + count;
    let prompts = batch.prompts.iter().map(|prompt| {
        let (ids, kept) = (prompt.ids[range.clone()].to_vec(), prompt.kept[range.clone()].to_vec());
        sd3pipe_stages::train::Prompt { ids, kept, ..prompt.clone() }
    });
    Batch {
        noisy: batch.noisy.clone().slice([range.clone()]),
        timesteps: batch.timesteps.clone().slice([range.clone()]),
        sigmas: batch.sigmas[range.clone()].to_vec(),
        target: batch.target.clone().slice([range.clone()]),
        context: batch.context.clone().slice([range.clone()]),
        pooled: batch.pooled.clone().slice([range.clone()]),
        prompts: prompts.collect(),
        ..batch.clone()
    }
}

fn step(state: &mut State, parameters: &Train, mut batches: Vec<Batch>, rank: &Rank, step: u64) -> Measured {
    let rate = if parameters.optimizer.finds_its_rate() { 1.0 } else { 1e-3 };
    if parameters.fused_step {
        return state.update_by_blocks(batches.remove(0), SIZE.0, parameters, rate, step).unwrap();
    }
    let batches = batches.into_iter().map(Ok);
    let gradients = match parameters.checkpointing {
        Checkpointing::Blocks => Gradients::by_blocks(state, parameters, batches, SIZE.0).unwrap(),
        Checkpointing::None => {
            Gradients::of(&network(state, parameters), batches, SIZE.0).unwrap().of_all_devices(rank).unwrap()
        }
    };
    state.update(gradients, parameters, rate, step).unwrap()
}

/// Some steps on so many devices, each of which adds up so many batches; the states, and what was measured on the first.
fn train(
    start: &State,
    parameters: &Train,
    batch: &(dyn Fn(&str) -> Batch + Sync),
    devices: usize,
    batches: usize,
) -> (Vec<State>, Vec<Measured>) {
    let trained = start.weights.iter().filter(|(name, _)| parameters.trains(name));
    let lengths = trained.map(|(name, weight)| (name.to_owned(), weight.values.dims()[0])).collect();
    let (ranks, serve) = Rank::group(&vec![Device::flex(); devices], lengths);
    let each = SIZE.0 / devices / batches;
    let mut all: Vec<(State, Vec<Measured>)> = std::thread::scope(|scope| {
        scope.spawn(serve);
        let threads = ranks.into_iter().enumerate().map(|(index, rank)| {
            let mut state = State { rank: rank.clone(), ..start.clone() };
            scope.spawn(move || {
                let measured = (0..STEPS).map(|number| {
                    let whole = batch(&format!("step {number}"));
                    let own = (0..batches).map(|at| part(&whole, (index * batches + at) * each, each)).collect();
                    step(&mut state, parameters, own, &rank, number)
                });
                let measured = measured.collect();
                // What serves the devices ends with the last of them.
                state.rank = Rank::default();
                (state, measured)
            })
        });
        threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let measured = all[0].1.clone();
    assert!(all.iter().all(|(_, others)| *others == measured), "the devices measured different things");
    (all.drain(..).map(|(state, _)| state).collect(), measured)
}

fn apart(found: &Tensor<1>, expected: &Tensor<1>, start: &Tensor<1>) -> f64 {
    let length = |values: Vec<f32>| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let moved = length(values(expected.clone() - start.clone()));
    length(values(found.clone() - expected.clone())) / moved.max(1e-5)
}

fn compare(start: &State, settings: &str, batch: &(dyn Fn(&str) -> Batch + Sync), bound: f64) {
    let parameters: Train = ron::from_str(&format!("(precision: F32, {settings})")).unwrap();
    let (alone, measured) = train(start, &parameters, batch, 1, 1);
    for (devices, batches) in [(2, 1), (3, 1), (2, 3)] {
        if parameters.fused_step && batches > 1 {
            continue;
        }
        let (states, found) = train(start, &parameters, batch, devices, batches);
        for (found, expected) in found.iter().zip(&measured) {
            let off = (found.loss / expected.loss - 1.0).abs();
            assert!(off < 1e-5, "{settings} on {devices}: a loss of {} and not {}", found.loss, expected.loss);
        }
        for (name, weight) in states[0].weights.iter() {
            // All have the same weights, to the bit.
            let own = values(weight.values.clone());
            assert!(
                states.iter().all(|state| values(state.weights.get(name).unwrap().values.clone()) == own),
                "{name}"
            );
            let [expected, start] = [&alone[0], start].map(|state| state.weights.get(name).unwrap().values.clone());
            let error = apart(&weight.values, &expected, &start);
            assert!(error < bound, "{settings} on {devices}: {name} is off by {error:e}");
        }
        // Each keeps what belongs to its own tensors, and together they keep all.
        let kept: Vec<&String> = states.iter().flat_map(|state| state.kept.keys()).collect();
        assert_eq!(kept.len(), kept.iter().collect::<BTreeSet<_>>().len());
        assert!(kept.iter().collect::<BTreeSet<_>>().into_iter().copied().eq(alone[0].kept.keys()));
        assert!(states.iter().all(|state| state.kept.len() < alone[0].kept.len()));
    }
}

#[test]
fn every_optimizer_comes_to_the_same_on_several_devices() {
    let start = State::start(Golden::open("train-3-medium").mmdit());
    let optimizers =
        ["AdamW(())", "AdamW8bit(())", "Adafactor(())", "Lion(())", "Prodigy(())", "AdamWScheduleFree(())"];
    for optimizer in optimizers {
        // A sign turns with the last bit of what it is of.
        let bound = if optimizer.starts_with("Lion") { 0.2 } else { 0.02 };
        compare(&start, &format!("optimizer: {optimizer}"), &|name| batch(name, SIZE), bound);
    }
}

#[test]
fn every_way_through_the_network_comes_to_the_same_on_several_devices() {
    let start = State::start(Golden::open("train-3.5-medium").mmdit());
    for settings in [
        "max_gradient_norm: 0.1",
        "checkpointing: Blocks",
        "checkpointing: Blocks, max_gradient_norm: 0.1",
        "checkpointing: Blocks, fused_step: true",
        "checkpointing: Blocks, fused_step: true, max_gradient_norm: 0.1",
        r#"checkpointing: Blocks, freeze: ["*_embedder.*", "joint_blocks.0.*"]"#,
    ] {
        compare(&start, settings, &|name| batch(name, SIZE), 0.02);
    }
}

#[test]
fn an_adapter_of_the_clips_too_comes_to_the_same_on_several_devices() {
    let golden = Golden::open("train-lora-clips");
    for settings in ["", "checkpointing: Blocks", "checkpointing: Blocks, fused_step: true"] {
        let start = adapter(&golden, Lora { dora: true, ..Lora::default() });
        compare(&start, settings, &|name| batch_of_captions(name, SIZE), 0.02);
    }
}
