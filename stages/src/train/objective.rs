//! The loss that training lowers, and its gradients.

use crate::{
    checkpoint::POSITION_TABLE,
    error::StageError,
    nn::{self, Mmdit, PositionCrop, Weights},
    train::batch::Batch,
};
use burn::tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// The weights in the type that the network computes in, each of them tracking its gradient; the table of positions is part of
/// every checkpoint and is not trained.
pub fn tracked(weights: &Weights, dtype: DType) -> Weights {
    weights.map(|name, values| {
        let values = values.cast(dtype);
        if name == POSITION_TABLE { values } else { values.autodiff().require_grad() }
    })
}

/// The loss of the samples of one optimizer step, and what it would take to lower it.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// The mean over the samples of the mean over everything in a sample of `(velocity − (noise − latents))²`: the
    /// flow-matching loss of the SD3 paper with the density of the levels as its only weight.
    pub loss: f64,
    /// Its gradient by the name of each trained tensor, flat, in 32 bits.
    pub tensors: BTreeMap<String, Tensor<1>>,
}

impl Gradients {
    /// Over batches of `samples` samples in all, one batch in memory at a time. A sample weighs as much in a short batch as in
    /// a full one.
    ///
    /// # Errors
    /// When a batch can't be made, or the weights make no network.
    pub fn of(
        tracked: &Weights,
        batches: impl IntoIterator<Item = Result<Batch, StageError>>,
        samples: usize,
    ) -> Result<Self, StageError> {
        let mut gradients = Self::default();
        for batch in batches {
            let batch = batch?;
            let share = batch.len() as f64 / samples as f64;
            gradients.add(tracked, batch, share)?;
        }
        Ok(gradients)
    }

    fn add(&mut self, tracked: &Weights, batch: Batch, share: f64) -> Result<(), StageError> {
        let Batch { noisy, timesteps, target, context, pooled, masks } = batch;
        let network = Mmdit::new(&tracked.with(&masks).root())?;
        let velocity = network.forward(noisy, timesteps, context, pooled, PositionCrop::Centre);
        let difference = velocity.cast(DType::F32) - target;
        let loss = (difference.clone() * difference).mean().mul_scalar(share);
        self.loss += f64::from(nn::to_host(loss.clone().inner()).first().copied().unwrap_or(f32::NAN));
        let all = loss.backward();
        for (name, weight) in tracked.iter().filter(|(name, _)| *name != POSITION_TABLE) {
            if let Some(gradient) = weight.values.grad(&all) {
                let gradient = gradient.cast(DType::F32);
                let sum = match self.tensors.remove(name) {
                    Some(sum) => sum + gradient,
                    None => gradient,
                };
                self.tensors.insert(name.to_owned(), sum);
            }
        }
        Ok(())
    }
}
