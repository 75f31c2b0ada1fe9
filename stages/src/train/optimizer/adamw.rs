//! AdamW, with states in 32 bits or in 8.

#[cfg(feature = "compute")]
use super::{Kept, Pace, codes, keeps};
#[cfg(feature = "cuda")]
use burn::tensor::Int;
#[cfg(feature = "compute")]
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as `torch.optim.AdamW`: decay first, then the update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamW {
    /// Decay of the mean of gradients. Default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients. Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub epsilon: f64,
    /// Share of a weight that is taken off at each step, times the learning rate. Default 0.01.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamW {
    pub(super) fn settings(&self) -> Vec<super::Setting> {
        vec![
            ("beta1", self.beta1, 0.0, 0.999_999),
            ("beta2", self.beta2, 0.0, 0.999_999_9),
            ("epsilon", self.epsilon, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
        ]
    }
}

#[cfg(feature = "compute")]
impl AdamW {
    pub(super) fn step(&self, values: Tensor<1>, gradient: Tensor<1>, kept: &mut Kept, pace: &Pace) -> Tensor<1> {
        let moments = self.moments(kept.take("first", &values), kept.take("second", &values), gradient);
        let moved = self.moved(values, &moments, pace);
        let [first, second] = moments;
        kept.put("first", first);
        kept.put("second", second);
        moved
    }

    /// The moments are quantised after they were used, as in bitsandbytes; of its backends some take the decay off after the
    /// update and some, as here, before it.
    pub(super) fn step_8bit(&self, values: Tensor<1>, gradient: Tensor<1>, kept: &mut Kept, pace: &Pace) -> Tensor<1> {
        if values.dims()[0] < keeps::SMALLEST_IN_8_BITS {
            return self.step(values, gradient, kept, pace);
        }
        let (first, second) = (codes::Map::Signed, codes::Map::Unsigned);
        let moments = self.moments(first.take(kept, "first", &values), second.take(kept, "second", &values), gradient);
        let moved = self.moved(values, &moments, pace);
        let [of_first, of_second] = moments;
        first.put(kept, "first", of_first);
        second.put(kept, "second", of_second);
        moved
    }

    /// Whether a tensor of this many values is moved by [`step_by_kernel`](Self::step_by_kernel).
    #[cfg(feature = "cuda")]
    pub(crate) fn has_kernel(in_8_bits: bool, count: usize) -> bool {
        !in_8_bits || count < keeps::SMALLEST_IN_8_BITS || sd3pipe_kernels::adamw::takes(count)
    }

    /// The same step as in many operations, by one kernel on a GPU: with the moments in 8 bits if there are [`codes::tables`] and the
    /// tensor is large enough, else in 32. Weights of bf16 are rounded by chance there, with draws of `key`.
    #[cfg(feature = "cuda")]
    pub(crate) fn step_by_kernel(
        &self,
        weights: Tensor<1>,
        gradient: Tensor<1>,
        factor: Tensor<1>,
        kept: &mut Kept,
        pace: &Pace,
        (tables, key): (Option<Tensor<1, Int>>, u64),
    ) -> Tensor<1> {
        use sd3pipe_kernels::adamw::{Moments, Step, step, step_wide};

        let correction = |beta: f64| 1.0 - libm::pow(beta, pace.step as f64);
        let parts = Step {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            fresh1: (1.0 - self.beta1) as f32,
            fresh2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
            rate: (pace.learning_rate / correction(self.beta1)) as f32,
            correction: libm::sqrt(correction(self.beta2)) as f32,
            kept: (1.0 - pace.learning_rate * pace.weight_decay) as f32,
            key,
        };
        let (count, device) = (weights.dims()[0], weights.device());
        let (first, second) = (codes::Map::Signed, codes::Map::Unsigned);
        let Some(tables) = tables.filter(|_| count >= keeps::SMALLEST_IN_8_BITS) else {
            let zeros = || Tensor::zeros([count], (&device, burn::tensor::DType::F32));
            let wide = ["first", "second"].map(|name| kept.take_if(name).unwrap_or_else(zeros));
            let (moved, [of_first, of_second]) = step_wide(weights, gradient, factor, wide, parts);
            kept.put("first", of_first);
            kept.put("second", of_second);
            return moved;
        };
        let moments = Moments {
            first: first.take_codes(kept, "first", count, &device),
            second: second.take_codes(kept, "second", count, &device),
        };
        let (moved, moments) = step(weights, gradient, factor, moments, tables, parts);
        first.put_codes(kept, "first", moments.first);
        second.put_codes(kept, "second", moments.second);
        moved
    }

    fn moments(&self, first: Tensor<1>, second: Tensor<1>, gradient: Tensor<1>) -> [Tensor<1>; 2] {
        let first = first.mul_scalar(self.beta1) + gradient.clone().mul_scalar(1.0 - self.beta1);
        let second = second.mul_scalar(self.beta2) + (gradient.clone() * gradient).mul_scalar(1.0 - self.beta2);
        [first, second]
    }

    fn moved(&self, values: Tensor<1>, [first, second]: &[Tensor<1>; 2], pace: &Pace) -> Tensor<1> {
        let correction = |beta: f64| 1.0 - libm::pow(beta, pace.step as f64);
        let denominator = second.clone().sqrt().div_scalar(libm::sqrt(correction(self.beta2))).add_scalar(self.epsilon);
        let update = (first.clone() / denominator).mul_scalar(pace.learning_rate / correction(self.beta1));
        values.mul_scalar(1.0 - pace.learning_rate * pace.weight_decay) - update
    }
}
