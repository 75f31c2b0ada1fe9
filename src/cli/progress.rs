//! How far a stage is: a bar on a terminal, now and then a line anywhere else.

use super::text::{duration, one_line, safe};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use sd3pipe_stages::work::Progress;
use std::{
    fmt,
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

/// The one that fits standard error.
pub(super) fn new() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bar::default()) } else { Box::new(Lines::default()) }
}

#[derive(Default)]
struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        if let Ok(mut bar) = self.0.lock() {
            act(&mut bar);
        }
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: u64, unit: &str) {
        // The note is cut to what has room: a line that is wider than the terminal would jump.
        let template = format!("{{prefix}} {{bar:12}} {{pos}}/{{len}} {unit} · {{pace}} · {{eta}} left · {{wide_msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("pace", |state: &ProgressState, text: &mut dyn fmt::Write| {
            // Where it fails there is nothing to see.
            let _ = write!(text, "{:.2}/s", state.per_sec());
        });
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
            .with_style(style)
            .with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with(|slot| *slot = Some(bar));
    }

    fn advance(&self, done: u64, note: &str) {
        self.with(|slot| {
            if let Some(bar) = slot {
                // What was done before does not count for the rate.
                if bar.position() == 0 && done > 1 {
                    bar.set_position(done);
                    bar.reset_eta();
                }
                bar.set_position(done);
                bar.set_message(one_line(note));
            }
        });
    }

    fn end(&self) {
        self.with(|slot| {
            if let Some(bar) = slot.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn line(&self, text: &str) {
        self.with(|slot| match slot {
            Some(bar) => bar.println(safe(text)),
            None => eprintln!("{}", safe(text)),
        });
    }
}

/// Between two lines of one stretch, so that a log stays readable.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Lines(Mutex<Option<Stretch>>);

struct Stretch {
    what: String,
    unit: String,
    total: u64,
    begun: Instant,
    said: Instant,
    /// What was done when the stretch was first heard of: a resumed training does not begin at 0.
    first: Option<u64>,
    done: u64,
    note: String,
}

impl Stretch {
    fn say(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-3);
        let rate = self.done.saturating_sub(self.first.unwrap_or_default()) as f64 / seconds;
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1e-9);
        let note = if self.note.is_empty() { String::new() } else { format!(" · {}", self.note) };
        let left =
            if rate > 0.0 && self.done < self.total { format!(" · {} left", duration(left)) } else { String::new() };
        eprintln!("{} {}/{} {} · {rate:.2} a second{left}{note}", self.what, self.done, self.total, self.unit);
        self.said = Instant::now();
    }
}

impl Progress for Lines {
    fn begin(&self, what: &str, total: u64, unit: &str) {
        let now = Instant::now();
        let stretch = Stretch {
            what: what.to_owned(),
            unit: unit.to_owned(),
            total,
            begun: now,
            said: now,
            first: None,
            done: 0,
            note: String::new(),
        };
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(stretch);
        }
    }

    fn advance(&self, done: u64, note: &str) {
        if let Ok(mut slot) = self.0.lock()
            && let Some(stretch) = &mut *slot
        {
            stretch.first.get_or_insert(done.saturating_sub(1));
            stretch.done = done;
            stretch.note = one_line(note);
            if stretch.said.elapsed() > PAUSE {
                stretch.say();
            }
        }
    }

    fn end(&self) {
        if let Ok(mut slot) = self.0.lock()
            && let Some(mut stretch) = slot.take()
        {
            stretch.say();
        }
    }

    fn line(&self, text: &str) {
        eprintln!("{}", safe(text));
    }
}
