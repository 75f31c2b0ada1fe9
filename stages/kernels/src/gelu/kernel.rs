//! The kernels: a vector a unit.

use crate::vectors::{EACH, Narrow, Wide, empty_like, narrow, widen};
use burn::backend::TensorMetadata;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

const UNITS: usize = 256;
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
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

/// `tanh(√(2/π)·(x + 0.044715·x³))`. The library's tanh ends in a quick division; the exact one of a sigmoid takes longer than the memory.
#[cube]
fn bend(x: Wide) -> Wide {
    Wide::tanh(x * (x * x * Wide::new(comptime![CUBIC * SQRT_2_OVER_PI]) + Wide::new(SQRT_2_OVER_PI)))
}

#[cube(launch_unchecked)]
fn gelu(x: &[Narrow], out: &mut [Narrow], vectors: u32) {
    let at = ABSOLUTE_POS;
    if at < vectors as usize {
        let x = widen(x[at]);
        out[at] = narrow(x * (bend(x) + Wide::new(1f32)) * Wide::new(0.5f32));
    }
}

#[cube(launch_unchecked)]
fn gelu_gradient(x: &[Narrow], gradient: &[Narrow], out: &mut [Narrow], vectors: u32) {
    let at = ABSOLUTE_POS;
    if at < vectors as usize {
        let x = widen(x[at]);
        let bend = bend(x);
        let one = Wide::new(1f32);
        // Times x, once more and once more: its square is infinite where the first factor is 0.
        let linear = (one - bend * bend) * x;
        let cubic = linear * x * x * Wide::new(comptime![3f32 * CUBIC * SQRT_2_OVER_PI]);
        let whole = one + bend + linear * Wide::new(SQRT_2_OVER_PI) + cubic;
        out[at] = narrow(widen(gradient[at]) * whole * Wide::new(0.5f32));
    }
}
