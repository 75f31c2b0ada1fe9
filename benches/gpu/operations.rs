//! The operations that a block is made of, alone.

use crate::measure::Bench;
use burn::tensor::{DType, Tensor};

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

/// The largest differences of our kernels' output and gradient from what burn's simplest operations give in f32, over the largest
/// values.
fn difference(bench: &Bench, tokens: usize, causal: bool) -> [f32; 2] {
    const HEADS: usize = 3;
    let qkv = bench.random([2, tokens, 3 * HEADS * 64]);
    let towards = bench.random([2, tokens, HEADS * 64]);
    let both = |qkv: Tensor<3>, attend: &dyn Fn(Tensor<3>) -> Tensor<3>| {
        let towards = towards.clone().cast(qkv.dtype()).autodiff();
        let qkv = qkv.autodiff().require_grad();
        let out = attend(qkv.clone());
        let gradients = (out.clone() * towards).sum().backward();
        [out.inner(), qkv.grad(&gradients).expect("a gradient")].map(|tensor| tensor.cast(DType::F32))
    };
    let composed = |qkv: Tensor<3>| {
        let parts = qkv.reshape([2, tokens, 3 * HEADS, 64]).swap_dims(1, 2);
        let [q, k, v] = [0, 1, 2].map(|part| parts.clone().narrow(1, part * HEADS, HEADS));
        let mut scores = q.matmul(k.transpose()).mul_scalar(0.125);
        if causal {
            let later = Tensor::<2>::ones([tokens, tokens], (&bench.device, DType::F32)).triu(1).mul_scalar(-1e30);
            scores = scores + later.autodiff().unsqueeze::<4>();
        }
        let out = burn::tensor::activation::softmax(scores, 3).matmul(v);
        out.swap_dims(1, 2).reshape([2, tokens, HEADS * 64])
    };
    let expected = both(qkv.clone().cast(DType::F32), &composed);
    let found = both(qkv, &|qkv| sd3pipe_kernels::attention(qkv, HEADS, causal));
    let [out, gradient] = expected;
    let [found_out, found_gradient] = found;
    [(found_out, out), (found_gradient, gradient)].map(|(found, expected)| {
        let worst = (found - expected.clone()).abs().max() / expected.abs().max();
        sd3pipe_stages::nn::to_host(worst)[0]
    })
}

pub fn attention(bench: &Bench) {
    for (tokens, causal) in [(77, true), (77, false), (333, false), (1024, true), (1000, false)] {
        let [out, gradient] = difference(bench, tokens, causal);
        println!("{tokens} tokens, causal {causal}: difference {out:.5}, of the gradient {gradient:.5}");
    }
    let operations = 4.0 * (HEADS * TOKENS * TOKENS * 64) as f64;
    let qkv = bench.random([1, TOKENS, 3 * HEADS * 64]);
    bench.time("forward", operations, || sd3pipe_kernels::attention(qkv.clone(), HEADS, false));
    let towards = bench.random([1, TOKENS, HEADS * 64]).autodiff();
    bench.time("forward and backward", 3.5 * operations, || {
        let qkv = qkv.clone().autodiff().require_grad();
        let gradients = (sd3pipe_kernels::attention(qkv.clone(), HEADS, false) * towards.clone()).sum().backward();
        qkv.grad(&gradients)
    });
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
