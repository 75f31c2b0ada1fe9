//! Adafactor.

#[cfg(feature = "compute")]
use super::{Kept, Pace};
#[cfg(feature = "compute")]
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), as transformers' `Adafactor`. The defaults are those that people set for
/// diffusion models: a learning rate of their own, with neither `scale_parameter` nor `relative_step`, which transformers has on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adafactor {
    /// Added to squared gradients. Default 1e-30.
    pub epsilon1: f64,
    /// The least size of a tensor that `scale_parameter` goes by. Default 1e-3.
    pub epsilon2: f64,
    /// Updates of a tensor are scaled down to this root mean square. Default 1.
    pub clip_threshold: f64,
    /// The mean of squared gradients decays by `1 − step^decay_rate`. Default -0.8.
    pub decay_rate: f64,
    /// Decay of a running mean of updates; none by default, which saves its memory.
    pub beta1: Option<f64>,
    /// Share of a weight that is taken off at each step, times the learning rate. Default 0.
    pub weight_decay: f64,
    /// Whether the learning rate of a tensor is times its root mean square. Default `false`.
    pub scale_parameter: bool,
    /// Whether steps are of the size `min(0.01, 1/√step)`; the pipeline's `learning_rate` is a factor then, 1 by nature.
    /// Default `false`.
    pub relative_step: bool,
    /// With `relative_step`, a slower start: `10⁻⁶·step` in place of 0.01. Default `false`.
    pub warmup_init: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            epsilon1: 1e-30,
            epsilon2: 1e-3,
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
            scale_parameter: false,
            relative_step: false,
            warmup_init: false,
        }
    }
}

impl Adafactor {
    pub(super) fn settings(&self) -> Vec<super::Setting> {
        vec![
            ("epsilon1", self.epsilon1, 1e-37, 1.0),
            ("epsilon2", self.epsilon2, 0.0, 1.0),
            ("clip_threshold", self.clip_threshold, 1e-6, 1e6),
            ("decay_rate", self.decay_rate, -10.0, -1e-6),
            ("beta1", self.beta1.unwrap_or_default(), 0.0, 0.999_999),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
        ]
    }
}

#[cfg(feature = "compute")]
impl Adafactor {
    pub(super) fn step(
        &self,
        values: Tensor<1>,
        shape: &[usize],
        gradient: Tensor<1>,
        kept: &mut Kept,
        pace: &Pace,
    ) -> Tensor<1> {
        let step = pace.step as f64;
        let rate = if self.relative_step {
            let most = if self.warmup_init { 1e-6 * step } else { 1e-2 };
            pace.learning_rate * most.min(1.0 / libm::sqrt(step))
        } else {
            pace.learning_rate
        };
        let scale = self.scale_parameter.then(|| root_mean_square(&values).clamp_min(self.epsilon2));
        let paced = |tensor: Tensor<1>| match &scale {
            Some(scale) => tensor.mul_scalar(rate) * scale.clone(),
            None => tensor.mul_scalar(rate),
        };

        let share = libm::pow(step, self.decay_rate);
        let mut mean = |name: &str, of: Tensor<1>| {
            let mean = kept.take(name, &of).mul_scalar(1.0 - share) + of.mul_scalar(share);
            kept.put(name, mean.clone());
            mean
        };
        let squares = (gradient.clone() * gradient.clone()).add_scalar(self.epsilon1);
        let update = match *shape {
            [ref outer @ .., rows, columns] => {
                // Of a convolution every pixel of the kernel's first dimensions has a matrix of its own.
                let outer = outer.iter().product::<usize>();
                let squares = squares.reshape([outer, rows, columns]);
                let of_rows = mean("rows", squares.clone().mean_dim(2).reshape([outer * rows]));
                let of_columns = mean("columns", squares.mean_dim(1).reshape([outer * columns]));
                let of_rows = of_rows.reshape([outer, rows, 1]);
                let of_rows = of_rows.clone() / of_rows.mean_dim(1);
                let of_columns = of_columns.reshape([outer, 1, columns]);
                let factors = of_rows.sqrt().recip() * of_columns.sqrt().recip();
                factors.reshape([outer * rows * columns]) * gradient
            }
            _ => mean("second", squares).sqrt().recip() * gradient,
        };
        let excess = root_mean_square(&update).div_scalar(self.clip_threshold).clamp_min(1.0);
        let mut update = paced(update / excess);
        if let Some(beta1) = self.beta1 {
            update = kept.take("first", &update).mul_scalar(beta1) + update.mul_scalar(1.0 - beta1);
            kept.put("first", update.clone());
        }
        let decay = paced(values.clone().mul_scalar(pace.weight_decay));
        values - decay - update
    }
}

#[cfg(feature = "compute")]
fn root_mean_square(values: &Tensor<1>) -> Tensor<1> {
    (values.clone() * values.clone()).mean().sqrt()
}
