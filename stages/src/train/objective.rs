//! The loss that training lowers, and its gradients.

use crate::{
    adapter::MAGNITUDE,
    error::StageError,
    nn::{self, Mmdit, PositionCrop, Weights},
    train::{
        batch::Batch,
        blocks::{self, Sink},
        parallel::{Rank, Reducing, Summed},
        parameters::Train,
        squares::Squares,
        state::State,
    },
};
use burn::tensor::{DType, Gradients as All, Tensor};
use std::collections::BTreeMap;

/// The weights in the type that the network computes in, those that are trained tracking their gradients. The others are of the
/// same kind, so that the same kernels run; where nothing below is trained, nothing is recorded.
pub fn tracked(weights: &Weights, dtype: DType, trains: impl Fn(&str) -> bool) -> Weights {
    weights.map(|name, values| {
        // A DoRA's magnitudes stay in 32 bits: they are close to lengths that they are divided by.
        let values = if name.ends_with(MAGNITUDE) { values } else { values.cast(dtype) }.autodiff();
        if trains(name) { values.require_grad() } else { values }
    })
}

/// All that the network is made of, as [`tracked`] makes it, with an adapter's frozen weights.
pub fn network(state: &State, parameters: &Train) -> Weights {
    let trained = tracked(&state.weights, nn::dtype(parameters.precision), |name| parameters.trains(name));
    state.frozen.map(|_, values| values.autodiff()).with(&trained)
}

/// The gradients of those of the weights that are trained and took part, flat, in the type that they came in.
pub(super) fn of_weights<'w>(tracked: &'w Weights, all: &'w All) -> impl Iterator<Item = (String, Tensor<1>)> + 'w {
    tracked.iter().filter_map(|(name, weight)| Some((name.to_owned(), weight.values.grad(all)?)))
}

/// The loss of the samples of one optimizer step, and what it would take to lower it.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// The mean over the samples of each one's loss, which is the mean over everything in it: of `(velocity − (noise − latents))²` unless
    /// the pipeline says otherwise, the flow-matching loss of the SD3 paper with the density of the levels as its only weight.
    pub loss: f64,
    /// Its gradient by the name of each trained tensor, flat: of one batch in the network's type, of several in 32 bits.
    pub tensors: BTreeMap<String, Tensor<1>>,
    /// The squares of those of this device, if they are known already.
    pub(super) squares: Option<Squares>,
}

impl Gradients {
    /// Those that are known.
    pub fn new(loss: f64, tensors: BTreeMap<String, Tensor<1>>) -> Self {
        Self { loss, tensors, squares: None }
    }

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

    /// What it comes to with the batches of the other devices: the loss over all, and the gradients of the tensors that this one owns.
    ///
    /// # Errors
    /// When another device has failed.
    pub fn of_all_devices(self, rank: &Rank) -> Result<Self, StageError> {
        let [loss] = rank.total([self.loss])?;
        Ok(Self::new(loss, rank.reduce_all(self.tensors)?))
    }

    /// The same block by block, see [`blocks::backward`]. `state` is left as it is. Of several devices each gives its own batches, and
    /// is given what [`of_all_devices`](Self::of_all_devices) has; the sums are under way while earlier blocks are computed.
    ///
    /// # Errors
    /// When a batch can't be made, the weights make no network, or another device has failed.
    pub fn by_blocks(
        state: &mut State,
        parameters: &Train,
        batches: impl IntoIterator<Item = Result<Batch, StageError>>,
        samples: usize,
    ) -> Result<Self, StageError> {
        let (mut sum, mut own, mut squares) = (Self::default(), BTreeMap::new(), Squares::default());
        let mut take = |state: &State, summed: Option<Summed>| {
            let Summed { own: tensors, rows, .. } = summed.unwrap_or_default();
            squares.add(state, rows.iter().map(|(name, row)| (name, row)));
            own.extend(tensors);
        };
        let mut batches = batches.into_iter().peekable();
        while let Some(batch) = batches.next() {
            let (batch, is_last, before) = (batch?, batches.peek().is_none(), sum.loss);
            let share = batch.len() as f64 / samples as f64;
            let rank = state.rank.clone();
            let mut reducing = Reducing::default();
            let gradients = &mut |state: &mut State, gradients: BTreeMap<String, Tensor<1>>| {
                let names: Vec<String> = gradients.keys().cloned().collect();
                sum_up(&mut sum.tensors, gradients);
                if is_last {
                    let done = names.into_iter().filter_map(|name| sum.tensors.remove_entry(&name));
                    take(state, reducing.next(&rank, done.collect())?);
                }
                Ok(())
            };
            let loss = &mut |loss: f64| match is_last {
                true => Ok(rank.total([before + loss])?[0]),
                false => Ok(before + loss),
            };
            sum.loss = blocks::backward(state, parameters, batch, share, &mut Sink { loss, gradients })?;
            take(state, reducing.last()?);
        }
        Ok(Self { loss: sum.loss, tensors: own, squares: Some(squares) })
    }

    fn add(&mut self, tracked: &Weights, batch: Batch, share: f64) -> Result<(), StageError> {
        let weights = tracked.with(&batch.masks);
        let network = Mmdit::new(&weights.root())?;
        let (context, pooled) = batch.conditioning(&weights)?;
        let Batch { noisy, timesteps, .. } = batch.clone();
        let velocity = network.forward(noisy, timesteps, context, pooled, PositionCrop::Centre);
        let loss = batch.losses(velocity).mean().mul_scalar(share);
        self.loss += f64::from(nn::to_host(loss.clone().inner()).first().copied().unwrap_or(f32::NAN));
        sum_up(&mut self.tensors, of_weights(tracked, &loss.backward()));
        Ok(())
    }
}

fn sum_up(sums: &mut BTreeMap<String, Tensor<1>>, gradients: impl IntoIterator<Item = (String, Tensor<1>)>) {
    for (name, gradient) in gradients {
        let sum = match sums.remove(&name) {
            Some(sum) => add_up(sum.cast(DType::F32), gradient),
            None => gradient,
        };
        sums.insert(name, sum);
    }
}

fn add_up(sum: Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "cuda")]
    if matches!(gradient.dtype(), DType::BF16 | DType::F32) && crate::device::is_gpu(&gradient.device()) {
        return sd3pipe_kernels::add_up(sum, gradient);
    }
    sum + gradient.cast(DType::F32)
}
