//! Gradients of several batches, added up in f32 where their sum lies.

use crate::vectors::{EACH, own};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;
use half::bf16;

const UNITS: u32 = 256;
/// Cubes of a launch, with a loop in each.
const CUBES: u32 = 1024;

/// A flat sum of f32 and a tensor of bf16 or f32 and of the same length, written where the sum lies. It has no gradients.
pub fn add_up(sum: Tensor<1>, values: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::add_up(sum.into_dispatch(), values.into_dispatch()))
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait SumBackend: Backend {
    /// See [`add_up`](fn@add_up).
    #[fusion(dtype = sum, shape = sum)]
    fn add_up(sum: FloatTensor<Self>, values: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl SumBackend for CubeBackend {
    fn add_up(sum: CubeTensor, values: CubeTensor) -> CubeTensor {
        let (sum, values) = (own(sum), into_contiguous(values));
        let count = sum.shape().num_elements();
        macro_rules! launch {
            ($kind:ty, $size:literal) => {
                // SAFETY: what lies past the last value is not touched, and each unit has its own.
                unsafe {
                    add::launch_unchecked::<$kind>(
                        &sum.client,
                        CubeCount::Static(
                            (count / $size).div_ceil(UNITS as usize).clamp(1, CUBES as usize) as u32,
                            1,
                            1,
                        ),
                        CubeDim::new_1d(UNITS),
                        $size,
                        sum.clone().into_buffer_arg(),
                        values.into_buffer_arg(),
                        (count / $size) as u32,
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
        sum
    }
}

#[cube(launch_unchecked)]
fn add<E: Float, N: Size>(sum: &mut [Vector<f32, N>], values: &[Vector<E, N>], count: u32) {
    let step = CUBE_COUNT_X * UNITS;
    let first = CUBE_POS_X * UNITS + UNIT_POS;
    for turn in 0..count.div_ceil(step) {
        let at = first + turn * step;
        if at < count {
            sum[at as usize] += Vector::<f32, N>::cast_from(values[at as usize]);
        }
    }
}
