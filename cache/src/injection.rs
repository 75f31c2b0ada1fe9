//! Injected failures, for tests: this process is killed, or a step fails, where `SD3PIPE_FAULT` says.
//!
//! `SD3PIPE_FAULT=KIND@STEP:N` has its effect at the Nth passage of a step, from 1, and `…:N+` from the Nth on; `*` stands for
//! any step. The kinds are `kill` (SIGKILL right before), `kill-after` (right after), `torn` (half of the bytes are written,
//! then SIGKILL; where nothing is written, `kill`), `stall` (it comes to no end), and the errors `ENOSPC`, `EIO` and
//! `EACCES`. `SD3PIPE_FAULT_LOG=FILE` gets the name of each step that is passed, a line each.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::ffi;

#[derive(Debug, Copy, Clone, PartialEq)]
enum Kind {
    Kill,
    KillAfter,
    Torn,
    Stall,
    Error(Failure),
}

/// An error that the system did not make.
#[derive(Debug, Copy, Clone, PartialEq)]
pub(crate) enum Failure {
    Full,
    Broken,
    Denied,
}

impl Failure {
    pub(crate) fn io(self) -> io::Error {
        use rustix::io::Errno;
        match self {
            Failure::Full => Errno::NOSPC,
            Failure::Broken => Errno::IO,
            Failure::Denied => Errno::ACCESS,
        }
        .into()
    }

    pub(crate) fn sqlite(self) -> rusqlite::Error {
        let code = match self {
            Failure::Full => ffi::SQLITE_FULL,
            Failure::Broken => ffi::SQLITE_IOERR,
            Failure::Denied => ffi::SQLITE_READONLY,
        };
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }
}

struct Injection {
    kind: Kind,
    step: String,
    from: u64,
    on: bool,
    passed: AtomicU64,
}

impl Injection {
    fn parse(text: &str) -> Option<Injection> {
        let (kind, place) = text.split_once('@')?;
        let (step, count) = place.split_once(':').unwrap_or((place, "1"));
        let kind = match kind {
            "kill" => Kind::Kill,
            "kill-after" => Kind::KillAfter,
            "torn" => Kind::Torn,
            "stall" => Kind::Stall,
            "ENOSPC" => Kind::Error(Failure::Full),
            "EIO" => Kind::Error(Failure::Broken),
            "EACCES" => Kind::Error(Failure::Denied),
            _ => return None,
        };
        let (from, on) = (count.trim_end_matches('+').parse().ok()?, count.ends_with('+'));
        Some(Injection { kind, step: step.to_owned(), from, on, passed: AtomicU64::new(0) })
    }

    /// Whether this has its effect at the passage that begins now.
    fn strikes(&self, step: &str) -> bool {
        if self.step != "*" && self.step != step {
            return false;
        }
        let passage = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        passage == self.from || (self.on && passage > self.from)
    }
}

/// What was asked for.
///
/// # Panics
/// If it can't be understood: a test that asks for no failure at all would pass.
fn injection() -> Option<&'static Injection> {
    static INJECTION: OnceLock<Option<Injection>> = OnceLock::new();
    let read = || {
        let text = std::env::var("SD3PIPE_FAULT").ok()?;
        Some(Injection::parse(&text).unwrap_or_else(|| panic!("SD3PIPE_FAULT={text}: no such fault")))
    };
    INJECTION.get_or_init(read).as_ref()
}

/// A step that is under way.
pub(crate) struct Passage {
    kill: bool,
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.kill {
            kill();
        }
    }
}

/// Begins a step, unless it's to fail.
pub(crate) fn pass(step: &'static str) -> Result<Passage, Failure> {
    log(step);
    match injection().filter(|injection| injection.kind != Kind::Torn || !step.ends_with(".write")) {
        Some(injection) if injection.strikes(step) => match injection.kind {
            Kind::Kill | Kind::Torn => kill(),
            Kind::Stall => loop {
                std::thread::park();
            },
            Kind::KillAfter => Ok(Passage { kill: true }),
            Kind::Error(failure) => Err(failure),
        },
        _ => Ok(Passage { kill: false }),
    }
}

/// Writes half of the bytes and ends, if this write is to be torn.
pub(crate) fn tear(step: &'static str, half: impl FnOnce() -> io::Result<()>) {
    if injection().is_some_and(|injection| injection.kind == Kind::Torn && injection.strikes(step)) {
        let _ = half();
        kill();
    }
}

fn log(step: &str) {
    static LOG: OnceLock<Option<File>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os("SD3PIPE_FAULT_LOG")?;
        Some(OpenOptions::new().create(true).append(true).open(path).expect("the log of steps can be written"))
    };
    if let Some(mut log) = LOG.get_or_init(open).as_ref() {
        log.write_all(format!("{step}\n").as_bytes()).expect("the log of steps can be written");
    }
}

/// As the system kills a process: nothing is flushed, dropped or said.
fn kill() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_at_its_passage_and_at_no_other() {
        let strikes = |text: &str, steps: &[&str]| {
            let injection = Injection::parse(text).unwrap();
            steps.iter().map(|step| injection.strikes(step)).collect::<Vec<_>>()
        };
        let steps = ["object.write", "object.sync", "object.write", "object.write"];
        assert_eq!(strikes("kill@object.write", &steps), [true, false, false, false]);
        assert_eq!(strikes("EIO@object.write:2", &steps), [false, false, true, false]);
        assert_eq!(strikes("ENOSPC@object.write:2+", &steps), [false, false, true, true]);
        assert_eq!(strikes("torn@*:2", &steps), [false, true, false, false]);
        for wrong in ["", "kill", "kill@a:x", "die@a", "kill@a:"] {
            assert!(Injection::parse(wrong).is_none(), "{wrong}");
        }
    }
}
