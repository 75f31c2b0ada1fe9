//! Sums over the rows of a matrix in f32, in two steps: cubes add up strips of rows, and a second kernel the strips, in their order,
//! so that a sum has the same bits each time.

mod kernel;

use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

pub(crate) use kernel::{AT_ONCE, PLANES, STRIP, UNITS, of_strip, total};

/// The sums of the columns, `[N]`, of a matrix `[M, N]`, in its type. It has no gradients.
///
/// bf16 matrices of whole vectors, 8 columns, go through our own kernels; all else through burn's sum.
pub fn column_sum(matrix: Tensor<2>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::column_sum(matrix.into_dispatch()))
}

/// Backends that have the operation.
#[backend_extension(Cube, Fusion)]
pub trait ColumnsBackend: Backend {
    /// See [`column_sum`](fn@column_sum).
    #[fusion(dtype = matrix, shape = columns(matrix))]
    fn column_sum(matrix: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn columns(matrix: &Shape) -> Shape {
    Shape::from([matrix[1]])
}

impl ColumnsBackend for CubeBackend {
    fn column_sum(matrix: CubeTensor) -> CubeTensor {
        if kernel::takes(&matrix) {
            return kernel::launch(matrix);
        }
        let shape = columns(&matrix.shape());
        Self::float_reshape(Self::float_sum_dim(matrix, 0), shape)
    }
}
