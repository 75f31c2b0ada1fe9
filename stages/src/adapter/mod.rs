//! Low-rank adapters (LoRA, DoRA) of the MMDiT and of the CLIPs: where they sit, what they are, and the files that they come in.

mod base;
mod describe;
mod error;
mod low_rank;
pub mod parameters;
mod read;
mod site;
mod start;
mod write;

pub use base::{Base, Clips, network_of, prefix};
pub use describe::Description;
pub use error::AdapterError;
pub use low_rank::{Adapter, LowRank, merged_all};
pub use read::{ALPHA, DOWN, MAGNITUDE, UP, file_digest};
pub use site::{Part, Place, Site, places, tensors};
