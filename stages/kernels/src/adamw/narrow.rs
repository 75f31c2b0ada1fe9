//! The kernel for moments in 8 bits: a plane a block, eight neighbouring values a unit.

#![allow(clippy::manual_is_multiple_of, reason = "kernels are written in the part of Rust that CubeCL knows")]

use super::{BLOCK, Step, codes, moved, rounding::rounded};
use crate::instruction::reciprocal;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use half::bf16;

/// Values of a unit.
const EACH: usize = 8;
const UNITS: u32 = 256;
/// Cubes that a processor has at once. They go on from strip to strip, so that each reads the tables once.
const RESIDENT: u32 = 5;

/// Puts the kernel in the queue; all tensors but the gradient, its factor and the tables are written where they lie.
pub(super) fn launch(
    weights: &CubeTensor,
    gradient: CubeTensor,
    factor: CubeTensor,
    [codes, scales, second_codes, second_scales]: [&CubeTensor; 4],
    tables: CubeTensor,
    step: Step,
) {
    let count = (weights.meta.shape()[0] / EACH) as u32;
    let processors = weights.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(132);
    let strips = count.div_ceil(UNITS);
    let cubes = strips.min(RESIDENT * processors);
    let argument = |tensor: &CubeTensor| tensor.clone().into_buffer_arg();
    macro_rules! launch {
        ($weight:ty, $gradient:ty, $rounds:literal) => {
            // SAFETY: units past the last value write nothing, and a block's scales are written by the block's first unit.
            unsafe {
                adamw::launch_unchecked::<$weight, $gradient>(
                    &weights.client,
                    CubeCount::Static(cubes, 1, 1),
                    CubeDim::new_1d(UNITS),
                    argument(weights),
                    gradient.into_buffer_arg(),
                    factor.into_buffer_arg(),
                    argument(codes),
                    argument(scales),
                    argument(second_codes),
                    argument(second_scales),
                    tables.into_buffer_arg(),
                    count,
                    strips,
                    step.beta1,
                    step.beta2,
                    step.fresh1,
                    step.fresh2,
                    step.epsilon(),
                    step.rate,
                    step.correction.recip(),
                    step.kept,
                    (step.key >> 32) as u32,
                    step.key as u32,
                    $rounds,
                )
            }
        };
    }
    by_types!(weights, gradient, launch)
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn adamw<W: Float, G: Float>(
    weights: &mut [Vector<W, Const<8>>],
    gradient: &[Vector<G, Const<8>>],
    factor: &[f32],
    codes: &mut [Vector<u8, Const<8>>],
    scales: &mut [f32],
    second_codes: &mut [Vector<u8, Const<8>>],
    second_scales: &mut [f32],
    tables: &[Vector<u32, Const<4>>],
    count: u32,
    strips: u32,
    beta1: f32,
    beta2: f32,
    fresh1: f32,
    fresh2: f32,
    epsilon: f32,
    rate: f32,
    to_root: f32,
    kept: f32,
    key_high: u32,
    key_low: u32,
    #[comptime] rounds: bool,
) {
    let tables = codes::read(tables, UNITS);
    let factor = factor[0];
    for turn in 0..(strips - CUBE_POS_X).div_ceil(CUBE_COUNT_X) {
        let position = (turn * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS;
        // Every unit of a plane goes on to the end, because the plane finds its largest value together.
        let here = position < count;
        let at = select(here, position, 0u32) as usize;
        let block = at / comptime![BLOCK / EACH];
        let weight = weights[at];
        let slope = gradient[at];
        let old_first = codes[at];
        let old_second = second_codes[at];
        let first_scale = scales[block] * beta1;
        let second_scale = second_scales[block] * beta2;
        let place = position * comptime![EACH as u32] + key_high;
        // All of it is on its way at once: the compiler would ask for the weights where they are used.
        sync_plane();

        let mut first = Array::<f32>::new(EACH);
        let mut second = Array::<f32>::new(EACH);
        let mut largest = 0f32;
        let mut largest_second = 0f32;
        let mut new = Vector::<W, Const<8>>::empty();
        #[unroll]
        for index in 0..EACH {
            let g = f32::cast_from(slope.extract(index)) * factor;
            let m = codes::decode(&tables, old_first.extract(index), true) * first_scale + g * fresh1;
            let v = codes::decode(&tables, old_second.extract(index), false) * second_scale + g * g * fresh2;
            first[index] = m;
            second[index] = v;
            largest = f32::max(largest, f32::abs(m));
            largest_second = f32::max(largest_second, v);
            let value = moved(f32::cast_from(weight.extract(index)), m, v, to_root, epsilon, rate, kept);
            if comptime![rounds] {
                new.insert(index, W::reinterpret(rounded(value, place + comptime![index as u32], key_low)));
            } else {
                new.insert(index, W::cast_from(value));
            }
        }
        let largest = plane_max(select(here, largest, 0f32));
        let largest_second = plane_max(select(here, largest_second, 0f32));
        if here {
            let mut new_first = Vector::<u8, Const<8>>::empty();
            let mut new_second = Vector::<u8, Const<8>>::empty();
            let share = reciprocal(f32::max(largest, f32::MIN_POSITIVE));
            let second_share = reciprocal(f32::max(largest_second, f32::MIN_POSITIVE));
            #[unroll]
            for index in 0..EACH {
                new_first.insert(index, codes::encode(&tables, first[index] * share, true));
                new_second.insert(index, codes::encode(&tables, second[index] * second_share, false));
            }
            weights[at] = new;
            codes[at] = new_first;
            second_codes[at] = new_second;
            if UNIT_POS_PLANE == 0 {
                scales[block] = largest;
                second_scales[block] = largest_second;
            }
        }
    }
}
