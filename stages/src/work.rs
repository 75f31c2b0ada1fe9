//! What a stage is given to work with: the store, a way to tell how far it is, and a way to be stopped.

use crate::{action::Action, device::Device, error::StageError, train::metrics::Scalar};
use sd3pipe_cache::{Output, Record, Store};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Hears how far a stage is. The command line draws it; tests collect it.
pub trait Progress: Sync {
    /// A stretch of work begins: what it is, how many units it has, and what a unit is called.
    fn begin(&self, what: &str, total: u64, unit: &str);
    /// So many units are done; `note` is what there is to say: a loss, a learning rate.
    fn advance(&self, done: u64, note: &str);
    /// The stretch ends.
    fn end(&self);
    /// A line that is worth keeping on the screen.
    fn line(&self, text: &str);
    /// Points of curves, in the order in which they are measured. After a resume some come that came before.
    fn measured(&self, _: &[Scalar]) {}
}

/// A [`Progress`] that tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: &str) {}
    fn advance(&self, _: u64, _: &str) {}
    fn end(&self) {}
    fn line(&self, _: &str) {}
}

/// Whether somebody asked to stop.
#[derive(Debug, Default)]
pub struct Interrupt(AtomicBool);

impl Interrupt {
    /// An interrupt that nobody has asked for yet.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks to stop at the next good moment.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Records wait so long or so many before they are made durable together: a kill loses no more than that.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const MOST_WAITING: usize = 128;

/// The surroundings of a stage that runs.
pub struct Work<'w> {
    /// Where objects and records go.
    pub store: &'w Store,
    /// Who hears how far it is.
    pub progress: &'w dyn Progress,
    /// Whether to stop.
    pub interrupt: &'w Interrupt,
    /// Where to compute: a device, or several that share the work.
    pub devices: Vec<Device>,
    /// Labels of the actions that were carried out.
    pub executed: Vec<String>,
    /// Whether more of the same stage follows in this run: a training then leaves its state as if it were only interrupted.
    pub continues: bool,
    /// Inputs that were found changed.
    pub changed: Vec<PathBuf>,
    /// How many of `executed` have a durable record.
    durable: usize,
    waiting: Vec<Record>,
    oldest: Instant,
}

impl<'w> Work<'w> {
    /// Surroundings in which nothing was done yet.
    pub fn new(store: &'w Store, progress: &'w dyn Progress, interrupt: &'w Interrupt, devices: Vec<Device>) -> Self {
        Self {
            store,
            progress,
            interrupt,
            devices,
            executed: Vec::new(),
            continues: false,
            changed: Vec::new(),
            durable: 0,
            waiting: Vec::new(),
            oldest: Instant::now(),
        }
    }

    /// The first of its devices.
    pub fn device(&self) -> Device {
        self.devices.first().copied().unwrap_or_default()
    }

    /// Records an action as done. It is durable after [`flush`](Self::flush), or soon.
    pub fn publish(&mut self, action: &Action, outputs: Vec<Output>, seconds: f64) -> Result<(), StageError> {
        self.executed.push(action.label.clone());
        self.publish_quietly(action, outputs, seconds)
    }

    /// Records an action as done with the next [`flush`](Self::flush) and not before, together with all that are held.
    pub fn hold(&mut self, action: &Action, outputs: Vec<Output>, seconds: f64) -> Result<(), StageError> {
        self.executed.push(action.label.clone());
        self.waiting.push(action.record(outputs, seconds)?);
        Ok(())
    }

    /// Records what was made on the way to an action, and is kept for others: a prompt's encoding.
    pub fn publish_quietly(&mut self, action: &Action, outputs: Vec<Output>, seconds: f64) -> Result<(), StageError> {
        if self.waiting.is_empty() {
            self.oldest = Instant::now();
        }
        self.waiting.push(action.record(outputs, seconds)?);
        if self.waiting.len() >= MOST_WAITING || self.oldest.elapsed() > LONGEST_WAIT { self.flush() } else { Ok(()) }
    }

    /// Makes everything that was published durable.
    pub fn flush(&mut self) -> Result<(), StageError> {
        if !self.waiting.is_empty() {
            self.store.publish(&self.waiting)?;
            self.waiting.clear();
            self.durable = self.executed.len();
        }
        Ok(())
    }

    /// Makes durable what can be, and takes the labels of what is: what could not be recorded will be done again.
    pub fn take_executed(&mut self) -> Vec<String> {
        if self.flush().is_err() {
            self.executed.truncate(self.durable);
        }
        self.durable = 0;
        std::mem::take(&mut self.executed)
    }

    /// Adds labels of actions whose records are durable.
    pub fn add_executed(&mut self, labels: Vec<String>) {
        self.executed.extend(labels);
        self.durable = self.executed.len();
    }

    /// An error if somebody asked to stop; what is done so far is durable then.
    pub fn check_interrupt(&mut self) -> Result<(), StageError> {
        if self.interrupt.asked() {
            self.flush()?;
            return Err(StageError::Interrupted);
        }
        Ok(())
    }
}
