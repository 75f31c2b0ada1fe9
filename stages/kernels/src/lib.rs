//! sd3pipe's own GPU operations: kernels in CubeCL, and their places in burn.
//!
//! Each works on any NVIDIA GPU that burn runs on: where the chip lacks what a kernel needs, burn's own operations compute the same.

pub mod adamw;
mod attention;
mod convolution;
mod precision;
mod product;

pub use attention::{attention, biased_attention};
pub use convolution::convolution;
pub use precision::keep_f32;
pub use product::{Across, product};
