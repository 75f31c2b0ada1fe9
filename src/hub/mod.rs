//! Models by their address at Hugging Face: looked for in the cache that all of its programs share, and downloaded into it.

mod address;
mod cache;
#[cfg(feature = "hub")]
mod download;
mod error;

pub use address::Address;
pub use cache::Cache;
pub use error::HubError;

use sd3pipe_stages::work::Progress;
use std::path::PathBuf;

/// A file of a pipeline that is named by its address.
#[derive(Clone, Debug)]
pub struct HubFile {
    /// The field that names it: `model.checkpoint`.
    pub field: String,
    /// Where it is to be had.
    pub address: Address,
    /// Where it lies, if it was downloaded.
    pub found: Option<PathBuf>,
}

/// Whether the network may not be used: `HF_HUB_OFFLINE`, as all programs of Hugging Face read it.
pub fn is_offline() -> bool {
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().any(|name| {
        let value = std::env::var(name).unwrap_or_default().to_uppercase();
        ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
    })
}

/// Whether there is a token to ask with.
pub fn has_token() -> bool {
    cache::token().is_some()
}

/// The bytes of a file that is not in the cache, asked of the server.
///
/// # Errors
/// When it does not answer, or may not be asked.
pub fn size(address: &Address) -> Result<u64, HubError> {
    if is_offline() {
        return Err(HubError::Offline { address: address.clone() });
    }
    #[cfg(feature = "hub")]
    return download::size(address);
    #[cfg(not(feature = "hub"))]
    Err(HubError::NotBuilt { address: address.clone() })
}

/// Downloads a file into the cache, going on where an earlier attempt ended, and checks its digest. Gives the file.
///
/// # Errors
/// When there is no network, no such file, no leave to read it, or other bytes came than were promised.
pub fn download(address: &Address, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    if is_offline() {
        return Err(HubError::Offline { address: address.clone() });
    }
    #[cfg(feature = "hub")]
    return download::download(address, progress);
    #[cfg(not(feature = "hub"))]
    {
        let _ = progress;
        Err(HubError::NotBuilt { address: address.clone() })
    }
}
