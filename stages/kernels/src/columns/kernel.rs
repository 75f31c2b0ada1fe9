//! The kernels: a cube a strip of rows and 256 columns, then a cube 32 columns of all strips.

use crate::vectors::{EACH, Narrow, PLANE, Wide, empty_like, vectors, widen};
use burn::tensor::{DType, Shape};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;
use half::bf16;

/// Planes of a cube that adds up a strip: each takes every eighth row.
pub(crate) const PLANES: u32 = 8;
/// Units of such a cube.
pub(crate) const UNITS: u32 = PLANES * PLANE;
/// Rows that a unit has read before it adds them up.
pub(crate) const AT_ONCE: u32 = 4;
/// Rows of a strip.
pub(crate) const STRIP: u32 = 2 * AT_ONCE * PLANES;
/// Planes of a cube that adds up strips, and strips that a unit reads at once.
const STRIP_PLANES: u32 = 16;
const STRIPS_AT_ONCE: u32 = 8;

/// Whether the kernels take this matrix.
pub(super) fn takes(matrix: &CubeTensor) -> bool {
    let shape = matrix.meta.shape();
    matrix.dtype == DType::BF16 && shape[1].is_multiple_of(EACH) && shape[0] * shape[1] > 0
}

/// Puts both kernels in the queue.
pub(super) fn launch(matrix: CubeTensor) -> CubeTensor {
    let matrix = into_contiguous(matrix);
    let [rows, columns] = [0, 1].map(|dimension| matrix.meta.shape()[dimension]);
    let strips = rows.div_ceil(STRIP as usize);
    let partial = empty_like(&matrix, Shape::from([1, strips, columns]), DType::F32);
    // SAFETY: what lies past the last row or column is neither read nor written.
    unsafe {
        add_rows::launch_unchecked(
            &matrix.client.clone(),
            CubeCount::Static(vectors(&matrix).div_ceil(PLANE as usize) as u32, strips as u32, 1),
            CubeDim::new_1d(UNITS),
            matrix.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            rows as u32,
            vectors(&matrix) as u32,
        );
    }
    total(partial, Shape::from([columns]), 0)
}

/// Adds up what is known of strips, `[B, strips, C]` in f32, into bf16 of a shape with `B` rows: the sums begin at the column `first`, and
/// beside them are zeros.
pub(crate) fn total(partial: CubeTensor, shape: Shape, first: usize) -> CubeTensor {
    let [batch, strips, columns] = [0, 1, 2].map(|dimension| partial.meta.shape()[dimension]);
    let width = shape.num_elements() / batch;
    let out = empty_like(&partial, shape, DType::BF16);
    // SAFETY: what lies past the last strip or column is neither read nor written.
    unsafe {
        add_strips::launch_unchecked(
            &out.client,
            CubeCount::Static(width.div_ceil(PLANE as usize) as u32, batch as u32, 1),
            CubeDim::new_1d(STRIP_PLANES * PLANE),
            partial.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            strips as u32,
            columns as u32,
            first as u32,
            width as u32,
        );
    }
    out
}

#[cube(launch_unchecked)]
fn add_rows(matrix: &[Narrow], partial: &mut [Wide], rows: u32, vectors: u32) {
    let column = CUBE_POS_X * PLANE + UNIT_POS % PLANE;
    let first = CUBE_POS_Y * STRIP + UNIT_POS / PLANE;
    let mut sum = Wide::new(0f32);
    #[unroll]
    for turn in 0..comptime![STRIP / PLANES / AT_ONCE] {
        let mut values = Array::<Narrow>::new(AT_ONCE as usize);
        #[unroll]
        for index in 0..AT_ONCE {
            let row = first + (turn * AT_ONCE + index) * PLANES;
            let here = column < vectors && row < rows;
            values[index as usize] = matrix[select(here, row * vectors + column, 0u32) as usize];
        }
        #[unroll]
        for index in 0..AT_ONCE {
            if first + (turn * AT_ONCE + index) * PLANES < rows {
                sum += widen(values[index as usize]);
            }
        }
    }
    of_strip(sum, partial, CUBE_POS_Y * vectors + column, column < vectors, PLANE);
}

/// Adds up the sums of a cube's units that are `period` apart, and writes those of the first `period` that are `here`, each to its place.
#[cube]
pub(crate) fn of_strip(sum: Wide, partial: &mut [Wide], at: u32, here: bool, #[comptime] period: u32) {
    let mut sums: Shared<[Wide]> = Shared::new_slice(UNITS as usize);
    sums[UNIT_POS as usize] = sum;
    sync_cube();
    if UNIT_POS < period && here {
        let mut all = sums[UNIT_POS as usize];
        #[unroll]
        for index in 1..comptime![UNITS / period] {
            all += sums[(UNIT_POS + index * period) as usize];
        }
        partial[at as usize] = all;
    }
}

#[cube(launch_unchecked)]
fn add_strips(partial: &[f32], out: &mut [bf16], strips: u32, columns: u32, first: u32, width: u32) {
    let lane = UNIT_POS % PLANE;
    let plane = UNIT_POS / PLANE;
    let place = CUBE_POS_X * PLANE + lane;
    let here = place >= first && place < first + columns;
    let column = select(here, place - first, 0u32);
    let mut sum = 0f32;
    for turn in 0..strips.div_ceil(STRIP_PLANES * STRIPS_AT_ONCE) {
        #[unroll]
        for index in 0..STRIPS_AT_ONCE {
            let strip = (turn * STRIPS_AT_ONCE + index) * STRIP_PLANES + plane;
            let at = (CUBE_POS_Y * strips + select(strip < strips, strip, 0u32)) * columns + column;
            sum += select(strip < strips, partial[at as usize], 0f32);
        }
    }
    let mut sums: Shared<[f32]> = Shared::new_slice(comptime![(STRIP_PLANES * PLANE) as usize]);
    sums[UNIT_POS as usize] = sum;
    sync_cube();
    if plane == 0 && place < width {
        let mut all = sums[lane as usize];
        #[unroll]
        for index in 1..STRIP_PLANES {
            all += sums[(lane + index * PLANE) as usize];
        }
        out[(CUBE_POS_Y * width + place) as usize] = bf16::cast_from(select(here, all, 0f32));
    }
}
