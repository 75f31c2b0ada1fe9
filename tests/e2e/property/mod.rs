//! Incremental = clean: after any edits, a run on a store with a long history gives the bytes of a run from an empty store.
//!
//! [`world`] is a folder and its history, [`edit`] what can happen to it, [`check`] what must hold after it, [`soak`] makes many
//! histories of random edits, and [`keys`] goes through the [`fields`] of a pipeline one by one.

mod check;
mod edit;
mod fields;
mod keys;
mod soak;
mod world;
