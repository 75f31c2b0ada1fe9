//! The linear layer.

use burn::tensor::Tensor;
use burn::tensor::module::linear;

use super::weights::{Scope, WeightsError};

/// `y = x·Wᵀ + b`, with W as the checkpoint has it: `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
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
        Ok(Self { weight: scope.shaped("weight", [outputs, inputs])?, bias: None })
    }

    /// A convolution whose patches don't overlap, as a layer over the pixels of a patch, channel by channel: its weight
    /// is `[out, in, kernel, kernel]`.
    ///
    /// # Errors
    /// When its weight or bias is missing or of another shape.
    pub fn from_convolution(scope: &Scope<'_>, [inputs, outputs, kernel]: [usize; 3]) -> Result<Self, WeightsError> {
        let weight = scope.shaped("weight", [outputs, inputs, kernel, kernel])?;
        let weight = weight.reshape([outputs, inputs * kernel * kernel]);
        Ok(Self { weight, bias: Some(scope.shaped("bias", [outputs])?) })
    }

    /// Maps the last dimension from the layer's inputs to its outputs.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight.clone().transpose(), self.bias.clone())
    }

    /// The weight, for its device and type.
    pub(super) fn weight(&self) -> &Tensor<2> {
        &self.weight
    }
}
