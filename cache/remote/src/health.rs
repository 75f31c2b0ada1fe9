//! How well a remote store does: what it failed in, and when it is given up.

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::lock;

/// So many failures on end, each after the client's own retries, and nothing more is asked.
const PATIENCE: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Health {
    gone: AtomicBool,
    /// Failures since something last went well.
    in_a_row: AtomicUsize,
    told: Mutex<Told>,
}

/// What the user is told.
#[derive(Debug, Default)]
struct Told {
    /// How many questions were not answered, and what the last of them met with.
    failed: Option<(usize, String)>,
    /// What has other bytes than it should.
    wrong: Vec<String>,
    /// Why nothing can be written.
    closed: Option<String>,
}

impl Health {
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Something was answered.
    pub(crate) fn well(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    /// Something was not.
    pub(crate) fn failed(&self, error: &object_store::Error) {
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if in_a_row >= PATIENCE || is_refusal(error) {
            self.gone.store(true, Ordering::Relaxed);
        }
        let mut told = lock(&self.told);
        let before = told.failed.take().map_or(0, |(count, _)| count);
        told.failed = Some((before + 1, cause(error)));
    }

    /// It is not even asked.
    pub(crate) fn give_up(&self, reason: String) {
        self.gone.store(true, Ordering::Relaxed);
        lock(&self.told).failed = Some((1, reason));
    }

    /// Something can't be written, which says nothing of reading.
    pub(crate) fn closed(&self, error: &object_store::Error) {
        lock(&self.told).closed.get_or_insert_with(|| cause(error));
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.told).closed.is_some()
    }

    /// Something has other bytes than it should.
    pub(crate) fn wrong(&self, what: String) {
        lock(&self.told).wrong.push(what);
    }

    /// Takes what there is to tell.
    pub(crate) fn notices(&self, address: &str) -> Vec<String> {
        let mut told = lock(&self.told);
        let mut lines = Vec::new();
        match told.failed.take() {
            Some((_, reason)) if self.is_gone() => {
                lines.push(format!(
                    "the remote store {address} can't be reached ({reason}): going on with the local one"
                ));
            }
            Some((count, reason)) => {
                let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
                lines.push(format!(
                    "the remote store {address} failed {times} ({reason}): what did not come is made here, what did not go is sent by the next run"
                ));
            }
            None => {}
        }
        let wrong = std::mem::take(&mut told.wrong);
        if let Some(first) = wrong.first() {
            let others = if wrong.len() > 1 { format!(" and {} others", wrong.len() - 1) } else { String::new() };
            lines.push(format!("{first}{others} in {address} came with other bytes than were stored there: not used"));
        }
        if let Some(reason) = &told.closed {
            lines.push(format!("nothing was written to {address} ({reason}): with `mode: ReadOnly` it is only read"));
        }
        lines
    }
}

/// Whether it will say the same to every question.
pub(crate) fn is_refusal(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(error, E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::NotSupported { .. })
}

/// The bottom of an error, in one line: what stands above it says which client asked for what, and how often.
pub(crate) fn cause(error: &object_store::Error) -> String {
    let mut bottom: &dyn Error = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    let text = bottom.to_string();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
