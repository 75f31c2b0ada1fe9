//! The kernel for moments in 32 bits: a value a unit.

use super::{Step, rounding::rounded};
use burn::tensor::DType;
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
    let count = weights.meta.shape()[0] as u32;
    let client = weights.client.clone();
    let is_bf16 = |tensor: &CubeTensor| tensor.dtype == DType::BF16;
    let rounds = is_bf16(weights);
    macro_rules! launch {
        ($weight:ty, $gradient:ty) => {
            // SAFETY: units past the last value do nothing.
            unsafe {
                adamw::launch_unchecked::<$weight, $gradient>(
                    &client,
                    CubeCount::Static(count.div_ceil(UNITS), 1, 1),
                    CubeDim::new_1d(UNITS),
                    weights.clone().into_buffer_arg(),
                    gradient.into_buffer_arg(),
                    factor.into_buffer_arg(),
                    first.clone().into_buffer_arg(),
                    second.clone().into_buffer_arg(),
                    count,
                    step.beta1,
                    step.beta2,
                    step.epsilon,
                    step.rate,
                    step.correction,
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
    weights: &mut [W],
    gradient: &[G],
    factor: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    count: u32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    rate: f32,
    correction: f32,
    kept: f32,
    key_high: u32,
    key_low: u32,
    #[comptime] rounds: bool,
) {
    let position = CUBE_POS_X * UNITS + UNIT_POS;
    if position < count {
        let at = position as usize;
        let g = f32::cast_from(gradient[at]) * factor[0];
        let m = first[at] * beta1 + g * (1f32 - beta1);
        let v = second[at] * beta2 + g * g * (1f32 - beta2);
        first[at] = m;
        second[at] = v;
        let value = f32::cast_from(weights[at]) * kept - m / (f32::sqrt(v) / correction + epsilon) * rate;
        if comptime![rounds] {
            weights[at] = W::cast_from(rounded(value, position, key_high, key_low));
        } else {
            weights[at] = W::cast_from(value);
        }
    }
}
