//! From captions to what the networks are conditioned on.

pub mod tokenizer;
