//! A training in parts, with samples in between.

use super::{RunError, Runner, journal::Journal};
use crate::plan::{Examined, PlanError, Planner, StageResult, State};
use sd3pipe_stages::{error::StageError, job::Job, stage::Kind};
use std::{collections::BTreeSet, time::Instant};

impl Runner<'_> {
    /// Where samples are asked for while a training goes on: trains up to each of those epochs, and exports and draws what there is. Gives
    /// what is left of the training.
    pub(super) fn train_in_parts(
        &self,
        planner: &mut Planner<'_>,
        index: usize,
        mut examined: Examined,
        results: &[Option<StageResult>],
        wanted: &BTreeSet<usize>,
        journal: &mut Journal,
    ) -> Result<Examined, RunError> {
        let Some(every) = self.options.sample_every.filter(|every| *every > 0 && !planner.is_forced(index)) else {
            return Ok(examined);
        };
        let plan = |error| RunError::of_plan(self.resolved.stages[index].name.clone(), error);
        for end in (1..).map(|part| part * every) {
            let State::Run { job, missing } = &examined.state else { break };
            let Job::Train(train) = &**job else { break };
            if end >= train.epochs() {
                break;
            }
            let part: Vec<usize> = missing.iter().copied().filter(|action| train.epoch_of(*action) < end).collect();
            if part.is_empty() {
                continue;
            }
            let (start, key) = (Instant::now(), examined.preimage.key().to_string());
            let executed = self.execute(planner, index, &key, job, part, true, journal)?;
            self.note_unfinished(journal, index, &key, executed, start);
            let outputs: Vec<_> = planner.outputs(job).map_err(plan)?.into_iter().flatten().collect();
            let so_far = job.artifact(&outputs).to_bytes().map_err(|error| plan(error.into()))?;
            let mut foreseen = results.to_vec();
            foreseen[index] = Some(StageResult::in_memory(so_far));
            self.draw(planner, index, &mut foreseen, wanted, journal)?;
            examined = planner.examine(index, results).map_err(plan)?;
        }
        Ok(examined)
    }

    /// Exports what a training has made so far, and draws its samples: as after a training of so many epochs.
    fn draw(
        &self,
        planner: &mut Planner<'_>,
        training: usize,
        results: &mut [Option<StageResult>],
        wanted: &BTreeSet<usize>,
        journal: &mut Journal,
    ) -> Result<(), RunError> {
        for &index in wanted.iter().filter(|index| **index > training) {
            let stage = &self.resolved.stages[index];
            let reads = planner.ancestors(index).contains(&training);
            if !reads || !matches!(stage.stage.kind(), Kind::Export | Kind::Sample) || planner.is_forced(index) {
                continue;
            }
            let examined = match planner.examine(index, results) {
                Ok(examined) if matches!(examined.state, State::Waiting { .. }) => continue,
                // An epoch is asked for that is yet to come.
                Err(PlanError::Stage(StageError::Unfit(_))) => continue,
                examined => examined.map_err(|error| RunError::of_plan(stage.name.clone(), error))?,
            };
            let (start, key) = (Instant::now(), examined.preimage.key().to_string());
            let (result, executed, _) = self.carry_out(planner, index, examined, journal)?;
            if !executed.is_empty() {
                self.note_unfinished(journal, index, &key, executed, start);
            }
            self.deliver(planner, index, &result)?;
            results[index] = Some(result);
        }
        Ok(())
    }
}
