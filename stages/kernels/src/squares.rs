//! The sum of squares of a tensor, in f32 and in an order that is always the same.

use crate::vectors::{EACH, own};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{DType, FloatDType, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;
use half::bf16;

/// The most parts of a sum of squares: one a cube, as many cubes as a large chip's processors hold at once, since a unit waits for one
/// vector at a time.
pub const PARTS: usize = 1024;
const UNITS: u32 = 256;

/// Writes the sum of squares of a tensor of bf16 or f32 into a row of `sums`, `[rows, PARTS]`, which is zeros, in up to so many parts and in
/// f32: those of many tensors are added up at once. It has no gradients.
pub fn square_sums(values: Tensor<1>, sums: Tensor<2>, row: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::square_sums(values.into_dispatch(), sums.into_dispatch(), row))
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait SquaresBackend: Backend {
    /// See [`square_sums`](fn@square_sums).
    #[fusion(dtype = sums, shape = sums)]
    fn square_sums(values: FloatTensor<Self>, sums: FloatTensor<Self>, row: usize) -> FloatTensor<Self>;
}

impl SquaresBackend for CubeBackend {
    fn square_sums(values: CubeTensor, sums: CubeTensor, row: usize) -> CubeTensor {
        let values = match values.dtype {
            DType::BF16 | DType::F32 => into_contiguous(values),
            _ => Self::float_cast(values, FloatDType::F32),
        };
        let count = values.shape().num_elements();
        let sums = own(sums);
        macro_rules! launch {
            ($kind:ty, $size:literal) => {
                // SAFETY: what lies past the last value is not read, and a cube writes its own part of the row alone.
                unsafe {
                    add::launch_unchecked::<$kind>(
                        &sums.client,
                        CubeCount::Static((count / $size).div_ceil(UNITS as usize).clamp(1, PARTS) as u32, 1, 1),
                        CubeDim::new_1d(UNITS),
                        $size,
                        values.into_buffer_arg(),
                        sums.clone().into_buffer_arg(),
                        (count / $size) as u32,
                        (row * PARTS) as u32,
                    )
                }
            };
        }
        match (values.dtype == DType::BF16, count.is_multiple_of(EACH)) {
            (true, true) => launch!(bf16, 8),
            (true, false) => launch!(bf16, 1),
            (false, true) => launch!(f32, 8),
            (false, false) => launch!(f32, 1),
        }
        sums
    }
}

/// Each cube adds up the squares in every so many-th vector.
#[cube(launch_unchecked)]
fn add<E: Float, N: Size>(values: &[Vector<E, N>], sums: &mut [f32], count: u32, row: u32) {
    let step = CUBE_COUNT_X * UNITS;
    let first = CUBE_POS_X * UNITS + UNIT_POS;
    let mut sum = Vector::<f32, N>::new(0f32);
    for turn in 0..count.div_ceil(step) {
        let at = first + turn * step;
        if at < count {
            let found = Vector::<f32, N>::cast_from(values[at as usize]);
            sum += found * found;
        }
    }
    let mut all = 0f32;
    #[unroll]
    for index in 0..sum.vector_size() {
        all += sum.extract(index);
    }
    let all = plane_sum(all);
    let mut planes: Shared<[f32]> = Shared::new_slice(comptime![(UNITS / 32) as usize]);
    if UNIT_POS_PLANE == 0 {
        planes[(UNIT_POS / 32) as usize] = all;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut total = 0f32;
        #[unroll]
        for plane in 0..comptime![(UNITS / 32) as usize] {
            total += planes[plane];
        }
        sums[(row + CUBE_POS_X) as usize] = total;
    }
}
