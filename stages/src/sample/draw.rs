//! Draws one image's latents: Euler steps along the guided velocity.

use crate::{
    error::StageError,
    nn::{Mmdit, PositionCrop},
};
use burn::tensor::{DType, Tensor, TensorData};

/// What the network is told: the prompt's conditioning, and the negative prompt's unless the strength is 1.
pub struct Guidance {
    /// The context and the pooled vector of the prompt, `[1, tokens, width]` and `[1, width]`.
    pub prompt: (Tensor<3>, Tensor<2>),
    /// The same of the negative prompt.
    pub negative: Option<(Tensor<3>, Tensor<2>)>,
    /// The strength of classifier-free guidance.
    pub cfg: f64,
}

/// From noise, `[1, 16, height, width]` in 32 bits, to latents (`FlowMatchEulerDiscreteScheduler.step`): at each level the network
/// sees `1000·sigma`, and the latents move by the difference of the levels along
/// `negative + cfg · (prompt − negative)`.
///
/// `tick` is told of every step, and its error ends the drawing.
pub fn draw(
    network: &Mmdit,
    noise: Tensor<4>,
    guidance: &Guidance,
    sigmas: &[f64],
    mut tick: impl FnMut() -> Result<(), StageError>,
) -> Result<Tensor<4>, StageError> {
    let device = noise.device();
    let mut latents = noise.mul_scalar(sigmas.first().copied().unwrap_or(1.0));
    for levels in sigmas.windows(2) {
        let timesteps = |count: usize| {
            Tensor::<1>::from_data(
                TensorData::new(vec![(1000.0 * levels[0]) as f32; count], [count]),
                (&device, DType::F32),
            )
        };
        let velocity = match &guidance.negative {
            None => {
                let (context, pooled) = guidance.prompt.clone();
                network.forward(latents.clone(), timesteps(1), context, pooled, PositionCrop::Centre)
            }
            Some(negative) => {
                let (prompt, negative) = (guidance.prompt.clone(), negative.clone());
                let context = Tensor::cat(vec![negative.0, prompt.0], 0);
                let pooled = Tensor::cat(vec![negative.1, prompt.1], 0);
                let both = network.forward(
                    Tensor::cat(vec![latents.clone(); 2], 0),
                    timesteps(2),
                    context,
                    pooled,
                    PositionCrop::Centre,
                );
                let [negative, prompt] =
                    [0..1, 1..2].map(|half| both.clone().narrow(0, half.start, 1).cast(DType::F32));
                negative.clone() + (prompt - negative).mul_scalar(guidance.cfg)
            }
        };
        latents = latents + velocity.cast(DType::F32).mul_scalar(levels[1] - levels[0]);
        tick()?;
    }
    Ok(latents)
}
