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
const TEXT: usize = 333;
const IMAGE: usize = 4096;
const TOKENS: usize = IMAGE + TEXT;

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

/// Queries, keys and values as they come.
fn heads(bench: &Bench) -> [Tensor<4>; 3] {
    [(); 3].map(|()| bench.random([1, HEADS, TOKENS, 64]))
}

pub fn attention(bench: &Bench) {
    let operations = 4.0 * (HEADS * TOKENS * TOKENS * 64) as f64;
    let [q, k, v] = heads(bench);
    bench.time("without gradients, whole tensors", operations, || attend(q.clone(), k.clone(), v.clone()));
    let swapped = [(); 3].map(|()| bench.random([1, TOKENS, HEADS, 64]));
    bench.time("without gradients, heads inside", operations, || {
        let [q, k, v] = swapped.clone().map(|part| part.swap_dims(1, 2));
        attend(q, k, v)
    });
    let context = [(); 3].map(|()| bench.random([1, TEXT, HEADS, 64]));
    let image = [(); 3].map(|()| bench.random([1, IMAGE, HEADS, 64]));
    bench.time("without gradients, two streams joined", operations, || {
        let [q, k, v] = [0, 1, 2]
            .map(|part| Tensor::cat(vec![context[part].clone(), image[part].clone()], 1).swap_dims(1, 2));
        attend(q, k, v)
    });
    bench.time("with a tape that is not used", operations, || {
        let [q, k, v] = [&q, &k, &v].map(|part| part.clone().autodiff().require_grad());
        attend(q, k, v)
    });
    bench.time("forward and backward", 3.5 * operations, || {
        let [q, k, v] = [&q, &k, &v].map(|part| part.clone().autodiff().require_grad());
        let gradients = attend(q.clone(), k.clone(), v.clone()).backward();
        [q.grad(&gradients), k.grad(&gradients), v.grad(&gradients)]
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
