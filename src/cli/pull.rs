//! `sd3pipe pull`: brings all that the remote store has of a pipeline.

use super::{
    Failure, Target, progress,
    run::{Beside, carry_out},
};
use crate::{
    remote::RemoteFault,
    run::{Options, previous_keys},
};
use clap::Args;
use sd3pipe_cache::Store;

#[derive(Debug, Args)]
pub(super) struct Pull {
    #[command(flatten)]
    target: Target,
}

impl Pull {
    pub(super) fn run(self) -> Result<(), Failure> {
        let progress = progress::new();
        let resolved = self.target.fetch(&*progress)?;
        if resolved.pipeline.store.remote.is_none() {
            return Err(RemoteFault::NotNamed.into());
        }
        let store = Store::open(&self.target.store(&resolved))?;
        let name = &resolved.pipeline.name;
        let previous = previous_keys(&resolved, Some(&store)).map_err(|error| Failure::plan(name, error))?;
        let options = Options { only_fetch: true, ignore_space: true, ..Options::default() };
        // It is written down as a run, so that a collection keeps what came.
        carry_out(&resolved, &store, options, name, previous, &*progress, &Beside::default())
    }
}
