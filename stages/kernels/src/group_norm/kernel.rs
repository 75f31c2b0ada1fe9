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

/// Pixels that a cube takes at once of images with so many vectors a pixel.
fn at_once(vectors: u32) -> u32 {
    UNITS / vectors * AT_ONCE
}

/// Pixels of a strip of images with so many channels.
pub(super) fn strip(channels: usize) -> usize {
    (at_once((channels / EACH) as u32) * TURNS) as usize
}

/// Enough cubes for so many pixels each.
fn cubes(x: &CubeTensor, pixels: usize) -> CubeCount {
    let [batch, height, width] = [0, 1, 2].map(|dimension| x.meta.shape()[dimension]);
    CubeCount::Static((height * width).div_ceil(pixels) as u32, batch as u32, 1)
}

fn pixels(x: &CubeTensor) -> usize {
    x.meta.shape()[1] * x.meta.shape()[2]
}

/// Of each channel of contiguous `[B, H, W, C]` the means over strips of pixels, and then the sums of the squares of what its values are
/// apart from these: `[2, B, strips, C]`.
pub(super) fn moments(x: &CubeTensor) -> CubeTensor {
    let [batch, channels] = [0, 3].map(|dimension| x.meta.shape()[dimension]);
    let strip = strip(channels);
    let out = empty_like(x, Shape::from([2, batch, pixels(x).div_ceil(strip), channels]), DType::F32);
    // SAFETY: pixels past the last are not read, and a cube has a unit for each vector of a pixel.
    unsafe {
        measure::launch_unchecked(
            &x.client,
            cubes(x, strip),
            CubeDim::new_1d(UNITS),
            x.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            pixels(x) as u32,
            vectors(x) as u32,
        );
    }
    out
}

/// `x·scale + shift` of contiguous `[B, H, W, C]`, and its SiLU; scale and shift are `[B, C]`, in f32.
pub(super) fn scaled(x: CubeTensor, [scale, shift]: [CubeTensor; 2], silu: bool) -> CubeTensor {
    let (client, out) = (x.client.clone(), empty_like(&x, x.shape(), x.dtype));
    let vectors = vectors(&x) as u32;
    // SAFETY: pixels past the last are neither read nor written, and a cube has a unit for each vector of a pixel.
    unsafe {
        normalise::launch_unchecked(
            &client,
            cubes(&x, at_once(vectors) as usize),
            CubeDim::new_1d(UNITS),
            x.clone().into_buffer_arg(),
            scale.into_buffer_arg(),
            shift.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            pixels(&x) as u32,
            vectors,
            silu,
        );
    }
    out
}

/// Normalises contiguous `[B, H, W, C]`.
pub(super) fn launch(
    x: CubeTensor,
    [weight, bias]: [CubeTensor; 2],
    groups: usize,
    epsilon: f32,
    silu: bool,
) -> CubeTensor {
    let [batch, channels] = [0, 3].map(|dimension| x.meta.shape()[dimension]);
    let moments = moments(&x);
    let strips = moments.meta.shape()[2];
    let [scale, shift] = [(); 2].map(|()| empty_like(&x, Shape::from([batch, channels]), DType::F32));
    // SAFETY: a cube takes strips that there are, and writes the channels of its own group.
    unsafe {
        settle::launch_unchecked(
            &x.client,
            CubeCount::Static(groups as u32, batch as u32, 1),
            CubeDim::new_1d(UNITS),
            moments.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            scale.clone().into_buffer_arg(),
            shift.clone().into_buffer_arg(),
            strips as u32,
            strip(channels) as u32,
            pixels(&x) as u32,
            (channels / groups) as u32,
            epsilon,
        );
    }
    scaled(x, [scale, shift], silu)
}

/// Of each channel the mean over a strip of pixels, and the sum of the squares of what its values are apart from that.
///
/// Values are counted from the strip's first, so that what their squares lose to cancellation is bounded by the number of pixels, however
/// far the values are from zero.
#[cube(launch_unchecked)]
fn measure(x: &[Narrow], moments: &mut [f32], pixels: u32, vectors: u32) {
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
            let all_strips = (CUBE_COUNT_Y * CUBE_COUNT_X * channels) as usize;
            moments[to] = origins[at as usize] + sum * share;
            moments[all_strips + to] = squares - sum * sum * share;
        }
    }
}

/// What each channel is multiplied by, and what is added to it then. A cube has a group, `width` channels wide.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn settle(
    moments: &[f32],
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
    let all_strips = CUBE_COUNT_Y * strips * channels;
    let origin = moments[begin as usize];
    let mut sum = 0f32;
    let mut squares = 0f32;
    for turn in 0..(strips * width).div_ceil(UNITS) {
        let place = turn * UNITS + UNIT_POS;
        if place < strips * width {
            let first = place / width * strip;
            let count = f32::cast_from(select(pixels - first < strip, pixels - first, strip));
            let at = begin + place / width * channels + place % width;
            let mean = moments[at as usize] - origin;
            sum += count * mean;
            squares += moments[(all_strips + at) as usize] + count * mean * mean;
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
