//! `sd3pipe store`: what takes how much room.

use super::{Failure, Location, print, say_notices, text};
use crate::run::stages_of;
use clap::Args;
use sd3pipe_cache::Part;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(super) struct Usage {
    #[command(flatten)]
    location: Location,
    /// Needed is what this many of the newest runs of each pipeline lead to, as for `gc`.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    keep_runs: usize,
    /// Prints JSON for programs.
    #[arg(long)]
    json: bool,
}

/// What a person calls the objects of a role, in the plural.
pub(super) fn kind(role: &str) -> &str {
    match role {
        "text" => "texts",
        "state" => "optimizer states",
        "checkpoint" | "file" => "checkpoints",
        "image" | "sheet" => "samples",
        "items" | "memo" => "captions",
        "artifact" => "lists of results",
        "" => "not recorded",
        other => other,
    }
}

impl Usage {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = self.location.read()?;
        let usage = store.usage(self.keep_runs, &stages_of)?;
        say_notices(&store);
        let mut kinds: BTreeMap<&str, Part> = BTreeMap::new();
        for (role, part) in &usage.roles {
            kinds.entry(kind(role)).or_default().add(part);
        }
        if self.json {
            let part =
                |part: &Part| serde_json::json!({ "count": part.count, "bytes": part.bytes, "seconds": part.seconds });
            let pipelines: BTreeMap<_, _> = usage
                .pipelines
                .iter()
                .map(|(name, needs)| {
                    (name, serde_json::json!({ "all": part(&needs.all), "alone": part(&needs.alone) }))
                })
                .collect();
            let kinds: BTreeMap<_, _> = kinds.iter().map(|(kind, found)| (kind, part(found))).collect();
            let json = serde_json::json!({
                "store": store.root(), "objects": part(&usage.objects), "kinds": kinds, "pipelines": pipelines,
                "garbage": part(&usage.garbage), "quarantine": part(&usage.quarantine), "work": part(&usage.work),
                "temporary": part(&usage.temporary), "index": usage.index,
            });
            return print(&format!("{json:#}\n"));
        }
        let row = |name: &str, part: &Part| {
            vec![name.to_owned(), text::count(part.count), text::size(part.bytes), time(part.seconds)]
        };
        let mut largest: Vec<_> = kinds.iter().collect();
        largest.sort_by_key(|(_, part)| std::cmp::Reverse(part.bytes));
        let mut rows: Vec<Vec<String>> = largest.iter().map(|(kind, part)| row(kind, part)).collect();
        rows.push(row("all objects", &usage.objects));
        for (name, part) in
            [("in quarantine", &usage.quarantine), ("unfinished work", &usage.work), ("half written", &usage.temporary)]
        {
            if part.count > 0 {
                rows.push(row(name, part));
            }
        }
        rows.push(vec!["index".to_owned(), String::new(), text::size(usage.index)]);
        let mut out = format!("{}\n{}", store.root().display(), text::table(&rows));
        let needs = usage.pipelines.iter().map(|(name, needs)| {
            let alone = match needs.alone.bytes {
                all if all == needs.all.bytes => "shares nothing".to_owned(),
                alone => format!("alone {}", text::size(alone)),
            };
            vec![name.clone(), format!("needs {}", text::size(needs.all.bytes)), alone, time(needs.all.seconds)]
        });
        let mut rows: Vec<Vec<String>> = needs.collect();
        if usage.garbage.count > 0 {
            let freed = format!("{}; `sd3pipe gc` removes it", text::size(usage.garbage.bytes));
            rows.push(vec!["not needed".to_owned(), freed]);
        }
        if !rows.is_empty() {
            out += "\n";
            out += &text::table(&rows);
        }
        print(&out)
    }
}

/// How long it took to make.
fn time(seconds: f64) -> String {
    if seconds > 0.0 { format!("took {}", text::duration(seconds)) } else { String::new() }
}
