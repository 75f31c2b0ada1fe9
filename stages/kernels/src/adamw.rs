//! A step of AdamW, with its moments in 8 bits or in 32, in one pass over the memory of a tensor.

/// Launches a kernel for the types of weights and gradients. Weights of bf16 are rounded by chance.
macro_rules! by_types {
    ($weights:expr, $gradient:expr, $launch:ident) => {
        match ($weights.dtype == burn::tensor::DType::BF16, $gradient.dtype == burn::tensor::DType::BF16) {
            (true, true) => $launch!(bf16, bf16, true),
            (true, false) => $launch!(bf16, f32, true),
            (false, true) => $launch!(f32, bf16, false),
            (false, false) => $launch!(f32, f32, false),
        }
    };
}

mod codes;
mod narrow;
mod rounding;
mod wide;

pub use codes::tables;

use crate::{
    instruction::{reciprocal, root},
    vectors::own,
};
use burn::backend::{
    Backend, Dispatch, backend_extension,
    fusion::custom::TensorSpec,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{Int, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

/// Values that share a scale, as bitsandbytes has it.
pub const BLOCK: usize = 256;

/// What a step is made of, beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// What of a gradient goes into its mean, 1 less the decay: of the difference f32 would lose digits.
    pub fresh1: f32,
    /// The same of its square.
    pub fresh2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// The learning rate over the first moment's correction, `1 − β₁ᵗ`.
    pub rate: f32,
    /// The root of the second moment's correction, `1 − β₂ᵗ`.
    pub correction: f32,
    /// What a weight is multiplied by first: 1 less its decay.
    pub kept: f32,
    /// The key of the draws by which a weight of bf16 is rounded.
    pub key: u64,
}

impl Step {
    /// What is added to a root; not less than the root of what is no normal number, which the kernels take for 0.
    fn epsilon(&self) -> f32 {
        self.epsilon.max(1e-19)
    }
}

/// The moments of a flat tensor in 8 bits: a code a value, and a scale a block, in f32.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The codes and scales of the mean of gradients.
    pub first: (Tensor<1, Int>, Tensor<1>),
    /// Those of the mean of squared gradients.
    pub second: (Tensor<1, Int>, Tensor<1>),
}

/// Whether [`step`] takes a tensor of this many values.
pub fn takes(length: usize) -> bool {
    length.is_multiple_of(8)
}

/// Moves flat weights, of bf16 or f32, by a gradient of either, multiplied by `factor`, `[1]` in f32. Weights of bf16 are rounded up
/// or down by chance: a hash of the key and of the position, the same as on a CPU.
///
/// The length is one that it [`takes`]. Codes are of the type U8 (Dettmers et al. 2022, arXiv:2110.02861), and stand for what the
/// [`tables`] say.
pub fn step(
    weights: Tensor<1>,
    gradient: Tensor<1>,
    factor: Tensor<1>,
    moments: Moments,
    tables: Tensor<1, Int>,
    step: Step,
) -> (Tensor<1>, Moments) {
    let Moments { first, second } = moments;
    let (weights, codes, scales, second_codes, second_scales) = Dispatch::adamw(
        weights.into_dispatch(),
        gradient.into_dispatch(),
        factor.into_dispatch(),
        first.0.into_dispatch(),
        first.1.into_dispatch(),
        second.0.into_dispatch(),
        second.1.into_dispatch(),
        tables.into_dispatch(),
        step,
    );
    let moments = Moments {
        first: (Tensor::from_dispatch(codes), Tensor::from_dispatch(scales)),
        second: (Tensor::from_dispatch(second_codes), Tensor::from_dispatch(second_scales)),
    };
    (Tensor::from_dispatch(weights), moments)
}

/// The same with the moments in f32, of any length.
pub fn step_wide(
    weights: Tensor<1>,
    gradient: Tensor<1>,
    factor: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
    step: Step,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let (weights, first, second) = Dispatch::adamw_wide(
        weights.into_dispatch(),
        gradient.into_dispatch(),
        factor.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        step,
    );
    (Tensor::from_dispatch(weights), [first, second].map(Tensor::from_dispatch))
}

/// Backends that have the operations.
#[backend_extension(Cube, Fusion)]
pub trait AdamwBackend: Backend {
    /// See [`step_wide`].
    #[fusion(meta = wide_specs)]
    fn adamw_wide(
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`step`](fn@step).
    #[allow(clippy::too_many_arguments, clippy::type_complexity, reason = "a backend's operations take bare tensors")]
    #[fusion(meta = specs)]
    fn adamw(
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        second_codes: IntTensor<Self>,
        second_scales: FloatTensor<Self>,
        tables: IntTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>);
}

fn wide_specs(
    weights: &TensorSpec,
    _gradient: &TensorSpec,
    _factor: &TensorSpec,
    first: &TensorSpec,
    second: &TensorSpec,
    _step: &Step,
) -> (TensorSpec, TensorSpec, TensorSpec) {
    (weights.clone(), first.clone(), second.clone())
}

#[allow(clippy::too_many_arguments, reason = "as many as the operation's")]
fn specs(
    weights: &TensorSpec,
    _gradient: &TensorSpec,
    _factor: &TensorSpec,
    codes: &TensorSpec,
    scales: &TensorSpec,
    second_codes: &TensorSpec,
    second_scales: &TensorSpec,
    _tables: &TensorSpec,
    _step: &Step,
) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
    (weights.clone(), codes.clone(), scales.clone(), second_codes.clone(), second_scales.clone())
}

/// A weight after its decay and its update.
#[cube]
fn moved(weight: f32, first: f32, second: f32, to_root: f32, epsilon: f32, rate: f32, kept: f32) -> f32 {
    weight * kept - first * reciprocal(root(second) * to_root + epsilon) * rate
}

impl AdamwBackend for CubeBackend {
    fn adamw_wide(
        weights: CubeTensor,
        gradient: CubeTensor,
        factor: CubeTensor,
        first: CubeTensor,
        second: CubeTensor,
        step: Step,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [weights, first, second] = [weights, first, second].map(own);
        wide::launch(&weights, into_contiguous(gradient), factor, [&first, &second], step);
        (weights, first, second)
    }

    fn adamw(
        weights: CubeTensor,
        gradient: CubeTensor,
        factor: CubeTensor,
        codes: CubeTensor,
        scales: CubeTensor,
        second_codes: CubeTensor,
        second_scales: CubeTensor,
        tables: CubeTensor,
        step: Step,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let gradient = into_contiguous(gradient);
        let [weights, codes, scales, second_codes, second_scales] =
            [weights, codes, scales, second_codes, second_scales].map(own);
        narrow::launch(&weights, gradient, factor, [&codes, &scales, &second_codes, &second_scales], tables, step);
        (weights, codes, scales, second_codes, second_scales)
    }
}
