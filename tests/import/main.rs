//! Trainings of sd-scripts become pipelines: each option of its two trainers is carried over, told or refused, and what comes out loads.

mod each_option;
mod examples;
mod page;
mod place;
mod program;
mod table;
