//! The program as its users meet it: files in, command, files out.

mod edits;
mod inputs;
mod interrupted;
mod layouts;
mod lora;
mod pipeline_files;
mod reuse;
mod space;
mod verbs;
