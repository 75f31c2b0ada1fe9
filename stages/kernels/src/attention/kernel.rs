//! The forward pass by Hopper's warpgroup instructions (Shah et al. 2024, arXiv:2407.08608, without its overlap of softmax and
//! products within a warpgroup: the warpgroups of a cube take turns by themselves).
//!
//! A cube has 128 queries of one head, 64 a warpgroup. One unit has the copy engine bring keys and values in tiles of 128 into a ring
//! in shared memory. Scores stay in registers.

#![allow(
    clippy::assign_op_pattern,
    clippy::manual_is_multiple_of,
    reason = "kernels are written in the part of Rust that CubeCL knows"
)]

use burn::tensor::{DType, Shape};
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::features::Tma;
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use cubecl::wgmma::{Accumulator, Fragment, Major, MatrixDescriptor, Swizzle, WgmmaTileLayout};
use half::bf16;

/// Features of a head.
const WIDTH: usize = 64;
const GROUPS: usize = 2;
const GROUP_ROWS: usize = 64;
const GROUP_UNITS: u32 = 128;
const QUERIES: usize = GROUPS * GROUP_ROWS;
const KEYS: usize = 128;
const STAGES: usize = 2;
const TILE: usize = KEYS * WIDTH;
const BYTES: usize = 2;

/// Whether the kernel computes this attention.
pub(super) fn takes(q: &CubeTensor, k: &CubeTensor, v: &CubeTensor) -> bool {
    let features = q.client.features();
    let able = features.tma.contains(Tma::Base) && features.matmul.wgmma.iter().next().is_some();
    let fits = |tensor: &CubeTensor| {
        let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
        let lines = (0..3).all(|dimension| strides[dimension].is_multiple_of(8));
        tensor.dtype == DType::BF16 && shape[3] == WIDTH && strides[3] == 1 && lines
    };
    able && [q, k, v].into_iter().all(fits) && k.meta.shape()[1] == q.meta.shape()[1]
}

/// The output, `[B, S, K, E]`, and the natural logarithms of the sums of exponentials of each
/// query's scores, `[B, K, S]` in f32.
pub(super) fn launch(
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    bias: Option<CubeTensor>,
    scale: f32,
    causal: bool,
) -> (CubeTensor, CubeTensor) {
    let [batch, heads, queries] = [0, 1, 2].map(|dimension| q.meta.shape()[dimension]);
    let keys = k.meta.shape()[2];
    let (client, device) = (q.client.clone(), q.device.clone());
    let empty = |shape: Shape, dtype| empty_device_contiguous_dtype(client.clone(), device.clone(), shape, dtype);
    let out = empty(Shape::from([batch, queries, heads, WIDTH]), DType::BF16);
    let sums = empty(Shape::from([batch, heads, queries]), DType::F32);
    let map = |tensor: CubeTensor, rows: usize| {
        let boxes = TiledArgs { tile_size: cubecl::zspace::shape![1, 1, rows, WIDTH] };
        TensorMapArg::new(boxes, tensor.into_tensor_arg(), bf16::elem_type_native()).with_swizzle(Swizzle::B128.into())
    };
    let tiles = queries.div_ceil(QUERIES) as u32;
    let biased = bias.is_some();
    // One bias for all of a batch, or one for each of it.
    let bias_step = bias.as_ref().map_or(0, |bias| if bias.meta.shape()[0] == 1 { 0 } else { heads * queries * keys });
    // SAFETY: the copy engine clips what it reads to the tensors; queries past the last are not written.
    unsafe {
        attend::launch_unchecked(
            &client,
            CubeCount::Static(tiles, heads as u32, batch as u32),
            CubeDim::new_1d(GROUPS as u32 * GROUP_UNITS + 32),
            map(q, QUERIES),
            map(k, KEYS),
            map(v, KEYS),
            out.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            bias.unwrap_or_else(|| sums.clone()).into_buffer_arg(),
            queries as u32,
            keys as u32,
            heads as u32,
            bias_step as u32,
            scale,
            causal,
            biased,
        );
    }
    (out, sums)
}

fn tile(major: Major, rows: usize, k: usize) -> WgmmaTileLayout {
    WgmmaTileLayout { major, swizzle: Swizzle::B128, rows, k }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn attend(
    q: &TensorMap<bf16, Tiled>,
    k: &TensorMap<bf16, Tiled>,
    v: &TensorMap<bf16, Tiled>,
    out: &mut [Vector<bf16, Const<2>>],
    sums: &mut [f32],
    bias: &[f32],
    queries: u32,
    keys: u32,
    heads: u32,
    bias_step: u32,
    scale: f32,
    #[comptime] causal: bool,
    #[comptime] biased: bool,
) {
    let mut q_tile: Shared<[bf16]> = Shared::new_aligned_slice(QUERIES * WIDTH, 1024usize);
    let mut k_tiles: Shared<[bf16]> = Shared::new_aligned_slice(STAGES * TILE, 1024usize);
    let mut v_tiles: Shared<[bf16]> = Shared::new_aligned_slice(STAGES * TILE, 1024usize);
    let q_full = Barrier::shared_uninit();
    let mut k_full = Sequence::<Shared<Barrier>>::new();
    let mut v_full = Sequence::<Shared<Barrier>>::new();
    let mut k_empty = Sequence::<Shared<Barrier>>::new();
    let mut v_empty = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..STAGES {
        k_full.push(Barrier::shared_uninit());
        v_full.push(Barrier::shared_uninit());
        k_empty.push(Barrier::shared_uninit());
        v_empty.push(Barrier::shared_uninit());
    }
    if UNIT_POS == 0 {
        q_full.init_manual(1u32);
        #[unroll]
        for stage in 0..STAGES {
            k_full[stage].init_manual(1u32);
            v_full[stage].init_manual(1u32);
            k_empty[stage].init_manual(comptime![GROUPS as u32]);
            v_empty[stage].init_manual(comptime![GROUPS as u32]);
        }
        sync_async_proxy_shared();
    }
    sync_cube();

    let batch = CUBE_POS_Z;
    let head = CUBE_POS_Y;
    let first = CUBE_POS_X * comptime![QUERIES as u32];
    let last_key = if comptime![causal] {
        select(first + comptime![QUERIES as u32] < keys, first + comptime![QUERIES as u32], keys)
    } else {
        keys
    };
    // Whole turns of the ring; tiles past the last key are zeros, and masked.
    let turns = last_key.div_ceil(comptime![(KEYS * STAGES) as u32]);
    let tile_bytes = comptime![(TILE * BYTES) as u32];
    let fills = comptime![GROUPS as u32 * GROUP_UNITS];

    if UNIT_POS >= fills {
        if UNIT_POS == fills {
            q_full.arrive_and_expect_tx(1u32, comptime![(QUERIES * WIDTH * BYTES) as u32]);
            q_full.tma_load_4d(q, &mut q_tile, batch as i32, head as i32, first as i32, 0);
            for turn in 0..turns {
                #[unroll]
                for stage in 0..STAGES {
                    let at = (turn * comptime![STAGES as u32] + comptime![stage as u32]) * comptime![KEYS as u32];
                    let from = comptime![stage * TILE];
                    let to = comptime![(stage + 1) * TILE];
                    k_empty[stage].wait_parity((turn & 1) ^ 1);
                    k_full[stage].arrive_and_expect_tx(1u32, tile_bytes);
                    k_full[stage].tma_load_4d(k, &mut k_tiles[from..to], batch as i32, head as i32, at as i32, 0);
                    v_empty[stage].wait_parity((turn & 1) ^ 1);
                    v_full[stage].arrive_and_expect_tx(1u32, tile_bytes);
                    v_full[stage].tma_load_4d(v, &mut v_tiles[from..to], batch as i32, head as i32, at as i32, 0);
                }
            }
        }
    } else {
        let group = UNIT_POS / GROUP_UNITS;
        let unit = UNIT_POS % GROUP_UNITS;
        let q_rows = MatrixDescriptor::new(&q_tile, comptime![tile(Major::K, QUERIES, WIDTH)]);
        let row = first + group * comptime![GROUP_ROWS as u32] + unit / 32 * 16 + unit % 32 / 4;
        let column = unit % 4 * 2;

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
        q_full.wait_parity(0u32);
        for turn in 0..turns {
            #[unroll]
            for stage in 0..STAGES {
                let from = comptime![stage * TILE];
                let to = comptime![(stage + 1) * TILE];
                let first_key = (turn * comptime![STAGES as u32] + comptime![stage as u32]) * comptime![KEYS as u32];
                k_full[stage].wait_parity(turn & 1);
                let keys_here = MatrixDescriptor::new(&k_tiles[from..to], comptime![tile(Major::K, KEYS, WIDTH)]);
                let mut products = Accumulator::<f32>::new(KEYS).start();
                #[unroll]
                for slice in 0..WIDTH / 16 {
                    products.execute(
                        &q_rows.at(group as usize * GROUP_ROWS, slice * 16),
                        &keys_here.at(0usize, slice * 16),
                    );
                }
                let products = products.wait();
                if unit == 0 {
                    k_empty[stage].arrive();
                }
                #[unroll]
                for index in 0..KEYS / 2 {
                    scores[index] = products.get(index) * scale;
                    if comptime![biased] {
                        let key = first_key + column + comptime![(index / 4 * 8 + index % 2) as u32];
                        let query = row + comptime![(index / 2 % 2 * 8) as u32];
                        let line = batch * bias_step + (head * queries + query) * keys;
                        let at = select(query < queries && key < keys, line + key, 0u32);
                        scores[index] = scores[index] + bias[at as usize];
                    }
                }
                if comptime![causal] || first_key + comptime![KEYS as u32] > keys {
                    #[unroll]
                    for index in 0..KEYS / 2 {
                        let key = first_key + column + comptime![(index / 4 * 8 + index % 2) as u32];
                        let mut hidden = key >= keys;
                        if comptime![causal] {
                            hidden = hidden || key > row + comptime![(index / 2 % 2 * 8) as u32];
                        }
                        scores[index] = select(hidden, -1e30f32, scores[index]);
                    }
                }
                #[unroll]
                for half in 0..2usize {
                    let mut most = largest[half];
                    #[unroll]
                    for index in 0..KEYS / 4 {
                        most = f32::max(most, scores[index / 2 * 4 + half * 2 + index % 2]);
                    }
                    most = f32::max(most, plane_shuffle_xor(most, 1u32));
                    most = f32::max(most, plane_shuffle_xor(most, 2u32));
                    let shrink = f32::exp(largest[half] - most);
                    let mut here = 0f32;
                    #[unroll]
                    for index in 0..KEYS / 4 {
                        let at = index / 2 * 4 + half * 2 + index % 2;
                        let share = f32::exp(scores[at] - most);
                        scores[at] = share;
                        here += share;
                    }
                    largest[half] = most;
                    total[half] = total[half] * shrink + here;
                    #[unroll]
                    for index in 0..WIDTH / 4 {
                        let at = index / 2 * 4 + half * 2 + index % 2;
                        sum[at] = sum[at] * shrink;
                    }
                }
                v_full[stage].wait_parity(turn & 1);
                let values_here = MatrixDescriptor::new(&v_tiles[from..to], comptime![tile(Major::MN, WIDTH, KEYS)]);
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
                    v_empty[stage].arrive();
                }
                #[unroll]
                for index in 0..WIDTH / 2 {
                    sum[index] = sum[index] + weighted.get(index);
                }
            }
        }
        #[unroll]
        for half in 0..2usize {
            let mut all = total[half];
            all = all + plane_shuffle_xor(all, 1u32);
            all = all + plane_shuffle_xor(all, 2u32);
            let query = row + comptime![half as u32 * 8];
            if query < queries {
                let share = 1f32 / all;
                let line = ((batch * queries + query) * heads + head) * comptime![WIDTH as u32];
                #[unroll]
                for index in 0..WIDTH / 8 {
                    let mut pair = Vector::<bf16, Const<2>>::empty();
                    pair.insert(0usize, bf16::cast_from(sum[index * 4 + half * 2] * share));
                    pair.insert(1usize, bf16::cast_from(sum[index * 4 + half * 2 + 1] * share));
                    out[((line + column + comptime![index as u32 * 8]) / 2) as usize] = pair;
                }
                if unit % 4 == 0 {
                    let at = (batch * heads + head) * queries + query;
                    sums[at as usize] = largest[half] + f32::ln(all);
                }
            }
        }
    }
}
