//! The networks of Stable Diffusion 3, as plain structs of tensors built from named weights.
//!
//! Shapes are written as suffixes: B batch, C channels, H latent or image rows, W columns, N image tokens, S text tokens,
//! D features of a token, K attention heads, E features of a head.

pub mod activation;
pub mod attention;
pub mod clip;
pub mod convolution;
pub mod linear;
pub mod load;
pub mod mmdit;
pub mod norm;
pub mod t5;
pub mod tokens;
pub mod vae;
pub mod weights;
