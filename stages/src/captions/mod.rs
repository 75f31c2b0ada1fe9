//! The `Captions` stage: which images there are, and which texts go with each.

pub mod caption;
mod dataset;
pub mod error;
pub mod items;
pub mod listing;
pub mod parameters;
pub mod report;
pub mod scan;
pub mod variants;

/// Raised by hand whenever equal data and parameters give other items; a golden test holds it to that.
pub const REVISION: u32 = 1;

pub use error::CaptionsError;
pub use items::{Item, Items};
pub use parameters::Captions;
