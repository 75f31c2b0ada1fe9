//! What each stage of a pipeline does.

pub mod captions;
pub mod images;
pub mod precision;
pub mod problem;
pub mod random;
