//! `sd3pipe inspect`: what is in a safetensors file.

use super::{Failure, print, text};
use clap::Args;
use sd3pipe_stages::{adapter::Description, inspect::Inspection};
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The file: a checkpoint, an encoder, a LoRA.
    file: PathBuf,
    /// Prints JSON for programs, with notes in full.
    #[arg(long)]
    json: bool,
}

/// Letters of a note that are shown: sd-scripts writes whole lists of tags.
const LONGEST_NOTE: usize = 100;

/// So many notes are shown.
const MOST_NOTES: usize = 60;

impl Inspect {
    pub(super) fn run(self) -> Result<(), Failure> {
        let found = Inspection::of(&self.file).map_err(|error| Failure::Usage(error.to_string()))?;
        if self.json {
            return print(&format!("{:#}\n", to_json(&found)));
        }
        let length = std::fs::metadata(&self.file).map_or(0, |found| found.len());
        let head = format!("{}, {}\n", text::one_line(&self.file.display().to_string()), text::size(length));
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |cells: &[&str]| rows.push(cells.iter().map(|cell| (*cell).to_owned()).collect());
        for network in &found.networks {
            let (size, values) = match &network.size {
                Ok(size) => (size.clone(), values(network.values)),
                Err(fault) => (fault.lines().next().unwrap_or_default().to_owned(), String::new()),
            };
            row(&["holds", &network.component.to_string(), &size, &values]);
        }
        if let Some(adapter) = &found.adapter {
            row(&["holds", if adapter.magnitudes { "a DoRA" } else { "a LoRA" }, adapter.form]);
            row(&["rank", &counted(&adapter.ranks)]);
            if !adapter.alphas.is_empty() {
                row(&["alpha", &counted(&adapter.alphas)]);
            }
            for (target, count) in &adapter.targets {
                row(&["target", target, &text::units(*count, "modules")]);
            }
        }
        if let Some(other) = found.other {
            row(&["holds", &format!("no Stable Diffusion 3 but {other}")]);
        } else if found.networks.is_empty() && found.adapter.is_none() {
            row(&["holds", "no network of Stable Diffusion 3 and no LoRA"]);
        }
        for (dtype, tensors, amount) in &found.precisions {
            row(&["precision", &dtype.to_string(), &text::units(*tensors, "tensors"), &values(*amount)]);
        }
        for (name, note) in found.notes.iter().take(MOST_NOTES) {
            let short: String = note.chars().take(LONGEST_NOTE).collect();
            row(&["note", name, &if short.len() < note.len() { short + "…" } else { short }]);
        }
        if found.notes.len() > MOST_NOTES {
            row(&["", &format!("and {} more notes; --json prints all", found.notes.len() - MOST_NOTES)]);
        }
        print(&(head + &text::table(&rows)))
    }
}

/// `64 values`, `2,085 million values`.
fn values(count: u64) -> String {
    match count {
        0..1_000_000 => text::units(count as usize, "values"),
        _ => format!("{} million values", text::count((count as f64 / 1e6).round() as usize)),
    }
}

/// `16`, or `16 in 24 modules, 8 in 2` where they differ.
fn counted<T: ToString>(counts: &BTreeMap<T, usize>) -> String {
    let all: Vec<String> = match counts.len() {
        1 => counts.keys().map(T::to_string).collect(),
        _ => counts
            .iter()
            .map(|(what, count)| format!("{} in {}", what.to_string(), text::units(*count, "modules")))
            .collect(),
    };
    all.join(", ")
}

fn to_json(found: &Inspection) -> serde_json::Value {
    let networks = found.networks.iter().map(|network| {
        let (size, fault) = (network.size.as_ref().ok(), network.size.as_ref().err());
        json!({ "network": network.component.to_string(), "size": size, "fault": fault, "values": network.values })
    });
    let precisions = found
        .precisions
        .iter()
        .map(|(dtype, tensors, values)| json!({ "type": dtype.to_string(), "tensors": tensors, "values": values }));
    let adapter = found.adapter.as_ref().map(|adapter| {
        let Description { form, magnitudes, ranks, alphas, targets } = adapter;
        json!({ "form": form, "magnitudes": magnitudes, "ranks": ranks, "alphas": alphas, "targets": targets })
    });
    json!({
        "networks": networks.collect::<Vec<_>>(), "adapter": adapter, "other": found.other,
        "precisions": precisions.collect::<Vec<_>>(), "notes": found.notes,
    })
}
