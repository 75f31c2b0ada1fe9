//! How the program ends badly: a message on standard error, and an exit code.

use super::{diagnostics, text};
use crate::{
    bundle::BundleError, hub::HubError, pipeline::Diagnostics, plan::PlanError, remote::RemoteFault, run::RunError,
};
use sd3pipe_cache::StoreError;
use std::{path::PathBuf, process::ExitCode};

/// Why a verb did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The command line makes no sense: exit code 2.
    Usage(String),
    /// The pipeline is wrong: exit code 2.
    Pipeline(Box<Diagnostics>),
    /// A stage could not be examined: exit code 1, or 3 for a store that can't be used.
    Plan {
        /// The stage.
        stage: String,
        /// Why not.
        error: Box<PlanError>,
    },
    /// The store can't be used: exit code 3.
    Store(Box<StoreError>),
    /// Something in a store is damaged, and nothing was done about it: exit code 1.
    Damaged(PathBuf),
    /// So many things are missing for a run: exit code 1.
    Unwell(usize),
    /// A scheduler did not take the jobs: exit code 1.
    Submit(String),
    /// A model can't be downloaded: exit code 1.
    Hub(Box<HubError>),
    /// A remote store can't be used: exit code 2, or 1 when it fails.
    Remote(Box<RemoteFault>),
    /// A bundle can't be written or read: exit code 1, or 3 for a store that can't be used.
    Bundle(Box<BundleError>),
    /// The run ended badly: exit code 1, 3, 5 or 130.
    Run(Box<RunError>),
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::Pipeline(Box::new(diagnostics))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Hub(Box::new(error))
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        Self::Bundle(Box::new(error))
    }
}

impl From<RemoteFault> for Failure {
    fn from(fault: RemoteFault) -> Self {
        Self::Remote(Box::new(fault))
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl Failure {
    /// A stage that could not be examined.
    pub fn plan(stage: &str, error: PlanError) -> Self {
        Self::Plan { stage: stage.to_owned(), error: Box::new(error) }
    }

    /// Says it on standard error and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (message, code) = match self {
            Self::Usage(message) => (message, 2),
            Self::Pipeline(found) => {
                eprint!("{}", diagnostics::render(&found, diagnostics::color()));
                return ExitCode::from(2);
            }
            Self::Plan { error, .. } if matches!(*error, PlanError::Store(_)) => (error.to_string(), 3),
            Self::Plan { stage, error } => (format!("{stage}: {error}"), 1),
            Self::Store(error) => (error.to_string(), 3),
            Self::Unwell(bad) => (format!("{} of this would make a run fail", text::units(bad, "points")), 1),
            Self::Submit(reason) => {
                let hint = "`sbatch` and its messages are Slurm's own: see what --dry-run prints";
                (format!("the jobs were not submitted ({reason})\nhint: {hint}"), 1)
            }
            Self::Hub(error) => (error.to_string(), 1),
            Self::Remote(fault) => {
                (fault.to_string(), if matches!(*fault, RemoteFault::Unfinished { .. }) { 1 } else { 2 })
            }
            Self::Bundle(error) => (error.to_string(), if matches!(*error, BundleError::Store(_)) { 3 } else { 1 }),
            Self::Damaged(store) => {
                let message = format!("{} is damaged\nhint: `sd3pipe verify --repair` mends it", store.display());
                (message, 1)
            }
            Self::Run(error) => {
                let code = match &*error {
                    RunError::Changed { .. } => 5,
                    RunError::Interrupted => 130,
                    RunError::Plan { error, .. } if matches!(**error, PlanError::Store(_)) => 3,
                    RunError::Plan { .. } | RunError::Stage { .. } | RunError::NoRoom(_) => 1,
                };
                (error.to_string(), code)
            }
        };
        let word = if code == 130 { "stopped" } else { "error" };
        eprintln!("{word}: {}", text::safe(&message));
        ExitCode::from(code)
    }
}
