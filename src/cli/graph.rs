//! `sd3pipe graph`: the stages and what they read from each other.

use super::{Failure, Survey, Target, print};
use crate::plan::State;
use clap::{Args, ValueEnum};
use sd3pipe_cache::Store;
use std::fmt::Write;

#[derive(Debug, Args)]
pub(super) struct Graph {
    #[command(flatten)]
    target: Target,
    /// How to draw it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A line a stage.
    Text,
    /// For Graphviz.
    Dot,
    /// For Mermaid.
    Mermaid,
}

impl Graph {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.resolve()?;
        let store = Store::open_read_only(&self.target.store(&resolved))?;
        let survey = Survey::take(&resolved, store.as_ref(), Default::default(), &Default::default())?;
        let kept = |index: usize| {
            survey.examined[index]
                .as_ref()
                .is_some_and(|examined| matches!(examined.state, State::Kept { .. } | State::Assembled { .. }))
        };
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        match self.format {
            Format::Text => {
                for (index, stage) in resolved.stages.iter().enumerate() {
                    let reads: Vec<&str> =
                        stage.upstream.iter().map(|upstream| resolved.stages[upstream.stage].name.as_str()).collect();
                    let reads = if reads.is_empty() { String::new() } else { format!(" ← {}", reads.join(", ")) };
                    line(format!(
                        "{} {} ({}){reads}",
                        if kept(index) { "✓" } else { "·" },
                        stage.name,
                        stage.stage.kind()
                    ));
                }
            }
            Format::Dot => {
                line("digraph pipeline {\n  rankdir=LR;\n  node [shape=box, style=filled];".to_owned());
                for (index, stage) in resolved.stages.iter().enumerate() {
                    let color = if kept(index) { "palegreen" } else { "khaki" };
                    line(format!(
                        "  \"{}\" [fillcolor={color}, label=\"{}\\n{}\"];",
                        stage.name,
                        stage.name,
                        stage.stage.kind()
                    ));
                    for upstream in &stage.upstream {
                        line(format!(
                            "  \"{}\" -> \"{}\" [label=\"{}\"];",
                            resolved.stages[upstream.stage].name, stage.name, upstream.role
                        ));
                    }
                }
                line("}".to_owned());
            }
            Format::Mermaid => {
                line("flowchart LR".to_owned());
                for (index, stage) in resolved.stages.iter().enumerate() {
                    line(format!(
                        "  s{index}[\"{}<br/>{}\"]:::{}",
                        stage.name,
                        stage.stage.kind(),
                        if kept(index) { "hit" } else { "run" }
                    ));
                    for upstream in &stage.upstream {
                        line(format!("  s{} -->|{}| s{index}", upstream.stage, upstream.role));
                    }
                }
                line("  classDef hit fill:#98fb98\n  classDef run fill:#f0e68c".to_owned());
            }
        }
        print(&out)
    }
}
