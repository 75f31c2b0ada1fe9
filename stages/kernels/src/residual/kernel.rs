//! The kernels: forward a cube a row, backward a cube a strip of rows and 256 columns.

use crate::columns::{self, AT_ONCE, PLANES, STRIP, UNITS, of_strip};
use crate::vectors::{Narrow, PLANE, Wide, empty_like, narrow, vectors, widen};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

/// `x + gate·y`.
pub(super) fn forward(x: CubeTensor, y: CubeTensor, modulation: CubeTensor, part: usize) -> CubeTensor {
    let [x, y, modulation] = [x, y, modulation].map(into_contiguous);
    let [batch, tokens] = [0, 1].map(|dimension| x.meta.shape()[dimension]);
    let (vectors, stride) = (vectors(&x) as u32, vectors(&modulation) as u32);
    let out = empty_like(&x, x.shape(), x.dtype);
    // SAFETY: a cube has a unit for each vector of a row, and the others do nothing.
    unsafe {
        add_gated::launch_unchecked(
            &out.client,
            CubeCount::Static(tokens as u32, batch as u32, 1),
            CubeDim::new_1d(vectors.next_multiple_of(PLANE)),
            x.into_buffer_arg(),
            y.into_buffer_arg(),
            modulation.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            part as u32 * vectors,
            stride,
            vectors,
        );
    }
    out
}

/// The gradients of `y` and of the modulation.
pub(super) fn backward(
    y: CubeTensor,
    modulation: CubeTensor,
    gradient: CubeTensor,
    part: usize,
) -> (CubeTensor, CubeTensor) {
    let [y, modulation, gradient] = [y, modulation, gradient].map(into_contiguous);
    let [batch, tokens, width] = [0, 1, 2].map(|dimension| y.meta.shape()[dimension]);
    let (vectors, stride) = (vectors(&y) as u32, vectors(&modulation) as u32);
    let strips = tokens.div_ceil(STRIP as usize);
    let of_y = empty_like(&y, y.shape(), y.dtype);
    let partial = empty_like(&y, Shape::from([batch, strips, width]), DType::F32);
    let shape = modulation.shape();
    // SAFETY: what lies past the last row or column is neither read nor written.
    unsafe {
        add_gated_gradients::launch_unchecked(
            &of_y.client,
            CubeCount::Static(vectors.div_ceil(PLANE), strips as u32, batch as u32),
            CubeDim::new_1d(UNITS),
            y.into_buffer_arg(),
            modulation.into_buffer_arg(),
            gradient.into_buffer_arg(),
            of_y.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            tokens as u32,
            part as u32 * vectors,
            stride,
            vectors,
        );
    }
    (of_y, columns::total(partial, shape, part * width))
}

/// `gate` is where a row of the modulation has the gate, and `stride` the length of such a row, in vectors.
#[cube(launch_unchecked)]
fn add_gated(
    x: &[Narrow],
    y: &[Narrow],
    modulation: &[Narrow],
    out: &mut [Narrow],
    gate: u32,
    stride: u32,
    vectors: u32,
) {
    if UNIT_POS < vectors {
        let at = ((CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * vectors + UNIT_POS) as usize;
        let gate = widen(modulation[(CUBE_POS_Y * stride + gate + UNIT_POS) as usize]);
        out[at] = narrow(widen(x[at]) + gate * widen(y[at]));
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn add_gated_gradients(
    y: &[Narrow],
    modulation: &[Narrow],
    gradient: &[Narrow],
    of_y: &mut [Narrow],
    partial: &mut [Wide],
    tokens: u32,
    gate: u32,
    stride: u32,
    vectors: u32,
) {
    let column = CUBE_POS_X * PLANE + UNIT_POS % PLANE;
    let first = CUBE_POS_Y * STRIP + UNIT_POS / PLANE;
    let here = column < vectors;
    let row = CUBE_POS_Z * tokens;
    let gate = widen(modulation[(CUBE_POS_Z * stride + gate + select(here, column, 0u32)) as usize]);
    let mut sum = Wide::new(0f32);
    #[unroll]
    for turn in 0..comptime![STRIP / PLANES / AT_ONCE] {
        let mut slopes = Array::<Narrow>::new(AT_ONCE as usize);
        let mut values = Array::<Narrow>::new(AT_ONCE as usize);
        #[unroll]
        for index in 0..AT_ONCE {
            let token = first + (turn * AT_ONCE + index) * PLANES;
            let at = select(here && token < tokens, (row + token) * vectors + column, 0u32) as usize;
            slopes[index as usize] = gradient[at];
            values[index as usize] = y[at];
        }
        #[unroll]
        for index in 0..AT_ONCE {
            let token = first + (turn * AT_ONCE + index) * PLANES;
            if here && token < tokens {
                let slope = widen(slopes[index as usize]);
                of_y[((row + token) * vectors + column) as usize] = narrow(slope * gate);
                sum += slope * widen(values[index as usize]);
            }
        }
    }
    of_strip(sum, partial, (CUBE_POS_Z * CUBE_COUNT_Y + CUBE_POS_Y) * vectors + column, here, PLANE);
}
