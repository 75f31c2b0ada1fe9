//! sd3pipe's own GPU operations: kernels in CubeCL, and their places in burn.
//!
//! Each operation has its gradients, and works on any GPU that burn does: where the chip lacks what a kernel needs, burn's own
//! operations compute the same.

pub mod product;

pub use product::product;
