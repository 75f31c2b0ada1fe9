//! Our kernels against the same in f32, before anything is made of their times.

use crate::{
    goldens::golden::{error, uniform},
    measure::Bench,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_kernels::{Across, product};
use sd3pipe_stages::nn::{Weight, Weights, attention, to_host};
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer};
use sd3pipe_stages::train::parameters::{Train, WeightType};
use sd3pipe_stages::train::{Gradients, State};
use std::collections::BTreeMap;

pub fn run(bench: &Bench) {
    products(bench);
    attentions(bench);
    adamw(bench);
}

/// Products of bf16 in all four layouts, which are rounded to bf16 at the end, against one of the same values in f32.
fn products(bench: &Bench) {
    for [rows, inner, columns] in [[4096, 1536, 1536], [333, 1536, 6144], [1000, 264, 520], [77, 768, 3072]] {
        let (left, right) = (bench.random([rows, inner]), bench.random([columns, inner]));
        let expected = left.clone().cast(DType::F32).matmul(right.clone().cast(DType::F32).transpose());
        let expected = to_host(expected);
        for across in [(false, false), (false, true), (true, false), (true, true)] {
            let lay = |matrix: &Tensor<2>, across| if across { matrix.clone().transpose() } else { matrix.clone() };
            let found =
                product(lay(&left, across.0), lay(&right, across.1), Across { left: across.0, right: across.1 });
            let row = format!("product {rows}×{inner}×{columns}, across {across:?}");
            bench.check(&row, error(&to_host(found), &expected), 4e-3);
        }
    }
}

/// The attention of bf16 against that of the same values in f32, by the simplest operations.
fn attentions(bench: &Bench) {
    for (tokens, causal) in [(77, true), (77, false), (333, false), (1024, true), (1000, false)] {
        let [q, k, v] = [(); 3].map(|()| bench.random([2, 3, tokens, 64]));
        let wide = |tensor: &Tensor<4>| tensor.clone().cast(DType::F32);
        let mut scores = wide(&q).matmul(wide(&k).transpose()).mul_scalar(0.125);
        if causal {
            let later = Tensor::<2>::ones([tokens, tokens], (&bench.device, DType::F32)).triu(1).mul_scalar(-1e30);
            scores = scores + later.unsqueeze::<4>();
        }
        let expected = burn::tensor::activation::softmax(scores, 3).matmul(wide(&v));
        let found = if causal { attention::causal_attention(q, k, v) } else { attention::attention(q, k, v) };
        let row = format!("attention of {tokens} tokens, causal {causal}");
        bench.check(&row, error(&to_host(found), &to_host(expected)), 1e-2);
    }
}

/// Five steps of 8-bit AdamW by the kernel against the same of many operations on the CPU, as what they change of the weights. Draws
/// are the same there, so that weights of bf16 are rounded alike.
fn adamw(bench: &Bench) {
    let lengths = BTreeMap::from([("one block short", 4096 + 8), ("whole blocks", 1 << 20)]);
    for (weights, kept_as) in [(WeightType::F32, DType::F32), (WeightType::Bf16Stochastic, DType::BF16)] {
        let row = format!("five steps of 8-bit AdamW, weights {weights:?}");
        let parameters = Train {
            optimizer: Optimizer::AdamW8bit(AdamW::default()),
            weights,
            max_gradient_norm: 0.0,
            ..Train::default()
        };
        let change = |device: &Device| {
            let drawn = |name: String, count: usize, dtype: DType| {
                let values = TensorData::new(uniform(&name, count), [count]);
                Tensor::<1>::from_data(values, (device, DType::F32)).cast(dtype)
            };
            let weight = |(name, count): (&&str, &usize)| {
                let values = drawn(format!("weight {name}"), *count, kept_as);
                ((*name).to_owned(), Weight { values, shape: vec![*count] })
            };
            let start: Weights = lengths.iter().map(weight).collect();
            let mut state = State::start(start.clone());
            for step in 0..5 {
                let tensors = lengths.iter().map(|(name, count)| {
                    ((*name).to_owned(), drawn(format!("gradient {step} {name}"), *count, DType::BF16))
                });
                let gradients = Gradients { loss: 1.0, tensors: tensors.collect() };
                state.update(gradients, &parameters, 1e-3, step).expect("a step");
            }
            let moved = start.iter().flat_map(|(name, before)| {
                let after = state.weights.get(name).expect("the same weights").values.clone().cast(DType::F32);
                to_host(after - before.values.clone().cast(DType::F32))
            });
            moved.collect::<Vec<_>>()
        };
        bench.check(&row, error(&change(&bench.device), &change(&Device::flex())), 1e-2);
    }
}
