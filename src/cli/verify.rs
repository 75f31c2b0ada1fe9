//! `sd3pipe verify`: reads everything in a store, and with `--repair` mends what is wrong.

use super::{Failure, Location, print, progress, say_notices, text};
use crate::run::stages_of;
use clap::Args;
use sd3pipe_cache::{Fault, Store, Verified};
use std::sync::Once;

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    location: Location,
    /// Moves what is damaged to quarantine and drops what promises it, so that the next run makes just that again.
    #[arg(long)]
    repair: bool,
}

/// How many actions that will be carried out again are named.
const MOST_NAMED: usize = 20;

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut verified = look(&self.location.read()?)?;
        let mut out = lines(&verified);
        let faults = verified.faults.len();
        if self.repair && faults > 0 {
            let store = self.location.write()?;
            store.repair(&verified)?;
            if verified.faults.iter().any(|fault| matches!(fault, Fault::Index { .. })) {
                // Only now can the rest be looked at.
                verified = look(&store)?;
                out += &lines(&verified);
                store.repair(&verified)?;
            }
            say_notices(&store);
        }
        out += &format!(
            "{} read ({}), {}: {}\n",
            text::units(verified.objects, "objects"),
            text::size(verified.bytes),
            text::units(verified.records, "records"),
            match (faults, self.repair) {
                (0, _) => "all sound".to_owned(),
                (_, true) => "repaired".to_owned(),
                (faults, false) => text::units(faults, "faults"),
            }
        );
        if verified.left_over.count > 0 {
            let amount = text::size(verified.left_over.bytes);
            out += &format!(
                "{} left half written ({amount}); `sd3pipe gc` removes them\n",
                text::units(verified.left_over.count, "files")
            );
        }
        print(&out)?;
        match faults > 0 && !self.repair {
            true => Err(Failure::Damaged(self.location.folder())),
            false => Ok(()),
        }
    }
}

fn look(store: &Store) -> Result<Verified, Failure> {
    let (progress, begun) = (progress::new(), Once::new());
    let reading = |done: u64, total: u64| {
        begun.call_once(|| progress.begin("reading objects", total >> 20, "MiB"));
        progress.advance(done >> 20, "");
    };
    let verified = store.verify(&stages_of, &reading)?;
    progress.end();
    Ok(verified)
}

/// A line for each fault, and what will be made again.
fn lines(verified: &Verified) -> String {
    let mut out: String = verified.faults.iter().map(|fault| format!("{fault}\n")).collect();
    if !verified.again.is_empty() {
        let seconds: f64 = verified.again.iter().map(|(_, seconds)| seconds).sum();
        let mut names: Vec<&str> = verified.again.iter().map(|(label, _)| label.as_str()).take(MOST_NAMED).collect();
        if verified.again.len() > MOST_NAMED {
            names.push("…");
        }
        let count = text::units(verified.again.len(), "actions");
        let names = names.join(", ");
        out += &format!("the next run that needs them makes {count} again ({}): {names}\n", text::duration(seconds));
    }
    out
}
