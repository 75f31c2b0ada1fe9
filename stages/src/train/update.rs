//! What an optimizer step does to the state.

use crate::{
    error::StageError,
    nn::{self, Weight},
    train::{
        batch::Batch,
        blocks::{self, Sink},
        memory::SECTIONS_TOGETHER,
        metrics::Measured,
        objective::Gradients,
        optimizer::{Course, Kept, Optimizer, Pace},
        parallel::{Moving, Reducing, Summed},
        parameters::{Train, WeightType},
        rounding,
        squares::Squares,
        state::State,
    },
};
use burn::tensor::{DType, Device, Tensor};
use std::collections::BTreeMap;

impl State {
    /// Takes the optimizer step `step` (from 0 over all epochs): clips the gradients and moves every weight that has one.
    ///
    /// Of several devices each is given the gradients of the tensors that it owns.
    ///
    /// # Errors
    /// When the loss is not finite, with the state as it was, or another device has failed.
    pub fn update(
        &mut self,
        gradients: Gradients,
        parameters: &Train,
        learning_rate: f64,
        step: u64,
    ) -> Result<Measured, StageError> {
        let Gradients { loss, mut tensors, squares } = gradients;
        check_loss(loss, parameters, step)?;
        let squares = squares.unwrap_or_else(|| {
            let mut squares = Squares::default();
            squares.add(self, &tensors);
            squares
        });
        let norm = squares.norm(&self.rank)?;
        let stride = Stride::begin(self, parameters, learning_rate, step, norm.clone());
        let (sections, mut moving) = (self.rank.sections(), Moving::default());
        if sections.is_empty() || parameters.optimizer.needs_all() {
            stride.take(self, std::mem::take(&mut tensors))?;
        }
        for sections in sections.chunks(SECTIONS_TOGETHER) {
            // While these are on their way the next are moved.
            let names = sections.concat();
            let own: BTreeMap<_, _> = names.iter().filter_map(|name| tensors.remove_entry(name)).collect();
            if !own.is_empty() {
                stride.take(self, own)?;
            }
            moving.send(self, &names)?;
        }
        moving.finish(&mut self.weights)?;
        Ok(stride.measured(loss, norm))
    }

    /// The same over one batch, of `samples` in the step over all devices, with each part of the network moved as soon as its gradients
    /// are known: those of no two blocks are there at once. Equal to [`Gradients::by_blocks`] and [`State::update`], to the bit.
    ///
    /// # Errors
    /// When the loss is not finite, with the state as it was, the weights make no network, or another device has failed.
    pub fn update_by_blocks(
        &mut self,
        batch: Batch,
        samples: usize,
        parameters: &Train,
        learning_rate: f64,
        step: u64,
    ) -> Result<Measured, StageError> {
        let share = batch.len() as f64 / samples as f64;
        let rank = self.rank.clone();
        let clips = parameters.max_gradient_norm > 0.0;
        let mut squares = Squares::default();
        if clips {
            let loss = self.visit(&batch, parameters, share, |state, summed| {
                squares.add(state, summed.rows.iter().map(|(name, row)| (name, row)));
                Ok(())
            })?;
            check_loss(loss, parameters, step)?;
        }
        let course = self.course;
        let norm = if clips { squares.norm(&rank)? } else { None };
        let stride = Stride::begin(self, parameters, learning_rate, step, norm.clone());
        let (mut squares, mut moving) = (Squares::default(), Moving::default());
        let loss = self.visit(&batch, parameters, share, |state, Summed { names, own, rows }| {
            if !clips {
                squares.add(state, rows.iter().map(|(name, row)| (name, row)));
            }
            drop(rows);
            stride.take(state, own)?;
            moving.send(state, &names)
        })?;
        check_loss(loss, parameters, step).inspect_err(|_| self.course = course)?;
        moving.finish(&mut self.weights)?;
        let norm = if clips { norm } else { squares.norm(&rank)? };
        Ok(stride.measured(loss, norm))
    }

    /// The loss over the batches of all devices. Of each part of the network `visit` is given the names of what is trained in it, and the
    /// gradients, over all devices, of what this one owns of that.
    fn visit(
        &mut self,
        batch: &Batch,
        parameters: &Train,
        share: f64,
        mut visit: impl FnMut(&mut Self, Summed) -> Result<(), StageError>,
    ) -> Result<f64, StageError> {
        let (rank, mut reducing) = (self.rank.clone(), Reducing::default());
        let loss = &mut |loss: f64| Ok(rank.total([loss])?[0]);
        let gradients = &mut |state: &mut Self, gradients: BTreeMap<String, Tensor<1>>| {
            reducing.next(&rank, gradients)?.map_or(Ok(()), |summed| visit(state, summed))
        };
        let loss = blocks::backward(self, parameters, batch.clone(), share, &mut Sink { loss, gradients })?;
        reducing.last()?.map_or(Ok(()), |summed| visit(self, summed))?;
        Ok(loss)
    }
}

fn check_loss(loss: f64, parameters: &Train, step: u64) -> Result<(), StageError> {
    if loss.is_finite() {
        return Ok(());
    }
    Err(StageError::Unfit(format!(
        "the loss at step {step} is {loss}: the training has come apart; lower `learning_rate` (now {:e}) or raise `precision`",
        parameters.learning_rate
    )))
}

/// One optimizer step.
struct Stride<'p> {
    parameters: &'p Train,
    learning_rate: f64,
    step: u64,
    /// What gradients are scaled by: down to the largest norm (`torch.nn.utils.clip_grad_norm_`), without asking the device for it.
    factor: Option<Tensor<1>>,
    #[cfg(feature = "cuda")]
    on_gpu: std::cell::OnceCell<OnGpu>,
}

/// What the kernels of a step have in common, made with the first of them.
#[cfg(feature = "cuda")]
struct OnGpu {
    factor: Tensor<1>,
    /// Those of codes, if moments are in 8 bits.
    tables: Option<Tensor<1, burn::tensor::Int>>,
    /// What stands in a weight's place while it is moved.
    nothing: Tensor<1>,
}

impl<'p> Stride<'p> {
    fn begin(state: &mut State, parameters: &'p Train, learning_rate: f64, step: u64, norm: Option<Tensor<1>>) -> Self {
        state.course = parameters.optimizer.begin(state.course, learning_rate, step + 1);
        let largest = parameters.max_gradient_norm;
        let factor = norm.filter(|_| largest > 0.0).map(|norm| clip_factor(norm, largest));
        Self {
            parameters,
            learning_rate,
            step,
            factor,
            #[cfg(feature = "cuda")]
            on_gpu: std::cell::OnceCell::new(),
        }
    }

    /// Moves the weights that have a gradient. Prodigy must be given all gradients at once.
    ///
    /// # Errors
    /// When another device has failed.
    fn take(&self, state: &mut State, gradients: BTreeMap<String, Tensor<1>>) -> Result<(), StageError> {
        #[cfg(feature = "cuda")]
        let gradients = self.take_on_gpu(state, gradients);
        let gradients = gradients.into_iter().map(|(name, gradient)| {
            let gradient = gradient.cast(DType::F32);
            match &self.factor {
                Some(factor) => (name, gradient * factor.clone()),
                None => (name, gradient),
            }
        });
        let Optimizer::Prodigy(prodigy) = &self.parameters.optimizer else {
            for (name, gradient) in gradients {
                self.each(state, &name, &gradient.device(), |weight, kept, pace| {
                    Some(self.parameters.optimizer.step(weight, gradient, kept, pace))
                });
            }
            return Ok(());
        };
        // A warm-up begins with a rate of 0, of which the reference takes no notice.
        if self.learning_rate == 0.0 {
            return Ok(());
        }
        let (mut sums, mut watched) = (Vec::new(), Vec::new());
        for (name, gradient) in gradients {
            let device = gradient.device();
            self.each(state, &name, &device, |weight, kept, pace| {
                sums.extend(prodigy.watch(&weight.values, gradient, kept, pace));
                None
            });
            watched.push((name, device));
        }
        let sums = if sums.is_empty() { Vec::new() } else { nn::to_host(Tensor::cat(sums, 0)) };
        let total = |first: usize| sums.iter().skip(first).step_by(2).map(|sum| f64::from(*sum)).sum::<f64>();
        let [count, first, second] = state.rank.total([sums.len() as f64, total(0), total(1)])?;
        if count == 0.0 {
            return Ok(());
        }
        let Some(distance) = prodigy.estimate(first, second, &self.pace(state.course, (1.0, 0.0))) else {
            return Ok(());
        };
        state.course.distance = distance;
        for (name, device) in watched {
            self.each(state, &name, &device, |weight, kept, pace| Some(prodigy.step(weight.values, kept, pace)));
        }
        Ok(())
    }

    /// Moves those weights that a kernel of ours moves in one pass over their memory, and gives the gradients of the others back.
    #[cfg(feature = "cuda")]
    fn take_on_gpu(&self, state: &mut State, gradients: BTreeMap<String, Tensor<1>>) -> BTreeMap<String, Tensor<1>> {
        use crate::train::optimizer::{AdamW, tables};

        let (adamw, in_8_bits) = match &self.parameters.optimizer {
            Optimizer::AdamW(adamw) => (adamw, false),
            Optimizer::AdamW8bit(adamw) => (adamw, true),
            _ => return gradients,
        };
        let Some(device) = gradients.values().next().map(Tensor::device).filter(crate::device::is_gpu) else {
            return gradients;
        };
        let OnGpu { factor, tables, nothing } = self.on_gpu.get_or_init(|| OnGpu {
            factor: self.factor.clone().unwrap_or_else(|| Tensor::ones([1], (&device, DType::F32))),
            tables: in_8_bits.then(|| tables(&device)),
            nothing: Tensor::zeros([1], (&device, DType::F32)),
        });
        let others = gradients.into_iter().filter_map(|(name, gradient)| {
            if !AdamW::has_kernel(in_8_bits, gradient.dims()[0]) {
                return Some((name, gradient));
            }
            let Weight { values, shape } = state.weights.get(&name).cloned()?;
            let home = values.device();
            // The kernel writes where the weights lie, if nobody else holds them.
            state.weights.insert(&name, Weight { values: nothing.clone(), shape: vec![1] });
            let pace = self.pace(state.course, self.parameters.pace_of(&name, shape.len()));
            let mut kept = state.kept.remove(&name).unwrap_or_default().to_device(&device);
            let key = rounding::key(self.parameters.seed, self.step, &name);
            let values = values.to_device(&device);
            let moved = adamw.step_by_kernel(values, gradient, factor.clone(), &mut kept, &pace, (tables.clone(), key));
            state.weights.insert(&name, Weight { values: moved.to_device(&home), shape });
            state.kept.insert(name, kept.to_device(&home));
            None
        });
        others.collect()
    }

    /// Brings a weight, in 32 bits, and what is kept of it to a device, has something done, and puts them back.
    fn each(
        &self,
        state: &mut State,
        name: &str,
        device: &Device,
        work: impl FnOnce(Weight, &mut Kept, &Pace) -> Option<Tensor<1>>,
    ) {
        let Some(Weight { values, shape }) = state.weights.get(name).cloned() else { return };
        let home = values.device();
        let pace = self.pace(state.course, self.parameters.pace_of(name, shape.len()));
        let mut kept = state.kept.remove(name).unwrap_or_default().to_device(device);
        let here = Weight { values: values.to_device(device).cast(DType::F32), shape: shape.clone() };
        if let Some(mut values) = work(here, &mut kept, &pace) {
            if self.parameters.weights == WeightType::Bf16Stochastic {
                values = rounding::stochastic(values, self.parameters.seed, self.step, name);
            }
            state.weights.insert(name, Weight { values: values.to_device(&home), shape });
        }
        state.kept.insert(name.to_owned(), kept.to_device(&home));
    }

    fn pace(&self, course: Course, (factor, weight_decay): (f64, f64)) -> Pace {
        Pace { step: self.step + 1, learning_rate: self.learning_rate * factor, weight_decay, course }
    }

    fn measured(&self, loss: f64, norm: Option<Tensor<1>>) -> Measured {
        let norm = norm.and_then(|norm| nn::to_host(norm).first().copied()).unwrap_or_default();
        Measured { step: self.step, loss, gradient_norm: norm.into(), learning_rate: self.learning_rate }
    }
}

fn clip_factor(norm: Tensor<1>, largest: f64) -> Tensor<1> {
    norm.add_scalar(1e-6).recip().mul_scalar(largest).clamp_max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::parallel::Rank;

    #[test]
    fn gradients_are_scaled_to_the_norm_and_small_ones_left_alone() {
        let tensor = |value: f32| Tensor::<1>::from_floats([value], &Device::flex());
        let gradients = BTreeMap::from([("a".to_owned(), tensor(3.0)), ("b".to_owned(), tensor(4.0))]);
        let weights =
            gradients.iter().map(|(name, values)| (name.clone(), Weight { values: values.clone(), shape: vec![1] }));
        let mut squares = Squares::default();
        squares.add(&State::start(weights.collect()), &gradients);
        let norm = squares.norm(&Rank::default()).unwrap().unwrap();
        assert_eq!(nn::to_host(norm.clone()), [5.0]);
        assert!((nn::to_host(clip_factor(norm.clone(), 1.0))[0] - 0.2).abs() < 1e-6);
        assert_eq!(nn::to_host(clip_factor(norm, 10.0)), [1.0]);
    }
}
