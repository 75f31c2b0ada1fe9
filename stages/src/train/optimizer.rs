//! AdamW on flat tensors, and the global norm of gradients.

use crate::train::parameters::Optimizer;
use burn::tensor::Tensor;
use std::collections::BTreeMap;

/// The two moments of one tensor's gradients, in 32 bits.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The running mean.
    pub first: Tensor<1>,
    /// The running mean of squares.
    pub second: Tensor<1>,
}

impl Moments {
    /// Zeros for a tensor.
    pub fn of(values: &Tensor<1>) -> Self {
        Self { first: values.zeros_like(), second: values.zeros_like() }
    }
}

impl Optimizer {
    /// One step (counted from 1) on one tensor, as `torch.optim.AdamW`: the decay is taken off first, then the update.
    ///
    /// burn's own AdamW keeps its moments in the parameter's type and under ids that no safetensors file holds; here they are
    /// 32-bit tensors under the checkpoint's names, which is what makes an exact resume a plain file.
    pub fn step(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        moments: Moments,
        learning_rate: f64,
        step: u64,
    ) -> (Tensor<1>, Moments) {
        let Self::AdamW { beta1, beta2, epsilon, weight_decay } = *self;
        let first = moments.first.mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
        let second = moments.second.mul_scalar(beta2) + (gradient.clone() * gradient).mul_scalar(1.0 - beta2);
        let correction = |beta: f64| 1.0 - libm::pow(beta, step as f64);
        let denominator = second.clone().sqrt().div_scalar(libm::sqrt(correction(beta2))).add_scalar(epsilon);
        let update = (first.clone() / denominator).mul_scalar(learning_rate / correction(beta1));
        (values.mul_scalar(1.0 - learning_rate * weight_decay) - update, Moments { first, second })
    }
}

/// The L2 norm of all gradients together, `[1]`, left on the device.
pub fn global_norm(gradients: &BTreeMap<String, Tensor<1>>) -> Option<Tensor<1>> {
    let squares = gradients.values().map(|gradient| (gradient.clone() * gradient.clone()).sum());
    squares.reduce(|total, square| total + square).map(Tensor::sqrt)
}

/// Scales gradients down to `largest` (`torch.nn.utils.clip_grad_norm_`), without asking the device for the norm.
pub fn clip(gradients: BTreeMap<String, Tensor<1>>, norm: &Tensor<1>, largest: f64) -> BTreeMap<String, Tensor<1>> {
    let factor = norm.clone().add_scalar(1e-6).recip().mul_scalar(largest).clamp_max(1.0);
    gradients.into_iter().map(|(name, gradient)| (name, gradient * factor.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn host(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    /// torch 2.15.0: `AdamW([1., -2.], lr=0.1, weight_decay=0.01)` with gradients (0.5, −1), (0.25, 2), (−1, 0).
    #[test]
    fn three_steps_agree_with_torch() {
        let optimizer = Optimizer::default();
        let mut values = tensor(&[1.0, -2.0]);
        let mut moments = Moments::of(&values);
        for (step, gradient) in [[0.5, -1.0], [0.25, 2.0], [-1.0, 0.0]].iter().enumerate() {
            (values, moments) = optimizer.step(values, tensor(gradient), moments, 0.1, step as u64 + 1);
        }
        let found = host(values);
        for (found, expected) in found.iter().zip(TORCH) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    const TORCH: [f32; 2] = [0.824_713_9, -1.959_079_6];

    #[test]
    fn gradients_are_scaled_to_the_norm_and_small_ones_left_alone() {
        let gradients = BTreeMap::from([("a".to_owned(), tensor(&[3.0])), ("b".to_owned(), tensor(&[4.0]))]);
        let norm = global_norm(&gradients).unwrap();
        assert_eq!(host(norm.clone()), [5.0]);
        let clipped = clip(gradients.clone(), &norm, 1.0);
        assert!((host(clipped["b"].clone())[0] - 0.8).abs() < 1e-6);
        assert_eq!(host(clip(gradients, &norm, 10.0)["a"].clone()), [3.0]);
    }
}
