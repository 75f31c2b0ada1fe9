//! Our kernels against the same in f32, before anything is made of their times.

use crate::{
    goldens::golden::{error, uniform},
    measure::Bench,
    released,
};
use burn::tensor::{DType, Device, StreamId, Tensor, TensorData};
use sd3pipe_kernels::{Across, Walk, add_up, convolution, copied, group_norm, lay_out, product};
use sd3pipe_stages::nn::{VaeDecoder, VaeEncoder, Weight, Weights, attention, to_host};
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer, Stored};
use sd3pipe_stages::train::parameters::{Train, WeightType};
use sd3pipe_stages::train::{Gradients, State};
use std::collections::BTreeMap;

pub fn run(bench: &Bench) {
    products(bench);
    attentions(bench);
    convolutions(bench);
    group_norms(bench);
    vae_in_strips(bench);
    splits(bench);
    layouts(bench);
    sums(bench);
    far_from_zero(bench);
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

/// The attention of bf16, and its gradient, against those of the same values in f32 by the simplest operations.
fn attentions(bench: &Bench) {
    const HEADS: usize = 3;
    for (tokens, causal) in [(77, true), (77, false), (333, false), (1024, true), (1000, false)] {
        let qkv = bench.random([2, tokens, 3 * HEADS * 64]);
        let towards = bench.random([2, tokens, HEADS * 64]);
        let both = |qkv: Tensor<3>, attend: &dyn Fn(Tensor<3>) -> Tensor<3>| {
            let towards = towards.clone().cast(qkv.dtype()).autodiff();
            let qkv = qkv.autodiff().require_grad();
            let out = attend(qkv.clone());
            let gradients = (out.clone() * towards).sum().backward();
            [to_host(out.inner()), to_host(qkv.grad(&gradients).expect("a gradient"))]
        };
        let simplest = |qkv: Tensor<3>| {
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
        let expected = both(qkv.clone().cast(DType::F32), &simplest);
        let found = both(qkv, &|qkv| match causal {
            true => attention::causal_attention(qkv, HEADS),
            false => attention::attention(qkv, HEADS),
        });
        for (what, found, expected) in [("", &found[0], &expected[0]), ("gradient of the ", &found[1], &expected[1])] {
            let row = format!("{what}attention of {tokens} tokens, causal {causal}");
            bench.check(&row, error(found, expected), 1e-2);
        }
    }
}

/// Convolutions of bf16 against those of the same values in f32 by burn, which has images enlarged and padded for them. The last
/// goes through patches in memory, more than are laid out at once.
fn convolutions(bench: &Bench) {
    let same = Walk { stride: 1, before: 1, after: 1, scale: 1 };
    for ([batch, height, width], [inputs, outputs, kernel], walk, added) in [
        ([2, 26, 37], [3, 128, 3], same, false),
        ([2, 33, 21], [128, 3, 3], same, false),
        ([1, 64, 48], [512, 512, 3], same, true),
        ([3, 19, 23], [72, 40, 3], same, true),
        ([2, 18, 23], [256, 128, 1], Walk { before: 0, after: 0, ..same }, true),
        ([2, 22, 34], [128, 136, 3], Walk { stride: 2, before: 0, ..same }, false),
        ([1, 41, 27], [128, 128, 3], Walk { stride: 2, before: 0, ..same }, false),
        ([2, 13, 18], [64, 64, 3], Walk { scale: 2, ..same }, false),
        ([1, 80, 66], [256, 256, 3], Walk { scale: 2, ..same }, false),
        ([1, 501, 499], [128, 128, 3], same, true),
        ([1, 251, 249], [128, 128, 3], Walk { scale: 2, ..same }, true),
    ] {
        let image = |[rows, columns]: [usize; 2], channels| bench.random([batch, rows, columns, channels]);
        let side = |side| (side * walk.scale + walk.before + walk.after - kernel) / walk.stride + 1;
        let onto = added.then(|| image([side(height), side(width)], outputs).permute([0, 3, 1, 2]));
        let x = image([height, width], inputs).permute([0, 3, 1, 2]);
        let (weight, bias) = (bench.random([outputs, inputs, kernel, kernel]), bench.random([outputs]));
        let found = convolution(x.clone(), weight.clone(), bias.clone(), onto.clone(), walk);
        let wide = |tensor: Tensor<4>| tensor.cast(DType::F32);
        let expected = convolution(wide(x), wide(weight), bias.cast(DType::F32), onto.map(wide), walk);
        let row = format!("convolution of {batch}×{height}×{width}, {inputs} to {outputs} by {kernel}², {walk:?}");
        bench.check(&row, error(&to_host(found), &to_host(expected)), 4e-3);
    }
}

/// Tensors side by side, more than one launch puts there, against burn's own.
fn layouts(bench: &Bench) {
    for (dtype, lengths) in [(DType::BF16, [4096, 8, 65536, 24, 1 << 20]), (DType::F32, [77, 8, 4096, 1, 300_000])] {
        let tensors: Vec<Tensor<1>> = (0..11).map(|turn| bench.random([lengths[turn % 5]]).cast(dtype)).collect();
        let mut end = 0;
        let places = tensors.iter().map(|tensor| {
            let start = end;
            end = (start + tensor.dims()[0]).next_multiple_of(256);
            (start, tensor.clone())
        });
        let places: Vec<_> = places.collect();
        let starts: Vec<usize> = places.iter().map(|(start, _)| *start).collect();
        let whole = copied(lay_out(&places, end, StreamId { value: u64::MAX }).expect("tensors"));
        let found =
            starts.iter().zip(&tensors).map(|(start, tensor)| whole.clone().narrow(0, *start, tensor.dims()[0]));
        let found = to_host(Tensor::cat(found.collect(), 0));
        bench.check(
            &format!("tensors side by side in {dtype:?}"),
            error(&found, &to_host(Tensor::cat(tensors, 0))),
            0.0,
        );
    }
}

/// Gradients added up where their sum lies, against burn's own.
fn sums(bench: &Bench) {
    for (dtype, length) in [(DType::BF16, 1 << 21), (DType::BF16, 1001), (DType::F32, 40_000), (DType::F32, 9)] {
        let (sum, values) = (bench.random([length]).cast(DType::F32), bench.random([length]).cast(dtype));
        let expected = to_host(sum.clone() + values.clone().cast(DType::F32));
        let found = to_host(add_up(sum, values));
        bench.check(&format!("{length} values of {dtype:?} added up"), error(&found, &expected), 0.0);
    }
}

/// Group norms of bf16, and their SiLU, against the same in f32: of images whose channels are apart, and next to each other.
fn group_norms(bench: &Bench) {
    const EPSILON: f32 = 1e-6;
    for ([batch, channels, height, width], groups) in
        [([2, 128, 75, 61], 32), ([1, 512, 33, 40], 32), ([3, 24, 19, 7], 24), ([1, 256, 130, 258], 32)]
    {
        let (weight, bias) = (bench.random([channels]), bench.random([channels]));
        // Far from zero beside how far they are from each other.
        let images = bench.random([batch, height, width, channels]) + 20.0;
        let x = images.permute([0, 3, 1, 2]);
        let grouped = x.clone().cast(DType::F32).reshape([batch, groups, channels / groups * height * width]);
        let centred = grouped.clone() - grouped.mean_dim(2);
        let variance = centred.clone().square().mean_dim(2);
        let normal = (centred / (variance + EPSILON).sqrt()).reshape([batch, channels, height, width]);
        let over = |values: &Tensor<1>| values.clone().cast(DType::F32).reshape([1, channels, 1, 1]);
        let expected = normal * over(&weight) + over(&bias);
        for (silu, apart) in [(false, false), (true, false), (true, true)] {
            // A copy has its channels apart.
            let x = if apart {
                x.clone().reshape([batch * channels * height * width]).reshape(x.dims())
            } else {
                x.clone()
            };
            let found = group_norm(x, weight.clone(), bias.clone(), groups, EPSILON, silu);
            let expected = if silu { burn::tensor::activation::silu(expected.clone()) } else { expected.clone() };
            let row = format!("group norm of {batch}×{channels}×{height}×{width}, silu {silu}, channels apart {apart}");
            bench.check(&row, error(&to_host(found), &to_host(expected)), 4e-3);
        }
    }
}

/// Both halves of the VAE in strips, wide and narrow ones, against whole images, and beside f32 no worse.
fn vae_in_strips(bench: &Bench) {
    let wide = |weights: &Weights| weights.map(|_, values| values.cast(DType::F32));
    let (encoder, decoder) = (bench.weights(released::vae_encoder()), bench.weights(released::vae_decoder()));
    let (image, latents): (Tensor<4>, Tensor<4>) = (bench.random([2, 3, 264, 200]), bench.random([2, 16, 33, 25]));
    let encode = |weights: &Weights, room| {
        to_host(VaeEncoder::new(&weights.root()).expect("an encoder").encode_within(image.clone(), room).0)
    };
    let decode = |weights: &Weights, room| {
        to_host(VaeDecoder::new(&weights.root()).expect("a decoder").decode_within(latents.clone(), room))
    };
    let both = |half: &str, run: &dyn Fn(&Weights, Option<u64>) -> Vec<f32>, weights: &Weights| {
        let (whole, exact) = (run(weights, None), run(&wide(weights), None));
        for room in [48 << 20, 16 << 20] {
            let row = format!("VAE {half} in strips within {room} bytes");
            let found = run(weights, Some(room));
            bench.check(&row, error(&found, &whole), 1e-2);
            bench.check(&format!("{row}, against f32"), error(&found, &exact), 1.2 * error(&whole, &exact));
        }
        bench.check(
            &format!("VAE {half} of f32 in strips"),
            error(&run(&wide(weights), Some(128 << 20)), &exact),
            1e-4,
        );
    };
    both("encode", &encode, &encoder);
    both("decode", &decode, &decoder);
}

/// The gradient of a tensor of which all parts, or some, were used: the very one that burn's slices give.
fn splits(bench: &Bench) {
    let x = bench.random([2, 333, 40]);
    let gradient = |used: &[usize], split: &dyn Fn(Tensor<3>) -> [Tensor<3>; 3]| {
        let x = x.clone().autodiff().require_grad();
        let parts = split(x.clone());
        let sums = used.iter().map(|part| (parts[*part].clone() * parts[*part].clone()).sum());
        let gradients = sums.reduce(|total, sum| total + sum).expect("a part").backward();
        to_host(x.grad(&gradients).expect("a gradient"))
    };
    for used in [vec![0, 1, 2], vec![0, 2], vec![1]] {
        let slices =
            |x: Tensor<3>| [(0, 13), (13, 300), (313, 20)].map(|(first, count)| x.clone().narrow(1, first, count));
        let expected = gradient(&used, &slices);
        let found = gradient(&used, &|x| sd3pipe_kernels::split(x, 1, [13, 300, 20]));
        bench.check(&format!("gradient by parts, of {used:?}"), error(&found, &expected), 0.0);
    }
}

/// The slope of GELU where a square is too large for f32.
fn far_from_zero(bench: &Bench) {
    let x = Tensor::<2>::from_floats([[3e38, 1e30, 2e19, 50.0, -3e38, -1e30, -2e19, -50.0]], &bench.device);
    let x = x.cast(DType::BF16).autodiff().require_grad();
    let gradients = sd3pipe_kernels::gelu(x.clone()).sum().backward();
    let found = to_host(x.grad(&gradients).expect("a gradient"));
    bench.check("slope of gelu, far from zero", error(&found, &[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), 0.0);
}

/// Five steps of AdamW by the kernels against the same of many operations on the CPU, as what they change of the weights. Draws are the
/// same there, so that weights of bf16 are rounded alike.
fn adamw(bench: &Bench) {
    let lengths = BTreeMap::from([("small", 1003), ("one block short", 4096 + 8), ("whole blocks", 1 << 20)]);
    let small = Optimizer::AdamW8bit(AdamW::default());
    for (optimizer, weights, kept_as) in [
        (small.clone(), WeightType::F32, DType::F32),
        (small, WeightType::Bf16Stochastic, DType::BF16),
        (Optimizer::default(), WeightType::F32, DType::F32),
        (Optimizer::default(), WeightType::Bf16Stochastic, DType::BF16),
    ] {
        let row = format!("five steps of {optimizer:?}, weights {weights:?}");
        let parameters = Train { optimizer, weights, max_gradient_norm: 0.0, ..Train::default() };
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
                    // Not up to 1: where the largest of a block is a power of two, values of bf16 lie in the very middle between codes,
                    // and the last bit of a reciprocal decides.
                    let values = drawn(format!("gradient {step} {name}"), *count, DType::F32) * 0.7;
                    ((*name).to_owned(), values.cast(DType::BF16))
                });
                let gradients = Gradients::new(1.0, tensors.collect());
                state.update(gradients, &parameters, 1e-3, step).expect("a step");
            }
            let moved = start.iter().flat_map(|(name, before)| {
                let after = state.weights.get(name).expect("the same weights").values.clone().cast(DType::F32);
                to_host(after - before.values.clone().cast(DType::F32))
            });
            let all = state.kept.iter().flat_map(|(name, kept)| kept.iter().map(move |stored| (name, stored)));
            let codes = all.filter_map(|(name, (moment, stored))| match stored {
                Stored::Codes(codes) => {
                    Some((format!("{moment} of {name}"), codes.clone().into_data().iter::<u8>().collect::<Vec<_>>()))
                }
                Stored::Floats(_) => None,
            });
            (moved.collect::<Vec<_>>(), codes.collect::<BTreeMap<_, _>>())
        };
        // A last bit of f32 can decide which neighbour in bf16 a draw gives, and each such weight is off by a whole step.
        let bound = if kept_as == DType::BF16 { 2e-2 } else { 1e-2 };
        let ((found, codes), (expected, expected_codes)) = (change(&bench.device), change(&Device::flex()));
        bench.check(&row, error(&found, &expected), bound);
        for (what, expected) in expected_codes {
            let other = codes[&what].iter().zip(&expected).filter(|(code, expected)| code != expected);
            bench.check(&format!("{row}: other codes, {what}"), other.count() as f64 / expected.len() as f64, 1e-4);
        }
    }
}
