//! The forward pass by Hopper's warpgroup instructions (Shah et al. 2024, arXiv:2407.08608, without its overlap of softmax and
//! products within a warpgroup: the warpgroups of a cube take turns by themselves).
//!
//! A cube has 192 queries of one head, 64 a warpgroup. The copy engine brings keys and values in tiles of 128 into a ring in shared
//! memory; no warps are set aside for it, because registers are dealt to warps evenly. Scores stay in registers.

#![allow(
    clippy::assign_op_pattern,
    clippy::manual_is_multiple_of,
    reason = "kernels are written in the part of Rust that CubeCL knows"
)]

use super::ring::{BYTES, Ring, STAGES};
use super::tensor::{GROUP_ROWS, GROUP_UNITS, WIDTH, map, tile};
use crate::instruction::exp2;
use burn::tensor::{DType, Shape};
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::features::Tma;
use cubecl::prelude::*;
use cubecl::wgmma::{Accumulator, Fragment, Major, MatrixDescriptor};
use half::bf16;

const GROUPS: usize = 3;
const QUERIES: usize = GROUPS * GROUP_ROWS;
const KEYS: usize = 128;

/// Whether the kernels compute this attention of contiguous `qkv`, `[B, S, 3·D]`.
pub(super) fn takes(qkv: &CubeTensor, heads: usize) -> bool {
    let features = qkv.client.features();
    let able = features.tma.contains(Tma::Base) && features.matmul.wgmma.iter().next().is_some();
    able && qkv.dtype == DType::BF16 && qkv.meta.shape()[2] == 3 * heads * WIDTH
}

/// The output, `[B, S, D]`, and the natural logarithms of the sums of exponentials of each query's scores, `[B, K, S]` in f32.
pub(super) fn launch(
    qkv: CubeTensor,
    heads: usize,
    bias: Option<CubeTensor>,
    scale: f32,
    causal: bool,
) -> (CubeTensor, CubeTensor) {
    let [batch, tokens] = [0, 1].map(|dimension| qkv.meta.shape()[dimension]);
    let (client, device) = (qkv.client.clone(), qkv.device.clone());
    let empty = |shape: Shape, dtype| empty_device_contiguous_dtype(client.clone(), device.clone(), shape, dtype);
    let out = empty(Shape::from([batch, tokens, heads * WIDTH]), DType::BF16);
    let sums = empty(Shape::from([batch, heads, tokens]), DType::F32);
    let tiles = tokens.div_ceil(QUERIES) as u32;
    let biased = bias.is_some();
    // One bias for all of a batch, or one for each of it.
    let bias_step = bias.as_ref().map_or(0, |bias| if bias.meta.shape()[0] == 1 { 0 } else { heads * tokens * tokens });
    // SAFETY: the copy engine clips what it reads to the tensors; queries past the last are not written.
    unsafe {
        attend::launch_unchecked(
            &client,
            CubeCount::Static(tiles, heads as u32, batch as u32),
            CubeDim::new_1d(GROUPS as u32 * GROUP_UNITS),
            map(qkv.clone(), heads, 3, QUERIES),
            map(qkv, heads, 3, KEYS),
            out.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            bias.unwrap_or_else(|| sums.clone()).into_buffer_arg(),
            tokens as u32,
            heads as u32,
            bias_step as u32,
            scale,
            causal,
            biased,
        );
    }
    (out, sums)
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn attend(
    own: &TensorMap<bf16, Tiled>,
    others: &TensorMap<bf16, Tiled>,
    out: &mut [Vector<bf16, Const<2>>],
    sums: &mut [f32],
    bias: &[f32],
    tokens: u32,
    heads: u32,
    bias_step: u32,
    scale: f32,
    #[comptime] causal: bool,
    #[comptime] biased: bool,
) {
    let mut q_tile: Shared<[bf16]> = Shared::new_aligned_slice(QUERIES * WIDTH, 1024usize);
    let mut ring = Ring::new(KEYS, GROUPS);

    let batch = CUBE_POS_Z;
    let head = CUBE_POS_Y;
    let first = CUBE_POS_X * comptime![QUERIES as u32];
    let last_key = if comptime![causal] {
        select(first + comptime![QUERIES as u32] < tokens, first + comptime![QUERIES as u32], tokens)
    } else {
        tokens
    };
    let turns = last_key.div_ceil(comptime![(KEYS * STAGES) as u32]);
    if UNIT_POS == 0 {
        ring.own_full.arrive_and_expect_tx(1u32, comptime![(QUERIES * WIDTH * BYTES) as u32]);
        ring.own_full.tma_load_4d(own, &mut q_tile, batch as i32, head as i32, first as i32, 0);
        ring.begin(others, others, (batch, heads + head, 2 * heads + head), last_key);
    }
    let group = UNIT_POS / GROUP_UNITS;
    let unit = UNIT_POS % GROUP_UNITS;
    let q_rows = MatrixDescriptor::new(&q_tile, comptime![tile(Major::K, QUERIES, WIDTH)]);
    let row = first + group * comptime![GROUP_ROWS as u32] + unit / 32 * 16 + unit % 32 / 4;
    let column = unit % 4 * 2;

    // Scores are scaled, and exponentials taken to base 2, in one multiplication.
    let to_base_2 = scale * std::f32::consts::LOG2_E;
    // Of each of the unit's two rows: the largest score so far and the sum of the exponentials.
    let mut largest = Array::<f32>::new(2usize);
    let mut total = Array::<f32>::new(2usize);
    let mut sum = Array::<f32>::new(WIDTH / 2);
    let mut scores = Array::<f32>::new(KEYS / 2);
    #[unroll]
    for half in 0..2usize {
        largest[half] = -1e30f32;
        total[half] = 0f32;
    }
    #[unroll]
    for index in 0..WIDTH / 2 {
        sum[index] = 0f32;
    }
    ring.own_full.wait_parity(0u32);
    for turn in 0..turns {
        #[unroll]
        for stage in 0..STAGES {
            let first_key = (turn * comptime![STAGES as u32] + comptime![stage as u32]) * comptime![KEYS as u32];
            let place = (batch, heads + head, 2 * heads + head);
            ring.go_on(stage, turn, others, others, place, first_key, last_key);
            if first_key < last_key {
                ring.wait(stage, turn);
                let keys_here = MatrixDescriptor::new(ring.first(stage), comptime![tile(Major::K, KEYS, WIDTH)]);
                let mut products = Accumulator::<f32>::new(KEYS).start();
                #[unroll]
                for slice in 0..WIDTH / 16 {
                    products.execute(
                        &q_rows.at(group as usize * GROUP_ROWS, slice * 16),
                        &keys_here.at(0usize, slice * 16),
                    );
                }
                let products = products.wait();
                #[unroll]
                for index in 0..KEYS / 2 {
                    scores[index] = products.get(index);
                    if comptime![biased] {
                        let key = first_key + column + comptime![(index / 4 * 8 + index % 2) as u32];
                        let query = row + comptime![(index / 2 % 2 * 8) as u32];
                        let line = batch * bias_step + (head * tokens + query) * tokens;
                        let at = select(query < tokens && key < tokens, line + key, 0u32);
                        scores[index] = scores[index] + bias[at as usize];
                    }
                }
                if comptime![causal] || first_key + comptime![KEYS as u32] > tokens {
                    #[unroll]
                    for index in 0..KEYS / 2 {
                        let key = first_key + column + comptime![(index / 4 * 8 + index % 2) as u32];
                        let mut hidden = key >= tokens;
                        if comptime![causal] {
                            hidden = hidden || key > row + comptime![(index / 2 % 2 * 8) as u32];
                        }
                        scores[index] = select(hidden, -1e30f32, scores[index]);
                    }
                }
                let mut shrink = Array::<f32>::new(2usize);
                #[unroll]
                for half in 0..2usize {
                    let mut most = largest[half];
                    #[unroll]
                    for index in 0..KEYS / 4 {
                        most = f32::max(most, scores[index / 2 * 4 + half * 2 + index % 2]);
                    }
                    most = f32::max(most, plane_shuffle_xor(most, 1u32));
                    most = f32::max(most, plane_shuffle_xor(most, 2u32));
                    shrink[half] = exp2((largest[half] - most) * to_base_2);
                    let base = most * to_base_2;
                    let mut here = 0f32;
                    #[unroll]
                    for index in 0..KEYS / 4 {
                        let at = index / 2 * 4 + half * 2 + index % 2;
                        let share = exp2(scores[at] * to_base_2 - base);
                        scores[at] = share;
                        here += share;
                    }
                    largest[half] = most;
                    total[half] = total[half] * shrink[half] + here;
                }
                let values_here = MatrixDescriptor::new(ring.second(stage), comptime![tile(Major::MN, WIDTH, KEYS)]);
                let mut weighted = Accumulator::<f32>::new(WIDTH).start();
                let mut shares = Sequence::<Fragment<bf16>>::new();
                #[unroll]
                for slice in 0..KEYS / 16 {
                    let mut fragment = Fragment::<bf16>::new();
                    #[unroll]
                    for index in 0..8usize {
                        fragment.set(index, bf16::cast_from(scores[slice * 8 + index]));
                    }
                    shares.push(fragment);
                }
                #[unroll]
                for slice in 0..KEYS / 16 {
                    weighted.execute_registers(&shares[slice], &values_here.at(0usize, slice * 16));
                }
                let weighted = weighted.wait();
                if unit == 0 {
                    ring.leave(stage);
                }
                #[unroll]
                for index in 0..WIDTH / 2 {
                    sum[index] = sum[index] * shrink[index / 2 % 2] + weighted.get(index);
                }
            }
        }
    }
    #[unroll]
    for half in 0..2usize {
        let mut all = total[half];
        all = all + plane_shuffle_xor(all, 1u32);
        all = all + plane_shuffle_xor(all, 2u32);
        let query = row + comptime![half as u32 * 8];
        if query < tokens {
            let share = 1f32 / all;
            let line = ((batch * tokens + query) * heads + head) * comptime![WIDTH as u32];
            #[unroll]
            for index in 0..WIDTH / 8 {
                let mut pair = Vector::<bf16, Const<2>>::empty();
                pair.insert(0usize, bf16::cast_from(sum[index * 4 + half * 2] * share));
                pair.insert(1usize, bf16::cast_from(sum[index * 4 + half * 2 + 1] * share));
                out[((line + column + comptime![index as u32 * 8]) / 2) as usize] = pair;
            }
            if unit % 4 == 0 {
                let at = (batch * heads + head) * tokens + query;
                sums[at as usize] = largest[half] * scale + f32::ln(all);
            }
        }
    }
}
