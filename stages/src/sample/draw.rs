//! Draws latents: steps from noise level to noise level along the guided velocity.

use crate::{
    error::StageError,
    nn::{Mmdit, PositionCrop},
    sample::parameters::{Sampler, SkipLayers},
};
use burn::tensor::{DType, Tensor, TensorData};

/// What the network is told: the prompts' conditioning, and the negative prompts' unless the strength is 1.
pub struct Guidance {
    /// The context and the pooled vector of each image's prompt, `[B, tokens, width]` and `[B, width]`.
    pub prompt: (Tensor<3>, Tensor<2>),
    /// The same of the negative prompt.
    pub negative: Option<(Tensor<3>, Tensor<2>)>,
    /// The strength of classifier-free guidance.
    pub cfg: f64,
    /// Skip-layer guidance, if there is to be any. It needs a negative prompt.
    pub skip_layers: Option<SkipLayers>,
}

/// How to go from the first noise level to the last.
pub struct Steps<'s> {
    /// How each step is taken.
    pub sampler: Sampler,
    /// All levels of the schedule.
    pub sigmas: &'s [f64],
    /// How many steps are left out at the beginning: those that a picture stands for.
    pub skipped: usize,
}

impl Guidance {
    /// The guided velocity, in 32 bits: `negative + cfg · (prompt − negative)`, and with blocks left out
    /// `+ scale · (prompt − prompt without them)` (`StableDiffusion3Pipeline` of diffusers).
    fn velocity(&self, network: &Mmdit, latents: &Tensor<4>, sigma: f64, skips: bool) -> Tensor<4> {
        let (device, [batch, ..]) = (latents.device(), latents.dims());
        let timesteps = |count: usize| {
            let values = TensorData::new(vec![(1000.0 * sigma) as f32; count], [count]);
            Tensor::<1>::from_data(values, (&device, DType::F32))
        };
        let (context, pooled) = self.prompt.clone();
        let Some(negative) = self.negative.clone() else {
            let velocity = network.forward(latents.clone(), timesteps(batch), context, pooled, PositionCrop::Centre);
            return velocity.cast(DType::F32);
        };
        let both = network.forward(
            Tensor::cat(vec![latents.clone(); 2], 0),
            timesteps(2 * batch),
            Tensor::cat(vec![negative.0, context.clone()], 0),
            Tensor::cat(vec![negative.1, pooled.clone()], 0),
            PositionCrop::Centre,
        );
        let [negative, prompt] = [0, batch].map(|first| both.clone().narrow(0, first, batch).cast(DType::F32));
        let guided = negative.clone() + (prompt.clone() - negative).mul_scalar(self.cfg);
        let Some(SkipLayers { layers, scale, .. }) = self.skip_layers.as_ref().filter(|_| skips) else { return guided };
        let crop = PositionCrop::Centre;
        let without = network.forward_without(layers, latents.clone(), timesteps(batch), context, pooled, crop);
        guided + (prompt - without.cast(DType::F32)).mul_scalar(*scale)
    }
}

/// From noisy latents, `[B, 16, height, width]` in 32 bits, at the first level that is not left out, to clean ones. At each level the
/// network sees `1000·sigma`.
///
/// `Euler` moves the latents by the difference of the levels along the velocity (`FlowMatchEulerDiscreteScheduler.step`). `Dpm2m` is
/// DPM-Solver++(2M) where what is clean counts `1 − sigma` and noise `sigma` (`DPMSolverMultistepScheduler` of diffusers with
/// `prediction_type="flow_prediction"`): of first order in its first step, and in its last one, which ends at 0.
///
/// `tick` is told of every step, and its error ends the drawing.
pub fn draw(
    network: &Mmdit,
    mut latents: Tensor<4>,
    guidance: &Guidance,
    steps: &Steps<'_>,
    mut tick: impl FnMut() -> Result<(), StageError>,
) -> Result<Tensor<4>, StageError> {
    let count = steps.sigmas.len().saturating_sub(1);
    // What the step before made of the clean image, and how far it went.
    let mut before: Option<(Tensor<4>, f64)> = None;
    for (step, levels) in steps.sigmas.windows(2).enumerate().skip(steps.skipped) {
        let (sigma, next) = (levels[0], levels[1]);
        let skips = guidance.skip_layers.as_ref().is_some_and(|skip| skip.acts(step, count));
        let velocity = guidance.velocity(network, &latents, sigma, skips);
        latents = match steps.sampler {
            Sampler::Euler => latents + velocity.mul_scalar(next - sigma),
            Sampler::Dpm2m => {
                let clean = latents.clone() - velocity.mul_scalar(sigma);
                let far = log_ratio(next) - log_ratio(sigma);
                let target = match before.take() {
                    // Infinitely far from pure noise, and to what is clean: then there is nothing to extrapolate by.
                    Some((last, was)) if was.is_finite() && far.is_finite() => {
                        clean.clone() + (clean.clone() - last).mul_scalar(far / (2.0 * was))
                    }
                    _ => clean.clone(),
                };
                before = Some((clean, far));
                latents.mul_scalar(next / sigma) + target.mul_scalar(1.0 - next / sigma)
            }
        };
        tick()?;
    }
    Ok(latents)
}

/// The logarithm of signal to noise, in amplitude.
fn log_ratio(sigma: f64) -> f64 {
    libm::log((1.0 - sigma) / sigma)
}
