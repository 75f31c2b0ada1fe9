//! `sd3pipe gc`: removes what nobody needs, and says what it would cost to make again.

use super::{Failure, Location, print, say_notices, store::kind, text};
use crate::run::stages_of;
use clap::Args;
use sd3pipe_cache::{Collection, Limits, Part};
use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Args)]
pub(super) struct Gc {
    #[command(flatten)]
    location: Location,
    /// Needed is what this many of the newest runs of each pipeline lead to.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    keep_runs: usize,
    /// Leaves what was used since: `30d`, `12h`, `2w`.
    #[arg(long, value_name = "AGE", value_parser = text::parse_age)]
    older_than: Option<Duration>,
    /// Removes no more than it must for the store to be no larger than this, the least recently used first: `50GiB`.
    #[arg(long, value_name = "SIZE", value_parser = text::parse_size)]
    max_size: Option<u64>,
    /// Says what would be removed, and removes nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(super) fn run(self) -> Result<(), Failure> {
        let limits = Limits { keep_runs: self.keep_runs, older_than: self.older_than, max_size: self.max_size };
        let collection = if self.dry_run {
            self.location.read()?.would_collect(&limits, &stages_of)?
        } else {
            let store = self.location.write()?;
            let waiting = &mut |holder: &str| eprintln!("waiting for {holder}, which collects too");
            let collection = store.collect(&limits, &stages_of, waiting)?;
            say_notices(&store);
            collection
        };
        print(&self.table(&collection))
    }

    fn table(&self, collection: &Collection) -> String {
        // Several roles may be one kind of thing to a person.
        let mut parts: BTreeMap<(&str, &str), Part> = BTreeMap::new();
        for ((pipeline, role), part) in &collection.parts {
            parts.entry((pipeline.as_str(), kind(role))).or_default().add(part);
        }
        let beside = [
            ("in quarantine", &collection.quarantine),
            ("abandoned work", &collection.work),
            ("half written", &collection.temporary),
        ];
        let lines = parts.iter().map(|((pipeline, kind), part)| (*pipeline, *kind, part));
        let lines = lines.chain(beside.map(|(kind, part)| ("", kind, part)));
        let mut rows: Vec<Vec<String>> = lines
            .filter(|(_, _, part)| part.count > 0 || part.seconds > 0.0)
            .map(|(pipeline, kind, part)| row(pipeline, kind, part))
            .collect();
        if rows.is_empty() {
            rows.push(vec!["nothing to remove".to_owned()]);
        } else {
            let all = if self.dry_run { "would be removed" } else { "removed" };
            rows.push(row("all", all, &collection.total()));
        }
        let mut table = text::table(&rows) + &format!("stays: {}\n", text::size(collection.stays));
        if let (true, Some(most)) = (collection.too_large, self.max_size) {
            table += &format!(
                "that is more than {}: pins, runs under way and the newest {} of each pipeline need it all\n",
                text::size(most),
                text::units(self.keep_runs, "runs")
            );
        }
        table
    }
}

fn row(pipeline: &str, kind: &str, part: &Part) -> Vec<String> {
    let again =
        if part.seconds > 0.0 { format!("{} to make again", text::duration(part.seconds)) } else { String::new() };
    vec![pipeline.to_owned(), kind.to_owned(), text::count(part.count), text::size(part.bytes), again]
}
