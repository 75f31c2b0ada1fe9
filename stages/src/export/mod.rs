//! Exporting: trained weights as checkpoints that other programs load, in one file or as a diffusers folder.

mod config;
mod folder;
pub mod job;
pub mod parameters;
mod tensor;
mod tokenizers;
mod write;

pub use job::ExportJob;
pub use write::export;

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;

/// Where a diffusers folder has the MMDiT's weights.
pub const TRANSFORMER_FILE: &str = "transformer/diffusion_pytorch_model.safetensors";
