//! Tells somebody that a run has ended: by a command that the user names.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How a run has ended, for the command's environment.
pub(super) struct Ending<'e> {
    /// `done`, `failed`, `interrupted` or `inputs changed`.
    pub outcome: &'e str,
    pub pipeline: &'e str,
    /// The run's number in its store.
    pub run: u64,
    pub seconds: f64,
    /// The error that ended it.
    pub error: Option<&'e str>,
    /// The folder of the results.
    pub out: &'e Path,
}

/// A command that takes longer is left to itself.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Runs the command in a shell. Whatever comes of that, the run's own outcome stands: it's told as a note.
pub(super) fn notify(command: &str, ending: &Ending<'_>) {
    let child = Command::new("sh")
        .args(["-c", command])
        .env("SD3PIPE_OUTCOME", ending.outcome)
        .env("SD3PIPE_PIPELINE", ending.pipeline)
        .env("SD3PIPE_RUN", ending.run.to_string())
        .env("SD3PIPE_SECONDS", format!("{:.0}", ending.seconds))
        .env("SD3PIPE_ERROR", ending.error.unwrap_or_default().replace('\0', ""))
        .env("SD3PIPE_OUT", ending.out)
        .stdin(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return eprintln!("note: the notification could not be sent: {error}"),
    };
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return,
            Ok(Some(status)) => return eprintln!("note: the notification's command ended with {status}"),
            Ok(None) if begun.elapsed() < LONGEST_WAIT => thread::sleep(Duration::from_millis(20)),
            Ok(None) => return eprintln!("note: the notification's command goes on by itself"),
            Err(error) => return eprintln!("note: the notification's command can't be waited for: {error}"),
        }
    }
}
