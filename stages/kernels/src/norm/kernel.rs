//! The kernels: forward a plane a row, which it holds in registers; backward a cube a strip of rows, with a unit for every eight columns.

#![allow(clippy::manual_is_multiple_of, reason = "kernels are written in the part of Rust that CubeCL knows")]

use crate::columns;
use crate::vectors::{EACH, Narrow, PLANE, Wide, dot, empty_like, narrow, vectors, widen};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

/// Rows of a cube forward.
const PLANES: u32 = 4;
/// Rows of a cube backward, and rows that it reads at once.
const STRIP: u32 = 16;
const AT_ONCE: u32 = 4;

/// Normalises and modulates.
pub(super) fn forward(x: CubeTensor, modulation: CubeTensor, part: usize, epsilon: f32) -> CubeTensor {
    let [x, modulation] = [x, modulation].map(into_contiguous);
    let [batch, tokens] = [0, 1].map(|dimension| x.meta.shape()[dimension]);
    let (vectors, stride) = (vectors(&x) as u32, vectors(&modulation) as u32);
    let out = empty_like(&x, x.shape(), x.dtype);
    // SAFETY: what lies past the last row or column is neither read nor written.
    unsafe {
        normalise::launch_unchecked(
            &out.client,
            CubeCount::Static((tokens as u32).div_ceil(PLANES), batch as u32, 1),
            CubeDim::new_1d(PLANES * PLANE),
            x.into_buffer_arg(),
            modulation.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            tokens as u32,
            part as u32 * vectors,
            stride,
            epsilon,
            vectors,
        );
    }
    out
}

/// The gradients of `x` and of the modulation.
pub(super) fn backward(
    x: CubeTensor,
    modulation: CubeTensor,
    gradient: CubeTensor,
    part: usize,
    epsilon: f32,
) -> (CubeTensor, CubeTensor) {
    let [x, modulation, gradient] = [x, modulation, gradient].map(into_contiguous);
    let [batch, tokens, width] = [0, 1, 2].map(|dimension| x.meta.shape()[dimension]);
    let (vectors, stride) = (vectors(&x) as u32, vectors(&modulation) as u32);
    let strips = tokens.div_ceil(STRIP as usize);
    let of_x = empty_like(&x, x.shape(), x.dtype);
    let partial = empty_like(&x, Shape::from([batch, strips, 2 * width]), DType::F32);
    let shape = modulation.shape();
    // SAFETY: what lies past the last row or column is neither read nor written.
    unsafe {
        normalise_gradients::launch_unchecked(
            &of_x.client,
            CubeCount::Static(strips as u32, batch as u32, 1),
            CubeDim::new_1d(vectors.next_multiple_of(PLANE)),
            x.into_buffer_arg(),
            modulation.into_buffer_arg(),
            gradient.into_buffer_arg(),
            of_x.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            tokens as u32,
            part as u32 * vectors,
            stride,
            epsilon,
            vectors,
        );
    }
    (of_x, columns::total(partial, shape, part * width))
}

/// `shift` is where a row of the modulation has the shift, and `stride` the length of such a row, in vectors.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn normalise(
    x: &[Narrow],
    modulation: &[Narrow],
    out: &mut [Narrow],
    tokens: u32,
    shift: u32,
    stride: u32,
    epsilon: f32,
    #[comptime] vectors: u32,
) {
    let each = comptime![vectors.div_ceil(PLANE)];
    let share = comptime![1f32 / (vectors as usize * EACH) as f32];
    let token = CUBE_POS_X * PLANES + UNIT_POS / PLANE;
    let lane = UNIT_POS % PLANE;
    if token < tokens {
        let row = (CUBE_POS_Y * tokens + token) * vectors;
        let mut values = Array::<Narrow>::new(each as usize);
        let mut sum = Wide::new(0f32);
        #[unroll]
        for index in 0..each {
            let column = lane + index * PLANE;
            values[index as usize] = x[(row + select(column < vectors, column, 0u32)) as usize];
            if column < vectors {
                sum += widen(values[index as usize]);
            }
        }
        let mean = Wide::new(plane_sum(sum.vector_sum()) * share);
        let mut squares = Wide::new(0f32);
        #[unroll]
        for index in 0..each {
            if lane + index * PLANE < vectors {
                let centred = widen(values[index as usize]) - mean;
                squares += centred * centred;
            }
        }
        let steepness = Wide::new(f32::inverse_sqrt(plane_sum(squares.vector_sum()) * share + epsilon));
        #[unroll]
        for index in 0..each {
            let column = lane + index * PLANE;
            if column < vectors {
                let at = (CUBE_POS_Y * stride + shift + column) as usize;
                let scale = widen(modulation[at + vectors as usize]) + Wide::new(1f32);
                let normal = (widen(values[index as usize]) - mean) * steepness;
                out[(row + column) as usize] = narrow(normal * scale + widen(modulation[at]));
            }
        }
    }
}

/// With the normal values `n = (x − mean)/deviation` and the slopes `h = gradient·(1 + scale)`, the gradient of a row is
/// `(h − mean(h) − n·mean(h·n))/deviation`, and those of shift and scale are the sums of `gradient` and `gradient·n` over the rows.
///
/// All sums over a row are found at once. Its values are counted from its first, so that what their squares lose to cancellation is
/// bounded by the number of columns, however far the values are from zero.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn normalise_gradients(
    x: &[Narrow],
    modulation: &[Narrow],
    gradient: &[Narrow],
    of_x: &mut [Narrow],
    partial: &mut [Wide],
    tokens: u32,
    shift: u32,
    stride: u32,
    epsilon: f32,
    #[comptime] vectors: u32,
) {
    let planes = comptime![vectors.div_ceil(PLANE)];
    let share = comptime![1f32 / (vectors as usize * EACH) as f32];
    let column = UNIT_POS;
    let here = column < vectors;
    let at = CUBE_POS_Y * stride + shift + comptime![vectors] + select(here, column, 0u32);
    let scale = widen(modulation[at as usize]) + Wide::new(1f32);
    let mut of_shift = Wide::new(0f32);
    let mut of_scale = Wide::new(0f32);
    // Two sets, so that a turn's sums are not written over while others still read those of the turn before.
    let mut sums: Shared<[Vector<f32, Const<4>>]> = Shared::new_slice(comptime![(2 * AT_ONCE * planes) as usize]);
    for turn in 0..comptime![STRIP / AT_ONCE] {
        let first = CUBE_POS_X * STRIP + turn * AT_ONCE;
        let set = turn % 2 * comptime![AT_ONCE * planes];
        let mut values = Array::<Narrow>::new(AT_ONCE as usize);
        let mut slopes = Array::<Narrow>::new(AT_ONCE as usize);
        let mut origins = Array::<f32>::new(AT_ONCE as usize);
        #[unroll]
        for index in 0..AT_ONCE {
            let token = first + index;
            let row = (CUBE_POS_Y * tokens + select(token < tokens, token, 0u32)) * vectors;
            let at = (row + select(here, column, 0u32)) as usize;
            values[index as usize] = x[at];
            slopes[index as usize] = gradient[at];
            origins[index as usize] = f32::cast_from(x[row as usize].extract(0usize));
        }
        let mut found = Array::<Vector<f32, Const<4>>>::new(AT_ONCE as usize);
        #[unroll]
        for index in 0..AT_ONCE {
            let value = widen(values[index as usize]) - Wide::new(origins[index as usize]);
            let slope = widen(slopes[index as usize]) * scale;
            let mut all = Vector::<f32, Const<4>>::empty();
            all.insert(0usize, plane_sum(select(here, value.vector_sum(), 0f32)));
            all.insert(1usize, plane_sum(select(here, dot(value, value), 0f32)));
            all.insert(2usize, plane_sum(select(here, slope.vector_sum(), 0f32)));
            all.insert(3usize, plane_sum(select(here, dot(slope, value), 0f32)));
            found[index as usize] = all;
        }
        if UNIT_POS % PLANE == 0 {
            #[unroll]
            for index in 0..AT_ONCE {
                sums[(set + index * planes + UNIT_POS / PLANE) as usize] = found[index as usize];
            }
        }
        sync_cube();
        #[unroll]
        for index in 0..AT_ONCE {
            let token = first + index;
            let mut all = sums[(set + index * planes) as usize];
            #[unroll]
            for plane in 1..planes {
                all += sums[(set + index * planes + plane) as usize];
            }
            let means = all * Vector::<f32, Const<4>>::new(share);
            let mean = means.extract(0usize);
            let steepness = f32::inverse_sqrt(means.extract(1usize) - mean * mean + epsilon);
            let mean_slope = means.extract(2usize);
            let along = (means.extract(3usize) - mean * mean_slope) * steepness;
            if here && token < tokens {
                let slope = widen(slopes[index as usize]);
                let normal =
                    (widen(values[index as usize]) - Wide::new(origins[index as usize] + mean)) * Wide::new(steepness);
                let change = slope * scale - Wide::new(mean_slope) - normal * Wide::new(along);
                of_x[((CUBE_POS_Y * tokens + token) * vectors + column) as usize] =
                    narrow(change * Wide::new(steepness));
                of_shift += slope;
                of_scale += slope * normal;
            }
        }
        // Planes find their sums together again.
        sync_plane();
    }
    if here {
        let at = ((CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * comptime![2 * vectors] + column) as usize;
        partial[at] = of_shift;
        partial[at + vectors as usize] = of_scale;
    }
}
