//! The kernel: a plane a block, eight neighbouring values a unit.

#![allow(clippy::manual_is_multiple_of, reason = "kernels are written in the part of Rust that CubeCL knows")]

use super::{BLOCK, Step, map, rounding::rounded};
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use half::bf16;

/// Values of a unit.
const EACH: usize = 8;
const UNITS: u32 = 256;
/// Vectors that a unit takes, one after the other: the tables are laid out once for all of them.
const TURNS: u32 = 8;

/// Puts the kernel in the queue; all tensors but the gradient and its factor are written where they lie.
pub(super) fn launch(
    weights: &CubeTensor,
    gradient: CubeTensor,
    factor: CubeTensor,
    [codes, scales, second_codes, second_scales]: [&CubeTensor; 4],
    step: Step,
) {
    let count = weights.meta.shape()[0];
    let cubes = count.div_ceil(EACH * (UNITS * TURNS) as usize) as u32;
    let client = weights.client.clone();
    let argument = |tensor: &CubeTensor| tensor.clone().into_buffer_arg();
    let is_bf16 = |tensor: &CubeTensor| tensor.dtype == DType::BF16;
    let rounds = is_bf16(weights);
    macro_rules! launch {
        ($weight:ty, $gradient:ty) => {
            // SAFETY: units past the last value write nothing, and a block's scales are written by the block's first unit.
            unsafe {
                adamw::launch_unchecked::<$weight, $gradient>(
                    &client,
                    CubeCount::Static(cubes, 1, 1),
                    CubeDim::new_1d(UNITS),
                    argument(weights),
                    gradient.into_buffer_arg(),
                    factor.into_buffer_arg(),
                    argument(codes),
                    argument(scales),
                    argument(second_codes),
                    argument(second_scales),
                    (count / EACH) as u32,
                    step.beta1,
                    step.beta2,
                    step.epsilon,
                    step.rate,
                    step.correction.recip(),
                    step.kept,
                    (step.key >> 32) as u32,
                    step.key as u32,
                    rounds,
                )
            }
        };
    }
    match (is_bf16(weights), is_bf16(&gradient)) {
        (true, true) => launch!(bf16, bf16),
        (true, false) => launch!(bf16, f32),
        (false, true) => launch!(f32, bf16),
        (false, false) => launch!(f32, f32),
    }
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
    count: u32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    rate: f32,
    to_root: f32,
    kept: f32,
    key_high: u32,
    key_low: u32,
    #[comptime] rounds: bool,
) {
    let tables = map::tables();
    let factor = factor[0];
    for turn in 0..TURNS {
        let position = (CUBE_POS_X * TURNS + turn) * UNITS + UNIT_POS;
        // Every unit of a plane goes on to the end, because the plane finds its largest value together.
        let here = position < count;
        let at = select(here, position, 0u32) as usize;
        let block = at / comptime![BLOCK / EACH];
        let weight = weights[at];
        let slope = gradient[at];
        let old_first = codes[at];
        let old_second = second_codes[at];
        let first_scale = scales[block];
        let second_scale = second_scales[block];

        let mut first = Array::<f32>::new(EACH);
        let mut second = Array::<f32>::new(EACH);
        let mut largest = 0f32;
        let mut largest_second = 0f32;
        let mut moved = Vector::<W, Const<8>>::empty();
        #[unroll]
        for index in 0..EACH {
            let g = f32::cast_from(slope.extract(index)) * factor;
            let m = map::decode(u32::cast_from(old_first.extract(index)), &tables, true) * first_scale * beta1
                + g * (1f32 - beta1);
            let v = map::decode(u32::cast_from(old_second.extract(index)), &tables, false) * second_scale * beta2
                + g * g * (1f32 - beta2);
            first[index] = m;
            second[index] = v;
            largest = f32::max(largest, f32::abs(m));
            largest_second = f32::max(largest_second, v);
            let value = f32::cast_from(weight.extract(index)) * kept - m / (f32::sqrt(v) * to_root + epsilon) * rate;
            if comptime![rounds] {
                let place = position * comptime![EACH as u32] + comptime![index as u32];
                moved.insert(index, W::cast_from(rounded(value, place, key_high, key_low)));
            } else {
                moved.insert(index, W::cast_from(value));
            }
        }
        let largest = plane_max(select(here, largest, 0f32));
        let largest_second = plane_max(select(here, largest_second, 0f32));
        if here {
            let mut new_first = Vector::<u8, Const<8>>::empty();
            let mut new_second = Vector::<u8, Const<8>>::empty();
            let share = 1f32 / f32::max(largest, 1.2e-38f32);
            let second_share = 1f32 / f32::max(largest_second, 1.2e-38f32);
            #[unroll]
            for index in 0..EACH {
                new_first.insert(index, u8::cast_from(map::encode(first[index] * share, &tables, true)));
                new_second.insert(index, u8::cast_from(map::encode(second[index] * second_share, &tables, false)));
            }
            weights[at] = moved;
            codes[at] = new_first;
            second_codes[at] = new_second;
            if UNIT_POS % comptime![(BLOCK / EACH) as u32] == 0 {
                scales[block] = largest;
                second_scales[block] = largest_second;
            }
        }
    }
}
