//! The program as its users meet it: files in, command, files out.

mod beside;
mod collect;
mod damage;
mod data;
mod denied;
mod edits;
mod estimate;
mod hostile;
mod inputs;
mod interrupted;
mod killed;
mod lab;
mod layouts;
mod lora;
mod memory;
mod pipeline_files;
mod property;
mod report;
mod reuse;
mod space;
mod start;
mod traps;
mod validation;
mod verbs;
