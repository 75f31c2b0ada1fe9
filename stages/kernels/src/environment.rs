//! Where compiled kernels are kept from one process to the next.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};
use std::path::Path;

/// Has this process keep compiled kernels, and what it measured to choose among them, in a folder; unless a `cubecl.toml` in the working
/// folder or above says where. To be called before a GPU is used; later it does nothing.
pub fn keep_kernels(folder: &Path) {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Directory(folder.to_owned());
        config.compilation.cache = true;
    }
    CubeClRuntimeConfig::try_set(config);
}
