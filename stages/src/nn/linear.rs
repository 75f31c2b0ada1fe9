//! The linear layer.

use burn::tensor::Tensor;

use super::low_rank::LowRank;
use super::weights::{Scope, WeightsError};

/// `y = x·Wᵀ + b`, with W as the checkpoint has it: `[out, in]`; and what an adapter adds, if there is one among the weights.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    adapter: Option<LowRank>,
}

impl Linear {
    /// A layer with a bias: `weight` and `bias` of the scope.
    ///
    /// # Errors
    /// When one of them is missing or of another shape.
    pub fn new(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self, WeightsError> {
        let bias = scope.shaped("bias", [outputs])?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(scope, inputs, outputs)? })
    }

    /// A layer without a bias: `weight` of the scope.
    ///
    /// # Errors
    /// When it is missing or of another shape.
    pub fn without_bias(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self, WeightsError> {
        let adapter = LowRank::new(scope, inputs, outputs)?;
        Ok(Self { weight: scope.shaped("weight", [outputs, inputs])?, bias: None, adapter })
    }

    /// A convolution whose patches don't overlap, as a layer over the pixels of a patch, channel by channel: its weight
    /// is `[out, in, kernel, kernel]`.
    ///
    /// # Errors
    /// When its weight or bias is missing or of another shape.
    pub fn from_convolution(scope: &Scope<'_>, [inputs, outputs, kernel]: [usize; 3]) -> Result<Self, WeightsError> {
        let weight = scope.shaped("weight", [outputs, inputs, kernel, kernel])?;
        let inputs = inputs * kernel * kernel;
        let adapter = LowRank::new(scope, inputs, outputs)?;
        Ok(Self { weight: weight.reshape([outputs, inputs]), bias: Some(scope.shaped("bias", [outputs])?), adapter })
    }

    /// Maps the last dimension from the layer's inputs to its outputs.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.adapter {
            Some(adapter) => adapter.forward(x, &self.weight, self.bias.clone()),
            None => linear(x, &self.weight, self.bias.clone()),
        }
    }

    /// The weight, for its device and type.
    pub(super) fn weight(&self) -> &Tensor<2> {
        &self.weight
    }
}

/// `x·Wᵀ + b`, with W as `[out, in]`.
pub(super) fn linear<const D: usize>(x: Tensor<D>, weight: &Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    #[cfg(feature = "cuda")]
    if x.dtype() == burn::tensor::DType::BF16 && crate::device::is_gpu(&x.device()) {
        let ([outputs, inputs], mut shape) = (weight.dims(), x.dims());
        let rows = shape.iter().take(D - 1).product::<usize>();
        shape[D - 1] = outputs;
        let (x, weight) = (x.reshape([rows, inputs]), weight.clone());
        let out = match bias {
            Some(bias) => sd3pipe_kernels::linear(x, weight, bias),
            None => sd3pipe_kernels::product(x, weight, Default::default()),
        };
        return out.reshape(shape);
    }
    burn::tensor::module::linear(x, weight.clone().transpose(), bias)
}
