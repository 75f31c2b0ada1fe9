//! What an optimizer step does to the state.

use crate::{
    error::StageError,
    nn::{self, Weight},
    train::{
        objective::Gradients,
        optimizer,
        parameters::Train,
        state::{Measured, State},
    },
};

impl State {
    /// Takes the optimizer step `step` (from 0 over all epochs): clips the gradients and moves every weight that has one.
    ///
    /// # Errors
    /// When the loss is not finite; the state is then as it was.
    pub fn update(
        &mut self,
        gradients: Gradients,
        parameters: &Train,
        learning_rate: f64,
        step: u64,
    ) -> Result<Measured, StageError> {
        let Gradients { loss, mut tensors } = gradients;
        if !loss.is_finite() {
            return Err(StageError::Unfit(format!(
                "the loss at step {step} is {loss}: the training has come apart; lower `learning_rate` (now {:e}) or raise `precision`",
                parameters.learning_rate
            )));
        }
        let mut gradient_norm = 0.0;
        if let Some(norm) = optimizer::global_norm(&tensors) {
            if parameters.max_gradient_norm > 0.0 {
                tensors = optimizer::clip(tensors, &norm, parameters.max_gradient_norm);
            }
            gradient_norm = nn::to_host(norm).first().copied().unwrap_or_default().into();
        }
        for (name, gradient) in tensors {
            let Some(weight) = self.weights.get(&name).cloned() else { continue };
            let moments = self.moments_of(&name, &weight.values);
            let (values, moments) =
                parameters.optimizer.step(weight.values, gradient, moments, learning_rate, step + 1);
            self.weights.insert(&*name, Weight { values, shape: weight.shape });
            self.moments.insert(name, moments);
        }
        Ok(Measured { step, loss, gradient_norm, learning_rate })
    }
}
