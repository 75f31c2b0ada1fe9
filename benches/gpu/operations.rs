//! What the chip can do, and the products and other operations that a block is made of, alone.

use crate::measure::{Bench, Least};
use burn::tensor::DType;
use sd3pipe_kernels::product;

/// Rows, inner dimension and columns of a block's matrix products: queries, keys and values by themselves and together, the two of the
/// feed-forward layer, and the text's.
const PRODUCTS: [[usize; 3]; 5] =
    [[4096, 1536, 1536], [4096, 1536, 4608], [4096, 1536, 6144], [4096, 6144, 1536], [333, 1536, 6144]];

/// So many are in the queue at once, as those of a network are.
const LAUNCHES: usize = 20;

/// The ceilings that shares are of: a product that leaves nothing to be desired, and a copy.
pub fn ceiling(bench: &Bench) {
    let side = 8192;
    let (a, b) = (bench.random([side, side]), bench.random([side, side]));
    bench.back_to_back("8192×8192×8192", LAUNCHES, 2.0 * (side as f64).powi(3), || {
        product(a.clone(), b.clone(), Default::default())
    });
    let copied = bench.random([1 << 30]);
    let least = Least { operations: 0.0, bytes: 4.0 * (1u64 << 30) as f64 };
    bench.time("copy of 2 GiB", least, || copied.clone() + 1.0);
}

pub fn products(bench: &Bench) {
    for [rows, inner, columns] in PRODUCTS {
        let operations = 2.0 * (rows * inner * columns) as f64;
        let name = format!("{rows}×{inner}×{columns}");
        let (a, weight) = (bench.random([rows, inner]), bench.random([columns, inner]));
        let ours = || product(a.clone(), weight.clone(), Default::default());
        bench.back_to_back(&name, LAUNCHES, operations, ours);
        bench.time(&format!("{name}, alone"), operations, ours);
    }
}

/// What lies between matrix products, as burn fuses it.
pub fn pieces(bench: &Bench) {
    const IMAGE: usize = 4096;
    let x = bench.random([1, IMAGE, 1536]);
    let wide = bench.random([1, IMAGE, 6144]);
    let (scale, shift) = (bench.random([1, 1, 1536]), bench.random([1, 1, 1536]));
    let bytes = |values: usize| Least { operations: 0.0, bytes: 2.0 * values as f64 };
    bench.time("layer norm and modulation", bytes(2 * IMAGE * 1536), || {
        let wide = x.clone().cast(DType::F32);
        let centred = wide.clone() - wide.mean_dim(2);
        let variance = centred.clone().square().mean_dim(2);
        let normal = centred / (variance + 1e-6).sqrt();
        (normal * (scale.clone().cast(DType::F32) + 1.0) + shift.clone().cast(DType::F32)).cast(DType::BF16)
    });
    bench.time("gelu, tanh form", bytes(2 * IMAGE * 6144), || {
        let x = wide.clone().cast(DType::F32);
        let inner = (x.clone() * x.clone() * x.clone() * 0.044_715 + x.clone()) * 0.797_884_560_802_865_4;
        (x * 0.5 * (inner.tanh() + 1.0)).cast(DType::BF16)
    });
    bench.time("gated residual", bytes(2 * IMAGE * 1536), || x.clone() + x.clone() * scale.clone());
}
