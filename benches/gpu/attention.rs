//! The attention of a block, alone.

use crate::measure::Bench;
use sd3pipe_stages::nn::attention::attention;

const HEADS: usize = 24;
const TOKENS: usize = 4096 + 333;

pub fn run(bench: &Bench) {
    let operations = 4.0 * (HEADS * TOKENS * TOKENS * 64) as f64;
    let qkv = bench.random([1, TOKENS, 3 * HEADS * 64]);
    bench.time("attention forward", operations, || attention(qkv.clone(), HEADS));
    bench.time("attention forward and backward", 3.5 * operations, || {
        let qkv = qkv.clone().autodiff().require_grad();
        let gradients = attention(qkv.clone(), HEADS).sum().backward();
        vec![qkv.grad(&gradients).expect("a gradient")]
    });
}
