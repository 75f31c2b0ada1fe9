//! From a caption to the token ids that the text encoders read.

mod cleaning;
mod clip;
mod error;
mod file;
mod sentencepiece;
mod shape;
mod t5;

pub use clip::{CLIP_LENGTH, ClipFiles, ClipPad, ClipTokenizer, ClipTokens};
pub use error::TokenizerError;
pub use file::panics_are_caught;
pub use t5::{T5Tokenizer, T5Tokens};
