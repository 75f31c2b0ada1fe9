//! What an adapter adds to a linear layer while it is trained (Hu et al. 2021, arXiv:2106.09685; DoRA: Liu et al. 2024,
//! arXiv:2402.09353, as PEFT computes it).

use burn::tensor::{DType, Tensor};

use super::linear::linear;
use super::weights::{Scope, WeightsError};
use crate::adapter::Part;

/// The adapter of a layer: one for all of its outputs, or up to three, each for a third of them.
#[derive(Debug, Clone)]
pub(super) struct LowRank {
    branches: Vec<Option<Branch>>,
}

#[derive(Debug, Clone)]
struct Branch {
    down: Tensor<2>,
    up: Tensor<2>,
    /// alpha/rank, `[1]`, in f32.
    scale: Tensor<1>,
    /// The lengths of the weight's rows with the adapter in it, in f32: a DoRA's.
    magnitude: Option<Tensor<1>>,
    /// Factors of the inner values of a batch, in their order: dropout's.
    mask: Option<Tensor<1>>,
}

/// What follows a site's name in the names of tensors that no file has.
pub(crate) const SCALE: &str = ".lora_scale";
pub(crate) const MASK: &str = ".lora_mask";

impl LowRank {
    /// The adapter among the weights of a layer's scope, if there is one.
    ///
    /// # Errors
    /// When a part of it is missing or of another shape than the layer asks for.
    pub(super) fn new(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Option<Self>, WeightsError> {
        let branch = |scope: &Scope<'_>, outputs| match scope.has("lora_down.weight") {
            true => Branch::new(scope, inputs, outputs).map(Some),
            false => Ok(None),
        };
        let mut branches = vec![branch(scope, outputs)?];
        if branches[0].is_none() {
            branches = Part::ALL
                .map(|part| branch(&scope.child(part.name()), outputs / 3))
                .into_iter()
                .collect::<Result<_, _>>()?;
        }
        Ok(branches.iter().any(Option::is_some).then_some(Self { branches }))
    }

    /// The layer's output with the adapter in it.
    pub(super) fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        weight: &Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<D> {
        let each = weight.dims()[0] / self.branches.len();
        let added = self.branches.iter().map(|branch| match branch {
            Some(branch) => branch.forward(x.clone()),
            None => {
                let mut shape = x.dims();
                shape[D - 1] = each;
                Tensor::zeros(shape, (&x.device(), x.dtype()))
            }
        });
        let added = Tensor::cat(added.collect(), D - 1);
        let Some(gain) = self.gain(weight) else {
            return linear(x, weight, bias) + added;
        };
        let dtype = x.dtype();
        let merged = linear(x, weight, None) + added;
        // In f32: a gain is close to 1, where bf16 knows steps of a hundredth.
        let merged = (merged.cast(DType::F32) * gain.unsqueeze::<D>()).cast(dtype);
        match bias {
            Some(bias) => merged + bias.unsqueeze::<D>(),
            None => merged,
        }
    }

    /// What a DoRA multiplies the outputs by, in f32: the trained lengths over those that there are.
    fn gain(&self, weight: &Tensor<2>) -> Option<Tensor<1>> {
        let each = weight.dims()[0] / self.branches.len();
        self.branches.iter().flatten().find(|branch| branch.magnitude.is_some())?;
        let gains = self.branches.iter().enumerate().map(|(index, branch)| {
            let rows = weight.clone().narrow(0, index * each, each);
            let trained = branch.as_ref().and_then(|branch| Some((branch, branch.magnitude.clone()?)));
            match trained {
                Some((branch, magnitude)) => magnitude / branch.lengths(rows),
                None => Tensor::ones([each], (&weight.device(), DType::F32)),
            }
        });
        Some(Tensor::cat(gains.collect(), 0))
    }
}

impl Branch {
    fn new(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self, WeightsError> {
        let [rank, _] = scope.dims("lora_down.weight")?;
        Ok(Self {
            down: scope.shaped("lora_down.weight", [rank, inputs])?,
            up: scope.shaped("lora_up.weight", [outputs, rank])?,
            scale: scope.shaped("lora_scale", [1])?,
            magnitude: scope.optional("lora_magnitude_vector")?,
            mask: scope.optional("lora_mask")?,
        })
    }

    fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let inner = linear(x, &self.down, None).cast(DType::F32) * self.scale.clone().unsqueeze::<D>();
        let inner = match &self.mask {
            Some(mask) => {
                let shape = inner.dims();
                inner * mask.clone().reshape(shape)
            }
            None => inner,
        };
        linear(inner.cast(dtype), &self.up, None)
    }

    /// The lengths of rows with the adapter added to them. Gradients don't flow through them (DoRA, section 4.3).
    fn lengths(&self, rows: Tensor<2>) -> Tensor<1> {
        let wide = |tensor: &Tensor<2>| tensor.clone().inner().cast(DType::F32);
        let added = wide(&self.up).matmul(wide(&self.down)) * self.scale.clone().inner().unsqueeze::<2>();
        let merged = rows.inner().cast(DType::F32) + added;
        merged.square().sum_dim(1).sqrt().clamp_min(1e-12).flatten(0, 1)
    }
}
