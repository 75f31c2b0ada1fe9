//! The kernel for moments in 32 bits: four neighbouring values a unit, or one where the length is no multiple of that.

use super::{Step, moved, rounding::rounded};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use half::bf16;

const UNITS: u32 = 256;

/// Puts the kernel in the queue; all tensors but the gradient and its factor are written where they lie.
pub(super) fn launch(
    weights: &CubeTensor,
    gradient: CubeTensor,
    factor: CubeTensor,
    [first, second]: [&CubeTensor; 2],
    step: Step,
) {
    let length = weights.meta.shape()[0];
    let each = if length.is_multiple_of(4) { 4 } else { 1 };
    let count = (length / each) as u32;
    macro_rules! launch {
        ($weight:ty, $gradient:ty, $rounds:literal) => {
            // SAFETY: units past the last value do nothing.
            unsafe {
                adamw::launch_unchecked::<$weight, $gradient>(
                    &weights.client,
                    CubeCount::Static(count.div_ceil(UNITS), 1, 1),
                    CubeDim::new_1d(UNITS),
                    each,
                    weights.clone().into_buffer_arg(),
                    gradient.into_buffer_arg(),
                    factor.into_buffer_arg(),
                    first.clone().into_buffer_arg(),
                    second.clone().into_buffer_arg(),
                    count,
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
fn adamw<W: Float, G: Float, N: Size>(
    weights: &mut [Vector<W, N>],
    gradient: &[Vector<G, N>],
    factor: &[f32],
    first: &mut [Vector<f32, N>],
    second: &mut [Vector<f32, N>],
    count: u32,
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
    let position = CUBE_POS_X * UNITS + UNIT_POS;
    if position < count {
        let at = position as usize;
        let weight = weights[at];
        let g = Vector::<f32, N>::cast_from(gradient[at]) * Vector::new(factor[0]);
        let m = first[at] * Vector::new(beta1) + g * Vector::new(fresh1);
        let v = second[at] * Vector::new(beta2) + g * g * Vector::new(fresh2);
        first[at] = m;
        second[at] = v;
        let place = position * weight.vector_size() as u32 + key_high;
        let mut new = Vector::<W, N>::empty();
        #[unroll]
        for index in 0..weight.vector_size() {
            let weight = f32::cast_from(weight.extract(index));
            let value = moved(weight, m.extract(index), v.extract(index), to_root, epsilon, rate, kept);
            if comptime![rounds] {
                new.insert(index, W::reinterpret(rounded(value, place + comptime![index as u32], key_low)));
            } else {
                new.insert(index, W::cast_from(value));
            }
        }
        weights[at] = new;
    }
}
