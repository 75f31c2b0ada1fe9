//! The operations that a block is made of, alone.

use crate::measure::Bench;
use burn::tensor::{DType, Tensor, module::attention as fused, ops::AttentionModuleOptions};

/// Rows, inner dimension and columns of a block's matrix products, and a large one as the chip's ceiling.
const PRODUCTS: [[usize; 3]; 6] = [
    [4096, 1536, 1536],
    [4096, 1536, 4608],
    [4096, 1536, 6144],
    [4096, 6144, 1536],
    [333, 1536, 6144],
    [8192, 8192, 8192],
];

const HEADS: usize = 24;
const IMAGE: usize = 4096;
const TOKENS: usize = IMAGE + 333;

pub fn matmul(bench: &Bench) {
    for [rows, inner, columns] in PRODUCTS {
        let operations = 2.0 * (rows * inner * columns) as f64;
        let (a, b) = (bench.random([rows, inner]), bench.random([inner, columns]));
        bench.time(&format!("{rows}×{inner}×{columns}"), operations, || a.clone().matmul(b.clone()));
        let b = bench.random([columns, inner]);
        bench.time(&format!("{rows}×{inner}×{columns}, ours"), operations, || {
            sd3pipe_kernels::product(a.clone(), b.clone(), Default::default())
        });
    }
}

fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    fused(q, k, v, None, None, AttentionModuleOptions::default())
}

/// The largest difference of our kernel from what burn's simplest operations give in f32, over the largest value.
fn difference(bench: &Bench, tokens: usize, causal: bool) -> f32 {
    let [q, k, v] = [(); 3].map(|()| bench.random([2, 3, tokens, 64]));
    let wide = |tensor: &Tensor<4>| tensor.clone().cast(DType::F32);
    let mut scores = wide(&q).matmul(wide(&k).transpose()).mul_scalar(0.125);
    if causal {
        let later = Tensor::<2>::ones([tokens, tokens], (&bench.device, DType::F32)).triu(1).mul_scalar(-1e30);
        scores = scores + later.unsqueeze::<4>();
    }
    let expected = burn::tensor::activation::softmax(scores, 3).matmul(wide(&v));
    let found = sd3pipe_kernels::attention(q, k, v, causal).cast(DType::F32);
    let worst = (found - expected.clone()).abs().max() / expected.abs().max();
    sd3pipe_stages::nn::to_host(worst)[0]
}

pub fn attention(bench: &Bench) {
    for (tokens, causal) in [(77, true), (77, false), (333, false), (1024, true), (1000, false)] {
        println!("{tokens} tokens, causal {causal}: difference {:.5}", difference(bench, tokens, causal));
    }
    let operations = 4.0 * (HEADS * TOKENS * TOKENS * 64) as f64;
    let whole = [(); 3].map(|()| bench.random([1, HEADS, TOKENS, 64]));
    let inside = [(); 3].map(|()| bench.random([1, TOKENS, HEADS, 64]));
    let swapped = || inside.clone().map(|part| part.swap_dims(1, 2));
    bench.time("forward, ours, heads outside", operations, || {
        let [q, k, v] = whole.clone();
        sd3pipe_kernels::attention(q, k, v, false)
    });
    bench.time("forward, ours, heads inside", operations, || {
        let [q, k, v] = swapped();
        sd3pipe_kernels::attention(q, k, v, false)
    });
    let both = |parts: [Tensor<4>; 3]| {
        let [q, k, v] = parts.map(|part| part.autodiff().require_grad());
        let gradients = attend(q.clone(), k.clone(), v.clone()).backward();
        [q.grad(&gradients), k.grad(&gradients), v.grad(&gradients)]
    };
    bench.time("forward and backward, burn's, heads outside", 3.5 * operations, || both(whole.clone()));
    bench.time("forward and backward, burn's, heads inside", 3.5 * operations, || both(swapped()));
}

/// What lies between matrix products, in bytes read and written over the memory's speed rather than in operations.
pub fn pieces(bench: &Bench) {
    let x = bench.random([1, IMAGE, 1536]);
    let wide = bench.random([1, IMAGE, 6144]);
    let (scale, shift) = (bench.random([1, 1, 1536]), bench.random([1, 1, 1536]));
    bench.time("layer norm and modulation", 0.0, || {
        let wide = x.clone().cast(DType::F32);
        let centred = wide.clone() - wide.mean_dim(2);
        let variance = centred.clone().square().mean_dim(2);
        let normal = centred / (variance + 1e-6).sqrt();
        (normal * (scale.clone().cast(DType::F32) + 1.0) + shift.clone().cast(DType::F32)).cast(DType::BF16)
    });
    bench.time("gelu, tanh form", 0.0, || {
        let x = wide.clone().cast(DType::F32);
        let inner = (x.clone() * x.clone() * x.clone() * 0.044_715 + x.clone()) * 0.797_884_560_802_865_4;
        (x * 0.5 * (inner.tanh() + 1.0)).cast(DType::BF16)
    });
    bench.time("gated residual", 0.0, || x.clone() + x.clone() * scale.clone());
    let device_copy = bench.random([1 << 30]);
    bench.time("add 1 to 2 GiB (4 GiB moved)", 0.0, || device_copy.clone() + 1.0);
}
