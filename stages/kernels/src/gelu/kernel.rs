//! The kernels: a vector a unit.

use crate::vectors::{EACH, Narrow, Wide, empty_like, narrow, widen};
use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

const UNITS: usize = 256;
const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// The activation of every value.
pub(super) fn forward(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let out = empty_like(&x, x.shape(), x.dtype);
    let (vectors, cubes) = extent(&x);
    // SAFETY: units past the last vector do nothing.
    unsafe {
        gelu::launch_unchecked(
            &x.client.clone(),
            cubes,
            CubeDim::new_1d(UNITS as u32),
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            vectors,
        );
    }
    out
}

/// The gradient of what went in.
pub(super) fn backward(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
    let [x, gradient] = [x, gradient].map(into_contiguous);
    let out = empty_like(&x, x.shape(), x.dtype);
    let (vectors, cubes) = extent(&x);
    // SAFETY: units past the last vector do nothing.
    unsafe {
        gelu_gradient::launch_unchecked(
            &x.client.clone(),
            cubes,
            CubeDim::new_1d(UNITS as u32),
            x.into_buffer_arg(),
            gradient.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            vectors,
        );
    }
    out
}

fn extent(x: &CubeTensor) -> (u32, CubeCount) {
    let vectors = x.shape().num_elements() / EACH;
    (vectors as u32, CubeCount::Static(vectors.div_ceil(UNITS) as u32, 1, 1))
}

/// `sigmoid(2u)`, where GELU is `x/2·(1 + tanh(u)) = x·sigmoid(2u)`.
#[cube]
fn share_of(x: Wide) -> Wide {
    let one = Wide::new(1f32);
    let twice = x * (x * x * Wide::new(comptime![CUBIC * TWICE_SQRT_2_OVER_PI]) + Wide::new(TWICE_SQRT_2_OVER_PI));
    one / (one + Wide::exp(-twice))
}

#[cube(launch_unchecked)]
fn gelu(x: &[Narrow], out: &mut [Narrow], vectors: u32) {
    let at = ABSOLUTE_POS;
    if at < vectors as usize {
        let x = widen(x[at]);
        out[at] = narrow(x * share_of(x));
    }
}

#[cube(launch_unchecked)]
fn gelu_gradient(x: &[Narrow], gradient: &[Narrow], out: &mut [Narrow], vectors: u32) {
    let at = ABSOLUTE_POS;
    if at < vectors as usize {
        let x = widen(x[at]);
        let share = share_of(x);
        let slope = x * x * Wide::new(comptime![3f32 * CUBIC * TWICE_SQRT_2_OVER_PI]) + Wide::new(TWICE_SQRT_2_OVER_PI);
        let one = Wide::new(1f32);
        out[at] = narrow(widen(gradient[at]) * share * (one + x * (one - share) * slope));
    }
}
