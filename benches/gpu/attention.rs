//! The attention of a block, alone.

use crate::measure::Bench;
use burn::tensor::Tensor;
use sd3pipe_stages::nn::attention::attention;

const HEADS: usize = 24;
const TOKENS: usize = 4096 + 333;

pub fn run(bench: &Bench) {
    let operations = 4.0 * (HEADS * TOKENS * TOKENS * 64) as f64;
    // Heads lie inside, as a block has them.
    let parts = [(); 3].map(|()| bench.random([1, TOKENS, HEADS, 64]));
    let swapped = || parts.clone().map(|part| part.swap_dims(1, 2));
    bench.time("attention forward", operations, || {
        let [q, k, v] = swapped();
        attention(q, k, v)
    });
    bench.time("attention forward and backward", 3.5 * operations, || {
        let [q, k, v] = swapped().map(|part: Tensor<4>| part.autodiff().require_grad());
        let gradients = attention(q.clone(), k.clone(), v.clone()).sum().backward();
        [q, k, v].map(|part| part.grad(&gradients).expect("a gradient")).to_vec()
    });
}
