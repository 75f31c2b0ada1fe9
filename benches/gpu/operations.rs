//! What the chip can do, and the products that a block is made of, alone.

use crate::measure::{Bench, Least};
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
