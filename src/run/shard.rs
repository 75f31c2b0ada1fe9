//! A share of a run: of the stages that are made item by item, the actions that fall to one of several runs on one store.

use super::{
    RunError, Runner,
    journal::{Journal, StageEntry},
};
use crate::plan::{Examined, Planner, StageResult, State};
use sd3pipe_cache::{Key, Preimage};
use sd3pipe_stages::{
    action::Action,
    error::StageError,
    share::{Sharing, share},
    work::Work,
};
use std::{collections::BTreeSet, fmt, time::Instant};

/// One of so many shares. Where an action falls follows from its key alone, whatever else there is to do: shares are about as large as
/// each other, and stay what they are as items come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Counted from 0.
    index: u32,
    count: u32,
}

impl Shard {
    /// Share `number` of `count`, counted from 1; none if there is no such share.
    pub fn new(number: u32, count: u32) -> Option<Self> {
        (1..=count).contains(&number).then(|| Self { index: number - 1, count })
    }

    /// Whether the action with this key falls to it.
    pub fn has(&self, key: &Key) -> bool {
        // A key is a digest: any of its bits are as good as drawn by lot.
        let digest = key.digest();
        let (start, _) = digest.as_bytes().split_at(8);
        let drawn = start.iter().fold(0, |drawn, byte| drawn << 8 | u64::from(*byte));
        drawn % u64::from(self.count) == u64::from(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.index + 1, self.count)
    }
}

impl Runner<'_> {
    /// Leaves those of the stages that are made item by item, if this run makes a share of them.
    pub(super) fn leave_shared(&self, wanted: &mut BTreeSet<usize>) {
        if self.options.shard.is_some() {
            wanted.retain(|index| self.resolved.stages[*index].stage.kind().is_by_item());
        }
    }

    /// Where this run makes a share: has the data read by one of the runs that begin together. The others wait for that, instead of
    /// reading every file themselves to know its digest.
    pub(super) fn read_once(&self, planner: &mut Planner<'_>, wanted: &BTreeSet<usize>) -> Result<(), RunError> {
        for &index in wanted.iter().filter(|_| self.options.shard.is_some()) {
            let stage = &self.resolved.stages[index];
            let fault = |error| RunError::of_plan(stage.name.clone(), error);
            if planner.is_read(index).map_err(fault)? {
                continue;
            }
            let mut preimage = Preimage::new("read data", 1);
            preimage.read("stage", &stage.stage).map_err(|error| fault(error.into()))?;
            let action = Action::new(&stage.name, preimage);
            let mut work = Work::new(self.store, self.progress, self.interrupt, self.resolved.pipeline.places());
            let sharing = Sharing { stage: &stage.name, chained: false, last: None, anew: true };
            let mut read = Ok(());
            let shared = share(&[action], vec![0], sharing, &mut work, &mut |_, _| {
                read = planner.is_read(index).and_then(|is_read| match is_read {
                    false if !planner.data(index)?.kept => planner.data(index)?.publish(&stage.name, self.store),
                    _ => Ok(()),
                });
                Ok(())
            });
            shared.map_err(|error| match error {
                StageError::Interrupted => RunError::Interrupted,
                error => fault(error.into()),
            })?;
            read.map_err(fault)?;
        }
        Ok(())
    }

    /// Where this run makes a share: carries out what falls to it of a stage's missing actions. Gives the stage as it is then; nothing if
    /// other shares have some of it left, which the journal then says.
    pub(super) fn make_share(
        &self,
        planner: &mut Planner<'_>,
        index: usize,
        examined: Examined,
        results: &[Option<StageResult>],
        journal: &mut Journal,
    ) -> Result<Option<Examined>, RunError> {
        let (Some(shard), State::Run { job, missing }) = (self.options.shard, &examined.state) else {
            return Ok(Some(examined));
        };
        let (start, key) = (Instant::now(), examined.preimage.key().to_string());
        let share: Vec<usize> =
            missing.iter().copied().filter(|action| shard.has(&job.actions()[*action].key)).collect();
        let executed = match share.is_empty() {
            true => Vec::new(),
            false => self.execute(planner, index, &key, job, share, false, journal)?,
        };
        planner.unforce(index);
        let stage = &self.resolved.stages[index];
        let after = planner.examine(index, results).map_err(|error| RunError::of_plan(stage.name.clone(), error))?;
        let left = match &after.state {
            State::Run { missing, .. } => Some(missing.len()),
            _ => None,
        };
        journal.add(StageEntry {
            name: stage.name.clone(),
            kind: stage.stage.kind().to_string(),
            key,
            result: None,
            executed,
            actions: left.map(|_| job.actions().len()),
            left,
            fetched: planner.came(index),
            seconds: start.elapsed().as_secs_f64(),
        });
        Ok(left.is_none().then_some(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sd3pipe_cache::Preimage;

    #[test]
    fn shares_are_counted_from_one() {
        assert_eq!(Shard::new(4, 4).unwrap().to_string(), "4/4");
        assert!([Shard::new(0, 4), Shard::new(5, 4), Shard::new(0, 0)].iter().all(Option::is_none));
    }

    #[test]
    fn every_action_falls_to_one_share_and_shares_are_about_as_large() {
        let keys: Vec<Key> = (0..10_000).map(|number| Preimage::new("encode image", number).key()).collect();
        for count in [1, 2, 3, 7, 64] {
            let shards: Vec<Shard> = (1..=count).map(|number| Shard::new(number, count).unwrap()).collect();
            let mut sizes = vec![0_u32; shards.len()];
            for key in &keys {
                let owners: Vec<usize> = (0..shards.len()).filter(|shard| shards[*shard].has(key)).collect();
                assert_eq!(owners.len(), 1);
                sizes[owners[0]] += 1;
            }
            // Six standard deviations.
            let (mean, most) = (10_000.0 / f64::from(count), 6.0 * (10_000.0 / f64::from(count)).sqrt());
            assert!(sizes.iter().all(|size| (f64::from(*size) - mean).abs() <= most), "{sizes:?}");
        }
    }
}
