//! What kernels over rows of bf16 have in common: eight neighbouring values, 16 bytes, are read at once and widened to f32.

use burn::backend::{
    Backend,
    autodiff::{NodeId, grads::Gradients},
    tensor::FloatTensor,
};
use burn::tensor::{DType, Shape};
use burn_cubecl::{kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::prelude::*;
use half::bf16;

/// Values of a vector.
pub(crate) const EACH: usize = 8;
/// Units of a plane, on every NVIDIA GPU.
pub(crate) const PLANE: u32 = 32;
/// The widest rows of which a unit still holds its share in registers.
const WIDEST: usize = 4096;

pub(crate) type Narrow = Vector<bf16, Const<8>>;
pub(crate) type Wide = Vector<f32, Const<8>>;

/// Whether [`modulated_norm`](crate::modulated_norm) and [`gated_residual`](crate::gated_residual) take tensors of this type and with
/// tokens of this width.
pub fn takes_rows(dtype: DType, width: usize) -> bool {
    dtype == DType::BF16 && width > 0 && width.is_multiple_of(EACH) && width <= WIDEST
}

/// Vectors of a row.
pub(crate) fn vectors(tensor: &CubeTensor) -> usize {
    let shape = tensor.meta.shape();
    shape[shape.num_dims() - 1] / EACH
}

/// A tensor on the device of another, not yet written.
pub(crate) fn empty_like(tensor: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), shape, dtype)
}

/// What nobody else holds is written where it lies.
pub(crate) fn own(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { tensor.copy() }
}

#[cube]
pub(crate) fn widen(values: Narrow) -> Wide {
    Wide::cast_from(values)
}

#[cube]
pub(crate) fn narrow(values: Wide) -> Narrow {
    Narrow::cast_from(values)
}

/// The sum of the products.
#[cube]
pub(crate) fn dot(left: Wide, right: Wide) -> f32 {
    let mut sum = left.extract(0usize) * right.extract(0usize);
    #[unroll]
    for index in 1..EACH {
        sum += left.extract(index) * right.extract(index);
    }
    sum
}

/// Hands the gradients of an operation's inputs on to those who ask for them.
pub(crate) fn register<B: Backend, const N: usize>(
    gradients: &mut Gradients,
    parents: [Option<NodeId>; N],
    values: [FloatTensor<B>; N],
) {
    for (parent, value) in parents.into_iter().zip(values) {
        if let Some(parent) = parent {
            gradients.register::<B>(parent, value);
        }
    }
}
