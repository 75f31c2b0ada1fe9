//! The sum of squares of a tensor, in f32 and in an order that is always the same.

use crate::vectors::empty_like;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;
use half::bf16;

/// The sum of squares, `[1]` in f32, of a tensor of bf16 or f32. It has no gradients.
pub fn square_sum(values: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::square_sum(values.into_dispatch()))
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait SquaresBackend: Backend {
    /// See [`square_sum`](fn@square_sum).
    #[fusion(meta = spec)]
    fn square_sum(values: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn spec(_: &burn::backend::fusion::custom::TensorSpec) -> burn::backend::fusion::custom::TensorSpec {
    burn::backend::fusion::custom::TensorSpec { shape: Shape::from([1]), dtype: DType::F32 }
}

/// Units of a cube, and the most cubes of the first kernel: two for each of a large chip's processors.
const UNITS: u32 = 512;
const CUBES: usize = 256;

impl SquaresBackend for CubeBackend {
    fn square_sum(values: CubeTensor) -> CubeTensor {
        let values = match values.dtype {
            DType::BF16 | DType::F32 => into_contiguous(values),
            _ => Self::float_cast(values, burn::tensor::FloatDType::F32),
        };
        let count = values.shape().num_elements();
        let cubes = count.div_ceil(UNITS as usize * 8).clamp(1, CUBES);
        let partial = empty_like(&values, Shape::from([cubes]), DType::F32);
        let out = empty_like(&values, Shape::from([1]), DType::F32);
        let client = values.client.clone();
        macro_rules! launch {
            ($kind:ty, $from:expr, $to:expr, $count:expr, $cubes:expr, $squares:expr) => {
                // SAFETY: what lies past the last value is not read, and a cube writes its own place alone.
                unsafe {
                    add::launch_unchecked::<$kind>(
                        &client,
                        CubeCount::Static($cubes as u32, 1, 1),
                        CubeDim::new_1d(UNITS),
                        $from.into_buffer_arg(),
                        $to.into_buffer_arg(),
                        $count as u32,
                        $squares,
                    )
                }
            };
        }
        if values.dtype == DType::BF16 {
            launch!(bf16, values, partial.clone(), count, cubes, true);
        } else {
            launch!(f32, values, partial.clone(), count, cubes, true);
        }
        launch!(f32, partial, out.clone(), cubes, 1, false);
        out
    }
}

/// Each cube adds up every so many-th value, or their squares.
#[cube(launch_unchecked)]
fn add<E: Float>(values: &[E], sums: &mut [f32], count: u32, #[comptime] squares: bool) {
    let step = CUBE_COUNT_X * UNITS;
    let first = CUBE_POS_X * UNITS + UNIT_POS;
    let mut sum = 0f32;
    for turn in 0..count.div_ceil(step) {
        let at = first + turn * step;
        let value = f32::cast_from(values[select(at < count, at, 0u32) as usize]);
        let value = select(at < count, value, 0f32);
        if comptime![squares] {
            sum += value * value;
        } else {
            sum += value;
        }
    }
    let sum = plane_sum(sum);
    let mut planes: Shared<[f32]> = Shared::new_slice(comptime![(UNITS / 32) as usize]);
    if UNIT_POS_PLANE == 0 {
        planes[(UNIT_POS / 32) as usize] = sum;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut all = 0f32;
        #[unroll]
        for plane in 0..comptime![(UNITS / 32) as usize] {
            all += planes[plane];
        }
        sums[CUBE_POS_X as usize] = all;
    }
}
