//! The runner: from a pipeline file to a plan to a run.
//!
//! [`pipeline`] reads and checks the file, [`plan`] finds out what is missing and why, [`run`] makes it and keeps a journal, [`report`] tells
//! it to people; [`hub`] fetches models. Only [`cli`] talks to the terminal.

pub mod bundle;
pub mod cli;
pub mod hub;
pub mod import;
pub mod pipeline;
pub mod plan;
pub mod remote;
pub mod report;
pub mod run;
