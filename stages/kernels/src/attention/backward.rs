//! The backward pass by Hopper's warpgroup instructions (Dao 2023, arXiv:2307.08691, algorithm 2, in two passes): probabilities are
//! computed again from the logarithms of their sums, one pass sums over queries, the other over keys, so that each gradient is
//! written once and its bits don't depend on the order in which cubes end.
//!
//! A cube owns some keys, or some queries, of one head, 64 a warpgroup. The copy engine brings what lies on the other side in tiles
//! into a ring in shared memory. Scores and their gradients stay in registers, from where the sums take them.

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
use cubecl::prelude::*;
use cubecl::wgmma::{Accumulator, Fragment, Major, MatrixDescriptor};
use half::bf16;

/// Rows of a tile of the other side.
const OTHERS: usize = 64;
/// A multiple of the rows of every tile.
const PADDING: usize = 384;

/// What a pass owns, and so what it computes gradients of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Keys, with their values.
    Keys,
    /// Queries.
    Queries,
}

impl Side {
    /// Warpgroups of a cube: as many as there are registers for.
    fn groups(self) -> usize {
        match self {
            Side::Keys => 2,
            Side::Queries => 3,
        }
    }

    fn rows(self) -> usize {
        self.groups() * GROUP_ROWS
    }
}

/// The gradient of `qkv`, `[B, S, 3·D]`, from that of the output, `[B, S, D]`, with what the forward pass gave.
pub(super) fn launch(
    qkv: CubeTensor,
    out: CubeTensor,
    sums: CubeTensor,
    of_out: CubeTensor,
    heads: usize,
    causal: bool,
) -> CubeTensor {
    let [batch, tokens, width] = [0, 1, 2].map(|dimension| out.meta.shape()[dimension]);
    let (client, device) = (qkv.client.clone(), qkv.device.clone());
    let empty = |shape: Shape, dtype| empty_device_contiguous_dtype(client.clone(), device.clone(), shape, dtype);
    let padded = tokens.next_multiple_of(PADDING);
    let facts = empty(Shape::from([batch, heads, padded, 2]), DType::F32);
    let gradient = empty(Shape::from([batch, tokens, 3 * width]), DType::BF16);
    let units = (batch * padded * heads * UNITS_A_HEAD as usize).div_ceil(256);
    // SAFETY: units past the last token read nothing; all write inside of their padded row.
    unsafe {
        gather::launch_unchecked(
            &client,
            CubeCount::Static(units as u32, 1, 1),
            CubeDim::new_1d(256),
            out.into_buffer_arg(),
            of_out.clone().into_buffer_arg(),
            sums.into_buffer_arg(),
            facts.clone().into_buffer_arg(),
            tokens as u32,
            padded as u32,
            heads as u32,
            (batch * padded * heads) as u32,
        );
    }
    for side in [Side::Keys, Side::Queries] {
        let tiles = tokens.div_ceil(side.rows()) as u32;
        // SAFETY: the copy engine clips what it reads to the tensors; rows past the last token are not written.
        unsafe {
            sum::launch_unchecked(
                &client,
                CubeCount::Static(tiles, heads as u32, batch as u32),
                CubeDim::new_1d(side.groups() as u32 * GROUP_UNITS),
                map(qkv.clone(), heads, 3, side.rows()),
                map(qkv.clone(), heads, 3, OTHERS),
                map(of_out.clone(), heads, 1, if side == Side::Queries { side.rows() } else { OTHERS }),
                facts.clone().into_buffer_arg(),
                gradient.clone().into_buffer_arg(),
                tokens as u32,
                padded as u32,
                heads as u32,
                (WIDTH as f32).sqrt().recip(),
                side,
                causal,
            );
        }
    }
    gradient
}

/// Units that share a head's features of a token, each with 8 of them.
const UNITS_A_HEAD: u32 = (WIDTH / 8) as u32;

/// Of each query: the logarithm to base 2 of its sum of exponentials, and the product of its output with the output's gradient.
/// Past the last token they are such that a probability, and its gradient, become 0.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn gather(
    out: &[Vector<bf16, Const<8>>],
    of_out: &[Vector<bf16, Const<8>>],
    sums: &[f32],
    facts: &mut [Vector<f32, Const<2>>],
    tokens: u32,
    padded: u32,
    heads: u32,
    rows: u32,
) {
    let position = ABSOLUTE_POS as u32;
    let part = position % UNITS_A_HEAD;
    let row = position / UNITS_A_HEAD;
    let head = row % heads;
    let token = row / heads % padded;
    let batch = row / heads / padded;
    let there = row < rows && token < tokens;
    let mut product = 0f32;
    if there {
        let at = (((batch * tokens + token) * heads + head) * UNITS_A_HEAD + part) as usize;
        let left = Vector::<f32, Const<8>>::cast_from(out[at]);
        let right = Vector::<f32, Const<8>>::cast_from(of_out[at]);
        let products = left * right;
        #[unroll]
        for index in 0..8usize {
            product += products.extract(index);
        }
    }
    product = product + plane_shuffle_xor(product, 1u32);
    product = product + plane_shuffle_xor(product, 2u32);
    product = product + plane_shuffle_xor(product, 4u32);
    if row < rows && part == 0 {
        let mut pair = Vector::<f32, Const<2>>::empty();
        let from = select(there, (batch * heads + head) * tokens + token, 0u32);
        let log = sums[from as usize] * std::f32::consts::LOG2_E;
        pair.insert(0usize, select(there, log, 1e30f32));
        pair.insert(1usize, select(there, product, 0f32));
        facts[((batch * heads + head) * padded + token) as usize] = pair;
    }
}

/// With `Keys`: `of_v = Pᵀ·of_out` and `of_k = scale·dSᵀ·q`; with `Queries`: `of_q = scale·dS·k`; where `P` are the probabilities and
/// `dS = P·(of_out·vᵀ − facts₁)` elementwise.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn sum(
    own: &TensorMap<bf16, Tiled>,
    others: &TensorMap<bf16, Tiled>,
    of_out: &TensorMap<bf16, Tiled>,
    facts: &[Vector<f32, Const<2>>],
    gradient: &mut [Vector<bf16, Const<2>>],
    tokens: u32,
    padded: u32,
    heads: u32,
    scale: f32,
    #[comptime] side: Side,
    #[comptime] causal: bool,
) {
    let of_keys = comptime![side == Side::Keys];
    let rows = comptime![side.rows()];
    // Keys and values, or queries and gradients of the output; of the tiles the other two.
    let mut own_first: Shared<[bf16]> = Shared::new_aligned_slice(comptime![rows * WIDTH], 1024usize);
    let mut own_second: Shared<[bf16]> = Shared::new_aligned_slice(comptime![rows * WIDTH], 1024usize);
    let mut ring = Ring::new(OTHERS, comptime![side.groups()]);

    let batch = CUBE_POS_Z;
    let head = CUBE_POS_Y;
    let first = CUBE_POS_X * comptime![rows as u32];
    let turns = tokens.div_ceil(comptime![(OTHERS * STAGES) as u32]);
    let (query, key, value) = (head, heads + head, 2 * heads + head);
    let second = if of_keys { of_out } else { others };
    let place = if of_keys { (batch, query, query) } else { (batch, key, value) };
    if UNIT_POS == 0 {
        let (image, at) = (batch as i32, first as i32);
        ring.own_full.arrive_and_expect_tx(1u32, comptime![(2 * rows * WIDTH * BYTES) as u32]);
        if of_keys {
            ring.own_full.tma_load_4d(own, &mut own_first, image, key as i32, at, 0);
            ring.own_full.tma_load_4d(own, &mut own_second, image, value as i32, at, 0);
        } else {
            ring.own_full.tma_load_4d(own, &mut own_first, image, query as i32, at, 0);
            ring.own_full.tma_load_4d(of_out, &mut own_second, image, query as i32, at, 0);
        }
        ring.begin(others, second, place, tokens);
    }
    let group = UNIT_POS / GROUP_UNITS;
    let unit = UNIT_POS % GROUP_UNITS;
    let group_row = group as usize * GROUP_ROWS;
    let own_first = MatrixDescriptor::new(&own_first, comptime![tile(Major::K, rows, WIDTH)]);
    let own_second = MatrixDescriptor::new(&own_second, comptime![tile(Major::K, rows, WIDTH)]);
    let row = first + group * comptime![GROUP_ROWS as u32] + unit / 32 * 16 + unit % 32 / 4;
    let column = unit % 4 * 2;
    let line = (batch * heads + head) * padded;
    let to_base_2 = scale * std::f32::consts::LOG2_E;

    // Of the unit's two rows, where rows are queries.
    let mut logs = Array::<f32>::new(2usize);
    let mut dots = Array::<f32>::new(2usize);
    if !of_keys {
        #[unroll]
        for half in 0..2usize {
            let pair = facts[(line + row + comptime![half as u32 * 8]) as usize];
            logs[half] = pair.extract(0usize);
            dots[half] = pair.extract(1usize);
        }
    }
    let mut of_first = Accumulator::<f32>::new(WIDTH).start();
    let mut of_second = Accumulator::<f32>::new(comptime![if of_keys { WIDTH } else { 8 }]).start();
    ring.own_full.wait_parity(0u32);
    for turn in 0..turns {
        #[unroll]
        for stage in 0..STAGES {
            let at = (turn * comptime![STAGES as u32] + comptime![stage as u32]) * comptime![OTHERS as u32];
            ring.go_on(stage, turn, others, second, place, at, tokens);
            if at < tokens {
                ring.wait(stage, turn);
                let firsts_here = MatrixDescriptor::new(ring.first(stage), comptime![tile(Major::K, OTHERS, WIDTH)]);
                let seconds_here = MatrixDescriptor::new(ring.second(stage), comptime![tile(Major::K, OTHERS, WIDTH)]);
                let mut scores = Accumulator::<f32>::new(OTHERS).start();
                #[unroll]
                for slice in 0..WIDTH / 16 {
                    scores.execute(&own_first.at(group_row, slice * 16), &firsts_here.at(0usize, slice * 16));
                }
                let scores = scores.wait();
                // The other product goes on while exponentials are computed.
                let mut of_shares = Accumulator::<f32>::new(OTHERS).start();
                #[unroll]
                for slice in 0..WIDTH / 16 {
                    of_shares.execute(&own_second.at(group_row, slice * 16), &seconds_here.at(0usize, slice * 16));
                }

                let mut shares = Array::<f32>::new(OTHERS / 2);
                let mut column_dots = Array::<f32>::new(OTHERS / 4);
                #[unroll]
                for pair in 0..OTHERS / 8 {
                    let mut column_logs = Array::<f32>::new(2usize);
                    if of_keys {
                        #[unroll]
                        for odd in 0..2usize {
                            let query = at + column + comptime![(pair * 8 + odd) as u32];
                            let both = facts[(line + query) as usize];
                            column_logs[odd] = both.extract(0usize);
                            column_dots[pair * 2 + odd] = both.extract(1usize);
                        }
                    }
                    #[unroll]
                    for index in 0..4usize {
                        let log = if of_keys { column_logs[index % 2] } else { logs[index / 2] };
                        shares[pair * 4 + index] = exp2(scores.get(pair * 4 + index) * to_base_2 - log);
                    }
                }
                if comptime![causal] || comptime![!of_keys] && at + comptime![OTHERS as u32] > tokens {
                    #[unroll]
                    for index in 0..OTHERS / 2 {
                        let other = at + column + comptime![(index / 4 * 8 + index % 2) as u32];
                        let this = row + comptime![(index / 2 % 2 * 8) as u32];
                        let mut hidden = false;
                        if comptime![!of_keys] {
                            hidden = other >= tokens;
                        }
                        if comptime![causal && of_keys] {
                            hidden = hidden || this > other;
                        }
                        if comptime![causal && !of_keys] {
                            hidden = hidden || other > this;
                        }
                        shares[index] = select(hidden, 0f32, shares[index]);
                    }
                }
                if of_keys {
                    let layout = comptime![tile(Major::MN, WIDTH, OTHERS)];
                    let gradients_here = MatrixDescriptor::new(ring.second(stage), layout);
                    #[unroll]
                    for slice in 0..OTHERS / 16 {
                        let fragment = fragment(&shares, slice);
                        of_second.execute_registers(&fragment, &gradients_here.at(0usize, slice * 16));
                    }
                }
                let of_shares = of_shares.wait();
                #[unroll]
                for index in 0..OTHERS / 2 {
                    let dot = if of_keys { column_dots[index / 4 * 2 + index % 2] } else { dots[index / 2 % 2] };
                    shares[index] = shares[index] * (of_shares.get(index) - dot);
                }
                let firsts_across = MatrixDescriptor::new(ring.first(stage), comptime![tile(Major::MN, WIDTH, OTHERS)]);
                #[unroll]
                for slice in 0..OTHERS / 16 {
                    let fragment = fragment(&shares, slice);
                    of_first.execute_registers(&fragment, &firsts_across.at(0usize, slice * 16));
                }
                of_first.commit().wait();
                if unit == 0 {
                    ring.leave(stage);
                }
            }
        }
    }
    let of_first = of_first.wait();
    let of_second = of_second.wait();
    #[unroll]
    for half in 0..2usize {
        let token = row + comptime![half as u32 * 8];
        if token < tokens {
            let part = comptime![if of_keys { 1u32 } else { 0u32 }];
            let to = ((batch * tokens + token) * 3 + part) * heads + head;
            #[unroll]
            for index in 0..WIDTH / 8 {
                let at = to * comptime![WIDTH as u32] + column + comptime![index as u32 * 8];
                let mut pair = Vector::<bf16, Const<2>>::empty();
                pair.insert(0usize, bf16::cast_from(of_first.get(index * 4 + half * 2) * scale));
                pair.insert(1usize, bf16::cast_from(of_first.get(index * 4 + half * 2 + 1) * scale));
                gradient[(at / 2) as usize] = pair;
                if of_keys {
                    let mut pair = Vector::<bf16, Const<2>>::empty();
                    pair.insert(0usize, bf16::cast_from(of_second.get(index * 4 + half * 2)));
                    pair.insert(1usize, bf16::cast_from(of_second.get(index * 4 + half * 2 + 1)));
                    gradient[((at + heads * comptime![WIDTH as u32]) / 2) as usize] = pair;
                }
            }
        }
    }
}

/// The shares of 16 columns, as the warpgroup instructions take them.
#[cube]
fn fragment(shares: &Array<f32>, #[comptime] slice: usize) -> Fragment<bf16> {
    let mut fragment = Fragment::<bf16>::new();
    #[unroll]
    for index in 0..8usize {
        fragment.set(index, bf16::cast_from(shares[slice * 8 + index]));
    }
    fragment
}
