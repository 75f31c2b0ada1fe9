//! Encoding text: tokenizers, the three encoders' order of work, and what the MMDiT is given.

mod job;
pub mod parameters;
pub mod tokenizer;

#[cfg(feature = "compute")]
mod conditioning;
#[cfg(feature = "compute")]
mod encode;
#[cfg(feature = "compute")]
mod streamed;

#[cfg(feature = "compute")]
pub use conditioning::{Conditioning, Dropped, Encoded};
#[cfg(feature = "compute")]
pub(crate) use encode::{clip_kind, clip_tokenizer};
#[cfg(feature = "compute")]
pub use encode::{encode, encode_clip};
pub use job::TextJob;

/// See [`crate::stage::Stage::revision`].
pub const REVISION: u32 = 1;
