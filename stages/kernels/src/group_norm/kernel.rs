//! The kernels: what a strip of pixels is like, channel by channel; what that comes to for a group; and the norm.

#![allow(clippy::manual_is_multiple_of, reason = "kernels are written in the part of Rust that CubeCL knows")]

use crate::instruction::sigmoid;
use crate::vectors::{EACH, Narrow, PLANE, Wide, empty_like, narrow, vectors, widen};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use half::bf16;

const UNITS: u32 = 256;
/// Pixels that a unit reads at once, and times that it does so for a strip.
const AT_ONCE: u32 = 8;
const TURNS: u32 = 4;
/// From a channel of a unit's eight to its next in shared memory: more than a cube's units, so that neighbouring channels are in different banks.
const APART: u32 = UNITS + 4;

/// A unit has eight channels, and a cube all of them.
pub(super) const MOST_CHANNELS: usize = EACH * UNITS as usize;

/// Normalises contiguous `[B, H, W, C]`.
pub(super) fn launch(
    x: CubeTensor,
    [weight, bias]: [CubeTensor; 2],
    groups: usize,
    epsilon: f32,
    silu: bool,
) -> CubeTensor {
    let [batch, height, width, channels] = [0, 1, 2, 3].map(|dimension| x.meta.shape()[dimension]);
    let (pixels, vectors) = (height * width, vectors(&x) as u32);
    let at_once = UNITS / vectors * AT_ONCE;
    let strip = at_once * TURNS;
    let strips = pixels.div_ceil(strip as usize);
    let cubes = |pixels: u32| CubeCount::Static((height * width).div_ceil(pixels as usize) as u32, batch as u32, 1);
    let units = CubeDim::new_1d(UNITS);
    let (client, out) = (x.client.clone(), empty_like(&x, x.shape(), x.dtype));
    let empty = |shape: &[usize]| empty_like(&x, Shape::from(shape.to_vec()), DType::F32);
    let [means, spreads] = [(); 2].map(|()| empty(&[batch, strips, channels]));
    let [scale, shift] = [(); 2].map(|()| empty(&[batch, channels]));
    // SAFETY: pixels past the last are neither read nor written, and a cube has a unit for each vector of a pixel.
    unsafe {
        measure::launch_unchecked(
            &client,
            cubes(strip),
            units,
            x.clone().into_buffer_arg(),
            means.clone().into_buffer_arg(),
            spreads.clone().into_buffer_arg(),
            pixels as u32,
            vectors,
        );
        settle::launch_unchecked(
            &client,
            CubeCount::Static(groups as u32, batch as u32, 1),
            units,
            means.into_buffer_arg(),
            spreads.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            scale.clone().into_buffer_arg(),
            shift.clone().into_buffer_arg(),
            strips as u32,
            strip,
            pixels as u32,
            (channels / groups) as u32,
            epsilon,
        );
        normalise::launch_unchecked(
            &client,
            cubes(at_once),
            units,
            x.into_buffer_arg(),
            scale.into_buffer_arg(),
            shift.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            pixels as u32,
            vectors,
            silu,
        );
    }
    out
}

/// Of each channel the mean over a strip of pixels, and the sum of the squares of what its values are apart from that.
///
/// Values are counted from the strip's first, so that what their squares lose to cancellation is bounded by the number of pixels, however
/// far the values are from zero.
#[cube(launch_unchecked)]
fn measure(x: &[Narrow], means: &mut [f32], spreads: &mut [f32], pixels: u32, vectors: u32) {
    let rows = UNITS / vectors;
    let row = UNIT_POS / vectors;
    let column = UNIT_POS % vectors;
    let strip = rows * comptime![AT_ONCE * TURNS];
    let first = CUBE_POS_X * strip;
    let begin = (CUBE_POS_Y * pixels + first) * vectors + column;
    let count = select(pixels - first < strip, pixels - first, strip);
    let origin = widen(x[begin as usize]);
    let mut sum = Wide::new(0f32);
    let mut squares = Wide::new(0f32);
    for turn in 0..TURNS {
        let mut values = Array::<Narrow>::new(AT_ONCE as usize);
        #[unroll]
        for index in 0..AT_ONCE {
            let pixel = (turn * AT_ONCE + index) * rows + row;
            let here = row < rows && pixel < count;
            // Instead of what is not there the origin adds nothing.
            values[index as usize] = x[(begin + select(here, pixel * vectors, 0u32)) as usize];
        }
        #[unroll]
        for index in 0..AT_ONCE {
            let value = widen(values[index as usize]) - origin;
            sum += value;
            squares += value * value;
        }
    }
    let mut origins: Shared<[f32]> = Shared::new_slice(comptime![EACH * APART as usize]);
    let mut sums: Shared<[f32]> = Shared::new_slice(comptime![EACH * APART as usize]);
    let mut all_squares: Shared<[f32]> = Shared::new_slice(comptime![EACH * APART as usize]);
    #[unroll]
    for index in 0..EACH {
        let at = (UNIT_POS + comptime![index as u32 * APART]) as usize;
        origins[at] = origin.extract(index);
        sums[at] = sum.extract(index);
        all_squares[at] = squares.extract(index);
    }
    sync_cube();
    let share = 1f32 / f32::cast_from(count);
    let channels = vectors * comptime![EACH as u32];
    for turn in 0..channels.div_ceil(UNITS) {
        let channel = turn * UNITS + UNIT_POS;
        if channel < channels {
            let at = channel / comptime![EACH as u32] + channel % comptime![EACH as u32] * APART;
            let mut sum = 0f32;
            let mut squares = 0f32;
            for row in 0..rows {
                sum += sums[(at + row * vectors) as usize];
                squares += all_squares[(at + row * vectors) as usize];
            }
            let to = ((CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * channels + channel) as usize;
            means[to] = origins[at as usize] + sum * share;
            spreads[to] = squares - sum * sum * share;
        }
    }
}

/// What each channel is multiplied by, and what is added to it then. A cube has a group, `width` channels wide.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn settle(
    means: &[f32],
    spreads: &[f32],
    weight: &[bf16],
    bias: &[bf16],
    scale: &mut [f32],
    shift: &mut [f32],
    strips: u32,
    strip: u32,
    pixels: u32,
    width: u32,
    epsilon: f32,
) {
    let channels = CUBE_COUNT_X * width;
    let begin = CUBE_POS_Y * strips * channels + CUBE_POS_X * width;
    let origin = means[begin as usize];
    let mut sum = 0f32;
    let mut squares = 0f32;
    for turn in 0..(strips * width).div_ceil(UNITS) {
        let place = turn * UNITS + UNIT_POS;
        if place < strips * width {
            let first = place / width * strip;
            let count = f32::cast_from(select(pixels - first < strip, pixels - first, strip));
            let at = (begin + place / width * channels + place % width) as usize;
            let mean = means[at] - origin;
            sum += count * mean;
            squares += spreads[at] + count * mean * mean;
        }
    }
    let sum = plane_sum(sum);
    let squares = plane_sum(squares);
    let mut sums: Shared<[f32]> = Shared::new_slice(comptime![(UNITS / PLANE) as usize]);
    let mut all_squares: Shared<[f32]> = Shared::new_slice(comptime![(UNITS / PLANE) as usize]);
    if UNIT_POS % PLANE == 0 {
        sums[(UNIT_POS / PLANE) as usize] = sum;
        all_squares[(UNIT_POS / PLANE) as usize] = squares;
    }
    sync_cube();
    let mut sum = 0f32;
    let mut squares = 0f32;
    #[unroll]
    for plane in 0..comptime![(UNITS / PLANE) as usize] {
        sum += sums[plane];
        squares += all_squares[plane];
    }
    let share = 1f32 / (f32::cast_from(pixels) * f32::cast_from(width));
    let mean = sum * share;
    let variance = squares * share - mean * mean;
    let steepness = f32::inverse_sqrt(select(variance > 0f32, variance, 0f32) + epsilon);
    for turn in 0..width.div_ceil(UNITS) {
        let of_group = turn * UNITS + UNIT_POS;
        if of_group < width {
            let channel = CUBE_POS_X * width + of_group;
            let factor = steepness * f32::cast_from(weight[channel as usize]);
            let to = (CUBE_POS_Y * channels + channel) as usize;
            scale[to] = factor;
            shift[to] = f32::cast_from(bias[channel as usize]) - (origin + mean) * factor;
        }
    }
}

/// `x·scale + shift`, and its SiLU.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn normalise(
    x: &[Narrow],
    scale: &[Wide],
    shift: &[Wide],
    out: &mut [Narrow],
    pixels: u32,
    vectors: u32,
    #[comptime] silu: bool,
) {
    let rows = UNITS / vectors;
    let row = UNIT_POS / vectors;
    let column = UNIT_POS % vectors;
    let first = CUBE_POS_X * rows * AT_ONCE;
    let begin = (CUBE_POS_Y * pixels + first) * vectors + column;
    let scale = scale[(CUBE_POS_Y * vectors + column) as usize];
    let shift = shift[(CUBE_POS_Y * vectors + column) as usize];
    let mut values = Array::<Narrow>::new(AT_ONCE as usize);
    #[unroll]
    for index in 0..AT_ONCE {
        let pixel = index * rows + row;
        let here = row < rows && first + pixel < pixels;
        values[index as usize] = x[(begin + select(here, pixel * vectors, 0u32)) as usize];
    }
    #[unroll]
    for index in 0..AT_ONCE {
        let pixel = index * rows + row;
        if row < rows && first + pixel < pixels {
            let mut value = widen(values[index as usize]) * scale + shift;
            if comptime![silu] {
                #[unroll]
                for index in 0..EACH {
                    let single = value.extract(index);
                    value.insert(index, single * sigmoid(single));
                }
            }
            out[(begin + pixel * vectors) as usize] = narrow(value);
        }
    }
}
