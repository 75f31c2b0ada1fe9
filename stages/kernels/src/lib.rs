//! sd3pipe's own GPU operations: kernels in CubeCL, and their places in burn.
//!
//! Each works on any NVIDIA GPU that burn runs on: where the chip lacks what a kernel needs, burn's own operations compute the same.

pub mod adamw;
mod attention;
mod columns;
mod convolution;
mod environment;
mod gelu;
mod group_norm;
mod head_norm;
mod instruction;
mod layout;
mod norm;
mod precision;
mod product;
mod residual;
mod seed;
mod split;
mod squares;
mod sum;
mod vectors;

pub use attention::{attention, biased_attention};
pub use columns::{ColumnsBackend, column_sum};
pub use convolution::{Walk, convolution};
pub use environment::keep_kernels;
pub use gelu::{gelu, takes_values};
pub use group_norm::{channel_moments, group_norm, scaled_silu, takes_groups};
pub use head_norm::{head_norm, takes_heads};
pub use layout::{copied, lay_out};
pub use norm::modulated_norm;
pub use precision::keep_f32;
pub use product::{Across, linear, product};
pub use residual::gated_residual;
pub use seed::along;
pub use split::split;
pub use squares::{PARTS, square_sums};
pub use sum::add_up;
pub use vectors::takes_rows;
