//! Exporting: trained weights as checkpoints that other programs load, in one file or as a diffusers folder.

mod config;
mod folder;
pub mod job;
mod lora;
pub mod parameters;
mod tensor;
mod tokenizers;
mod write;

pub use job::ExportJob;
pub use write::export;

use crate::{
    checkpoint::Component,
    error::StageError,
    facts::{Facts, TEXT_ENCODERS},
};
use parameters::{Export, Layout};

/// Refuses before a training what would fail after it.
///
/// # Errors
/// When text encoders are asked for and the model has none, or a folder and diffusers has no VAE like the model's.
pub fn check(parameters: &Export, facts: &Facts) -> Result<(), StageError> {
    if parameters.text_encoders && !TEXT_ENCODERS.iter().any(|component| facts.components.contains_key(component)) {
        return Err(StageError::NoTextEncoders);
    }
    if parameters.layout == Layout::Diffusers
        && let (Some(encoder), Some(decoder)) = (facts.open(Component::VaeEncoder)?, facts.open(Component::VaeDecoder)?)
    {
        config::autoencoder(&encoder, &decoder)?;
    }
    Ok(())
}

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;

/// The role of an adapter in the form of sd-scripts.
pub const LORA_KOHYA: &str = "lora kohya";
/// The role of an adapter in the form of diffusers.
pub const LORA_DIFFUSERS: &str = "lora diffusers";

/// Where a diffusers folder has the MMDiT's weights.
pub const TRANSFORMER_FILE: &str = "transformer/diffusion_pytorch_model.safetensors";
