//! What lies between products and attention: norms, residuals, activations, and the sums that are gradients of biases.

use crate::measure::{Bench, Least};
use burn::tensor::{DType, Tensor};

/// Samples and tokens: of SD3-medium at 1024², a batch of them, and numbers that no kernel likes.
const SIZES: [[usize; 2]; 3] = [[1, 4096], [8, 4096], [2, 333]];
const HEAD: usize = 64;
const PART: usize = 3;
const EPSILON: f32 = 1e-6;
/// So many are in the queue at once.
const REPEATS: usize = 16;

struct Piece {
    name: &'static str,
    width: usize,
    /// Shapes of what goes in.
    inputs: fn([usize; 3]) -> Vec<[usize; 3]>,
    ours: fn(Vec<Tensor<3>>) -> Tensor<3>,
    /// The same by burn's operations, for f32.
    composed: fn(Vec<Tensor<3>>) -> Tensor<3>,
    /// Values read and written for each of the tokens', forward, and backward.
    moved: [f64; 2],
}

const PIECES: [Piece; 4] = [
    Piece {
        name: "norm and modulation",
        width: 1536,
        inputs: |[batch, tokens, width]| vec![[batch, tokens, width], [batch, 1, 6 * width]],
        ours: |inputs| {
            let [x, modulation] = known(inputs);
            sd3pipe_kernels::modulated_norm(x, modulation, PART, EPSILON)
        },
        composed: |inputs| {
            let [x, modulation] = known(inputs);
            let [.., width] = x.dims();
            let centred = x.clone() - x.mean_dim(2);
            let variance = centred.clone().square().mean_dim(2);
            let scale = modulation.clone().narrow(2, (PART + 1) * width, width);
            centred / (variance + EPSILON).sqrt() * (scale + 1.0) + modulation.narrow(2, PART * width, width)
        },
        moved: [2.0, 3.0],
    },
    Piece {
        name: "gated residual",
        width: 1536,
        inputs: |[batch, tokens, width]| vec![[batch, tokens, width], [batch, tokens, width], [batch, 1, 6 * width]],
        ours: |inputs| {
            let [x, y, modulation] = known(inputs);
            sd3pipe_kernels::gated_residual(x, y, modulation, PART)
        },
        composed: |inputs| {
            let [x, y, modulation] = known(inputs);
            let [.., width] = x.dims();
            x + y * modulation.narrow(2, PART * width, width)
        },
        moved: [3.0, 3.0],
    },
    Piece {
        name: "gelu, tanh form",
        width: 6144,
        inputs: |shape| vec![shape],
        ours: |inputs| {
            let [x] = known(inputs);
            sd3pipe_kernels::gelu(x)
        },
        composed: |inputs| {
            let [x] = known(inputs);
            let inner = (x.clone() * x.clone() * x.clone() * 0.044_715 + x.clone()) * 0.797_884_560_802_865_4;
            x * 0.5 * (inner.tanh() + 1.0)
        },
        moved: [2.0, 3.0],
    },
    Piece {
        name: "norm of heads, in a third of the rows",
        width: 1536,
        inputs: |[batch, tokens, width]| vec![[batch, tokens, 3 * width], [1, 1, HEAD]],
        ours: |inputs| {
            let [x, weight] = known(inputs);
            let (heads, shape) = heads(x);
            sd3pipe_kernels::head_norm(heads, weight.reshape([HEAD]), EPSILON).reshape(shape)
        },
        composed: |inputs| {
            let [x, weight] = known(inputs);
            let (heads, shape) = heads(x);
            let mean_square = heads.clone().square().mean_dim(3);
            (heads / (mean_square + EPSILON).sqrt() * weight.unsqueeze::<4>()).reshape(shape)
        },
        // Backward the rest of the rows is filled with zeros, and the third put there.
        moved: [2.0, 3.0 + 5.0],
    },
];

fn known<const N: usize>(inputs: Vec<Tensor<3>>) -> [Tensor<3>; N] {
    inputs.try_into().expect("as many as the piece names")
}

/// The second third of each row, as heads, and the shape that it has as tokens.
fn heads(x: Tensor<3>) -> (Tensor<4>, [usize; 3]) {
    let [batch, tokens, width] = x.dims();
    let width = width / 3;
    (x.narrow(2, width, width).reshape([batch, tokens, width / HEAD, HEAD]), [batch, tokens, width])
}

/// The output, and the gradient of each input where the output's is `upstream`.
fn both(work: fn(Vec<Tensor<3>>) -> Tensor<3>, inputs: &[Tensor<3>], upstream: Tensor<3>) -> Vec<Tensor<3>> {
    let inputs: Vec<_> = inputs.iter().map(|input| input.clone().autodiff().require_grad()).collect();
    let out = work(inputs.clone());
    let gradients = (out.clone() * upstream.autodiff()).sum().backward();
    let gradients = inputs.iter().filter_map(|input| input.grad(&gradients));
    std::iter::once(out.inner()).chain(gradients).collect()
}

/// The largest difference over the largest value.
fn difference<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    let worst = (found.cast(DType::F32) - expected.clone()).abs().max() / expected.abs().max();
    sd3pipe_stages::nn::to_host(worst)[0].into()
}

fn wide<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().cast(DType::F32)
}

fn bytes(values: f64) -> Least {
    Least { operations: 0.0, bytes: 2.0 * values }
}

pub fn rest(bench: &Bench) {
    for Piece { name, width, inputs, ours, composed, moved } in PIECES {
        for [batch, tokens] in SIZES {
            let name = format!("{name}, {batch}×{tokens}×{width}");
            let sets: Vec<Vec<Tensor<3>>> = (0..REPEATS.div_ceil(batch))
                .map(|_| inputs([batch, tokens, width]).into_iter().map(|shape| bench.random(shape)).collect())
                .collect();
            let upstream = bench.random([batch, tokens, width]);
            let expected = both(composed, &sets[0].iter().map(wide).collect::<Vec<_>>(), wide(&upstream));
            let found = both(ours, &sets[0], upstream);
            for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                let what = if index == 0 { "output".to_owned() } else { format!("gradient {index}") };
                bench.check(&format!("{name}, {what}"), difference(found, expected), 1e-2);
            }
            // Each on tensors of its own in turn, so that they are not in the L2 cache.
            let values = (batch * tokens * width) as f64;
            let mut turn = sets.iter().cycle();
            bench.back_to_back(&name, sets.len(), bytes(moved[0] * values), || {
                turn.next().map(|set| vec![ours(set.clone())]).unwrap_or_default()
            });
            let mut turn = sets.iter().cycle();
            // The gradient of the output is written first, as ones.
            let all = bytes((moved[0] + moved[1] + 1.0) * values);
            bench.back_to_back(&format!("{name}, and backward"), sets.len(), all, || {
                let Some(set) = turn.next() else { return Vec::new() };
                let set: Vec<_> = set.iter().map(|input| input.clone().autodiff().require_grad()).collect();
                let gradients = ours(set.clone()).backward();
                set.iter().filter_map(|input| input.grad(&gradients)).collect()
            });
        }
    }
    for [rows, columns] in [[4096, 1536], [4096, 6144], [32768, 6144], [333, 1536], [77, 200]] {
        let name = format!("sums of columns, {rows}×{columns}");
        let matrices: Vec<Tensor<2>> = (0..REPEATS).map(|_| bench.random([rows, columns])).collect();
        let expected = wide(&matrices[0]).sum_dim(0).reshape([columns]);
        bench.check(&name, difference(sd3pipe_kernels::column_sum(matrices[0].clone()), expected), 1e-2);
        let mut turn = matrices.iter().cycle();
        bench.back_to_back(&name, REPEATS, bytes((rows * columns) as f64), || {
            turn.next().map(|matrix| vec![sd3pipe_kernels::column_sum(matrix.clone())]).unwrap_or_default()
        });
    }
}
