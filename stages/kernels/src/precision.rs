//! What f32 means on a GPU.

use cubek_std::config::{CubekConfig, MatmulConfig, RuntimeConfig};

/// Has this process compute products of f32 in f32. burn by itself rounds what goes into them to the 11 bits of TF32 where the GPU has
/// instructions for that. To be called before anything is computed; later it does nothing.
pub fn keep_f32() {
    CubekConfig::try_set(CubekConfig { matmul: MatmulConfig { allow_tf32: false } });
}
