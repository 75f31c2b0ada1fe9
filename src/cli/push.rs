//! `sd3pipe push`: sends all that the store has of a pipeline to the remote one.

use super::{Failure, Survey, Target, print, progress, run::INTERRUPT, say_notices, text};
use crate::{
    pipeline::RemoteMode,
    plan::Shared,
    remote::{self, RemoteFault},
};
use clap::Args;
use sd3pipe_cache::Store;

#[derive(Debug, Args)]
pub(super) struct Push {
    #[command(flatten)]
    target: Target,
}

impl Push {
    pub(super) fn run(self) -> Result<(), Failure> {
        let progress = progress::new();
        let resolved = self.target.resolve()?;
        let remote = remote::open(&resolved.pipeline.store)?.ok_or(RemoteFault::NotNamed)?;
        let address = remote.address().to_owned();
        if resolved.pipeline.store.mode == RemoteMode::ReadOnly {
            return Err(RemoteFault::ReadOnly { address }.into());
        }
        let store = Store::open_read_only(&self.target.store(&resolved))?;
        let Some(store) = &store else { return print("nothing to send: nothing was run yet\n") };
        let mut survey = Survey::take(&resolved, Some(store), Default::default(), &Default::default())?;
        let results: Vec<_> =
            survey.examined.iter().map(|examined| examined.as_ref()?.state.result().cloned()).collect();
        super::run::catch_interrupts();
        survey.planner.share(Some(Shared { remote: &remote, progress: &*progress, interrupt: &INTERRUPT }));
        let mut complete = true;
        for (index, stage) in resolved.stages.iter().enumerate() {
            let reads_known = stage.upstream.iter().all(|above| results[above.stage].is_some());
            if let Some(examined) = survey.examined[index].as_ref().filter(|_| reads_known) {
                let offered = survey.planner.offer(index, &examined.preimage.key(), &results);
                complete &= offered.map_err(|error| Failure::plan(&stage.name, error))?;
            }
        }
        say_notices(store);
        remote.notices().iter().for_each(|notice| eprintln!("note: {}", text::safe(notice)));
        let sent = survey.planner.sent();
        print(&match sent.results {
            0 if complete => format!("everything is in {address} already\n"),
            count => format!("sent {}, {}\n", text::units(count, "results"), text::size(sent.bytes)),
        })?;
        if complete { Ok(()) } else { Err(RemoteFault::Unfinished { address }.into()) }
    }
}
