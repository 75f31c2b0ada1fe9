//! What each stage of a pipeline does.

pub mod text;
