//! The program as its users meet it: files in, command, files out.

mod beside;
mod collect;
mod damage;
mod data;
mod denied;
mod devices;
mod diff;
mod edits;
mod estimate;
mod grid;
mod hostile;
mod import;
mod inputs;
mod interrupted;
mod killed;
mod lab;
mod layouts;
mod lora;
mod memory;
mod pipeline_files;
#[path = "../program/mod.rs"]
mod program;
mod property;
mod report;
mod reuse;
mod sample;
mod shard;
mod shared;
mod space;
mod start;
mod traps;
mod validation;
mod verbs;
mod watch;
