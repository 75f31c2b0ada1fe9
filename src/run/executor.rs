//! Carries out a plan: examine a stage, run what is missing, publish, go on to the next.

use super::{
    deliver,
    error::RunError,
    journal::{Journal, StageEntry},
    metrics::{self, Recorder},
    shard::Shard,
    space,
};
use crate::{
    pipeline::Resolved,
    plan::{Examined, PlanError, Planner, Shared, StageResult, State},
    remote::Remote,
};
use sd3pipe_cache::{Digest, Fingerprint, Key, Record, Store};
use sd3pipe_stages::{
    action::output,
    error::StageError,
    job::Job,
    stage::{Kind, Stage},
    train::{metrics::LOSSES, validation::VALIDATION},
    work::{Interrupt, Progress, Work},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Instant,
};

/// Carries out a stage's actions. The program has one, [`Networks`]; tests of the runner have one that needs no network.
pub trait Engine {
    /// Carries out the actions of a job that are missing, publishing each.
    fn run(&self, job: &Job, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError>;
}

/// The engine that runs the networks.
#[derive(Debug, Default)]
pub struct Networks;

impl Engine for Networks {
    fn run(&self, job: &Job, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
        job.run(missing, work)
    }
}

/// What may be asked of a run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The last stages to run, by index; all of them when there are none.
    pub until: BTreeSet<usize>,
    /// Results that stages have, by index: they are taken as they are, without a look at what these stages read.
    pub given: BTreeMap<usize, Digest>,
    /// Stages whose results are not put into `out/`.
    pub undelivered: BTreeSet<usize>,
    /// Stages to do anew whatever the store has.
    pub force: BTreeSet<usize>,
    /// Begins even if what will be written has no room.
    pub ignore_space: bool,
    /// Carries nothing out: brings what the remote store has, of each stage all that there is.
    pub only_fetch: bool,
    /// Exports and draws samples after every so many epochs of a training, before it goes on.
    pub sample_every: Option<usize>,
    /// Makes only this share of the stages that are made item by item, and no other stage.
    pub shard: Option<Shard>,
}

/// Objects that may be found lost in one run before it gives up: each costs a new pass.
const MOST_LOST: usize = 1000;

/// A run of one pipeline on one store.
pub struct Runner<'r> {
    /// The pipeline.
    pub resolved: &'r Resolved,
    /// The store.
    pub store: &'r Store,
    /// The remote store that it shares results through.
    pub remote: Option<&'r Remote>,
    /// What carries out the actions.
    pub engine: &'r dyn Engine,
    /// Who hears how far it is.
    pub progress: &'r dyn Progress,
    /// Whether to stop.
    pub interrupt: &'r Interrupt,
    /// What was asked.
    pub options: Options,
}

impl Runner<'_> {
    /// Runs what is missing, given the keys of the last run. The journal tells what was done, also when it ends badly.
    pub fn run(&self, previous: BTreeMap<String, Key>) -> (Journal, Result<(), RunError>) {
        let mut journal = Journal::new(self.resolved, &previous);
        let mut planner = Planner::new(self.resolved, Some(self.store), self.options.force.clone(), previous);
        let (progress, interrupt) = (self.progress, self.interrupt);
        planner.share(self.remote.map(|remote| Shared { remote, progress, interrupt }));
        let mut lost: Vec<Digest> = Vec::new();
        let mut result = loop {
            let mut results = vec![None; self.resolved.stages.len()];
            for (index, digest) in &self.options.given {
                results[*index] = Some(StageResult::stored(*digest));
            }
            let result = self.pass(&mut planner, &mut results, &mut journal);
            match result.as_ref().err().and_then(RunError::lost_object) {
                // What belongs to a given result is not made again.
                Some(digest)
                    if lost.len() < MOST_LOST && (self.options.given.is_empty() || !lost.contains(&digest)) =>
                {
                    lost.push(digest);
                    planner.refresh();
                    if let Err(error) = self.forget(digest, &results) {
                        break Err(error);
                    }
                }
                _ => break result,
            }
        };
        if result.is_ok() && journal.did_something() {
            result = self.guard(&planner);
        }
        journal.error = result.as_ref().err().map(ToString::to_string);
        (journal, result)
    }

    fn pass(
        &self,
        planner: &mut Planner<'_>,
        results: &mut [Option<StageResult>],
        journal: &mut Journal,
    ) -> Result<(), RunError> {
        let mut wanted = planner.needed(&self.options.until, &self.options.given);
        self.leave_shared(&mut wanted);
        for &index in &wanted {
            let stage = self.resolved.stages[index].name.clone();
            planner.check(index).map_err(|error| RunError::of_plan(stage, error))?;
        }
        self.read_once(planner, &wanted)?;
        let fault = |(index, error): (usize, Box<PlanError>)| {
            RunError::of_plan(self.resolved.stages[index].name.clone(), *error)
        };
        let mut surveyed = planner.survey(wanted.iter().copied(), results).map_err(fault)?;
        if !self.options.ignore_space {
            let growth = planner.estimate(&surveyed).map_err(fault)?.growth();
            space::check(growth, self.store, &self.resolved.results)?;
        }
        for &index in &wanted {
            let name = || self.resolved.stages[index].name.clone();
            let plan = |error| RunError::of_plan(name(), error);
            if self.interrupt.asked() {
                return Err(RunError::Interrupted);
            }
            let examined = match surveyed[index].take() {
                Some(examined) if !matches!(examined.state, State::Waiting { .. }) => examined,
                _ => planner.examine(index, results).map_err(plan)?,
            };
            if self.options.only_fetch && examined.state.result().is_none() {
                if let State::Run { missing, .. } = examined.state {
                    self.progress.line(&format!("{}: {} more must be made here", name(), missing.len()));
                }
                continue;
            }
            if let State::Run { job, .. } = &examined.state
                && let Job::Train(_) = **job
            {
                metrics::announce(self.resolved, self.progress);
            }
            let examined = self.train_in_parts(planner, index, examined, results, &wanted, journal)?;
            let key = examined.preimage.key();
            let Some(examined) = self.make_share(planner, index, examined, results, journal)? else {
                self.send(planner, index, &key, results)?;
                continue;
            };
            let start = Instant::now();
            let (result, executed, actions) = self.carry_out(planner, index, examined, journal)?;
            planner.unforce(index);
            let kind = self.resolved.stages[index].stage.kind();
            journal.add(StageEntry {
                name: name(),
                kind: kind.to_string(),
                key: key.to_string(),
                result: Some(result.digest),
                executed,
                actions,
                left: None,
                fetched: planner.came(index),
                seconds: start.elapsed().as_secs_f64(),
            });
            results[index] = Some(result.clone());
            if self.options.only_fetch {
                planner.fetch_all(index, results).map_err(plan)?;
            } else if !self.options.undelivered.contains(&index) {
                self.deliver(planner, index, &result)?;
            }
            self.send(planner, index, &key, results)?;
        }
        Ok(())
    }

    /// Sends what the store has of a stage to the remote one, if there is one.
    fn send(
        &self,
        planner: &mut Planner<'_>,
        index: usize,
        key: &Key,
        results: &[Option<StageResult>],
    ) -> Result<(), RunError> {
        let name = &self.resolved.stages[index].name;
        let complete = planner.offer(index, key, results).map_err(|error| RunError::of_plan(name.clone(), error))?;
        if let Some(remote) = self.remote.filter(|remote| !complete && !remote.is_gone()) {
            let address = remote.address();
            self.progress.line(&format!("{name}: not all of it is in {address} yet; the next run sends the rest"));
        }
        Ok(())
    }

    /// A stage's result, the labels of what was done for it, and how many actions it has.
    pub(super) fn carry_out(
        &self,
        planner: &mut Planner<'_>,
        index: usize,
        examined: Examined,
        journal: &mut Journal,
    ) -> Result<(StageResult, Vec<String>, Option<usize>), RunError> {
        let stage = &self.resolved.stages[index];
        let plan = |error| RunError::of_plan(stage.name.clone(), error);
        let failed = |error| RunError::Stage { stage: stage.name.clone(), error: Box::new(error) };
        match examined.state {
            State::Kept { result } => Ok((result, Vec::new(), None)),
            State::Assembled { result, actions } if matches!(stage.stage, Stage::Captions(_)) => {
                planner.data(index).and_then(|data| data.publish(&stage.name, self.store)).map_err(plan)?;
                if let Some(report) = planner.data_report(index).map_err(plan)? {
                    self.progress.line(report.to_string().trim_end());
                }
                Ok((StageResult::stored(result.digest), Vec::new(), Some(actions)))
            }
            State::Assembled { result, actions } => {
                let bytes = result.bytes(Some(self.store)).map_err(|error| failed(error.into()))?;
                self.publish(index, &examined.preimage, &bytes).map_err(failed)?;
                Ok((StageResult::stored(result.digest), Vec::new(), Some(actions)))
            }
            State::Run { job, missing } => {
                let key = examined.preimage.key().to_string();
                let executed = self.execute(planner, index, &key, &job, missing, false, journal)?;
                let outputs: Option<Vec<_>> = planner.outputs(&job).map_err(plan)?.into_iter().collect();
                let outputs = outputs
                    .ok_or_else(|| failed(StageError::Unfit("some of its actions left no record".to_owned())))?;
                let artifact = job.artifact(&outputs).to_bytes().map_err(|error| plan(error.into()))?;
                self.publish(index, &examined.preimage, &artifact).map_err(failed)?;
                Ok((StageResult::stored(Digest::of(&artifact)), executed, Some(outputs.len())))
            }
            State::Waiting { .. } => Err(failed(StageError::Unfit("it was reached before what it reads".to_owned()))),
        }
    }

    /// Has some actions of a job carried out, `continues` if others of it follow, and gives the labels of what was done.
    #[expect(clippy::too_many_arguments, reason = "what the one caller knows of the stage, and the other of its part")]
    pub(super) fn execute(
        &self,
        planner: &Planner<'_>,
        index: usize,
        key: &str,
        job: &Job,
        missing: Vec<usize>,
        continues: bool,
        journal: &mut Journal,
    ) -> Result<Vec<String>, RunError> {
        let stage = &self.resolved.stages[index];
        let start = Instant::now();
        let recorder = if let Job::Train(_) = job {
            let known = planner.outputs(job).map_err(|error| RunError::of_plan(stage.name.clone(), error))?;
            Some(Recorder::new(self.resolved, index, &known, self.store, self.progress))
        } else {
            None
        };
        let progress = recorder.as_ref().map_or(self.progress, |recorder| recorder as &dyn Progress);
        let mut work = Work::new(self.store, progress, self.interrupt, self.resolved.pipeline.places());
        work.continues = continues;
        let done = job.share(&stage.name, missing, planner.is_forced(index), &mut work, &mut |mine, work| {
            self.engine.run(job, mine, work)
        });
        // What was finished is kept even if the rest fails, and the journal says it.
        let (executed, changed) = (work.take_executed(), std::mem::take(&mut work.changed));
        let done =
            done.and_then(|()| if changed.is_empty() { Ok(()) } else { Err(StageError::Changed { paths: changed }) });
        if let Err(error) = done {
            self.note_unfinished(journal, index, key, executed, start);
            return Err(match error {
                StageError::Interrupted => RunError::Interrupted,
                StageError::Changed { paths } => RunError::Changed { paths },
                error => RunError::Stage { stage: stage.name.clone(), error: Box::new(error) },
            });
        }
        Ok(executed)
    }

    /// Puts a stage's result where people look for it.
    pub(super) fn deliver(&self, planner: &Planner<'_>, index: usize, result: &StageResult) -> Result<(), RunError> {
        let stage = &self.resolved.stages[index];
        let plan = |error| RunError::of_plan(stage.name.clone(), error);
        match stage.stage.kind() {
            // The weights are read by exports alone.
            Kind::Train => planner.land(index, result, Some(&[LOSSES, VALIDATION])).map_err(plan)?,
            Kind::Export | Kind::Sample => planner.land(index, result, None).map_err(plan)?,
            Kind::Captions | Kind::EncodeText | Kind::EncodeImages => {}
        }
        match stage.stage.kind() {
            Kind::Train => match metrics::deliver(self.resolved, index, result, self.store) {
                // Curves are made again by any run: none fails for want of room for them.
                Err(error) if error.lost_object().is_none() => metrics::say(self.progress, &error),
                done => done.map_err(plan)?,
            },
            Kind::Export | Kind::Sample => {
                let artifact = result.artifact(Some(self.store)).map_err(plan)?;
                for line in deliver::deliver(self.resolved, index, &artifact, self.store).map_err(plan)? {
                    self.progress.line(&line);
                }
            }
            Kind::Captions | Kind::EncodeText | Kind::EncodeImages => {}
        }
        Ok(())
    }

    pub(super) fn note_unfinished(
        &self,
        journal: &mut Journal,
        index: usize,
        key: &str,
        executed: Vec<String>,
        start: Instant,
    ) {
        let stage = &self.resolved.stages[index];
        let entry = StageEntry {
            name: stage.name.clone(),
            kind: stage.stage.kind().to_string(),
            key: key.to_owned(),
            result: None,
            executed,
            actions: None,
            left: None,
            fetched: 0,
            seconds: start.elapsed().as_secs_f64(),
        };
        journal.add(entry);
    }

    fn publish(&self, index: usize, preimage: &sd3pipe_cache::Preimage, artifact: &[u8]) -> Result<(), StageError> {
        let object = self.store.put(artifact)?;
        let outputs = vec![output("artifact", "", object)];
        let label = self.resolved.stages[index].name.clone();
        self.store.publish(&[Record { preimage: preimage.clone(), label, outputs, seconds: 0.0 }])?;
        Ok(())
    }

    /// Drops the records that promise a lost object, and those of the stages whose results name it, so that just that is made again.
    fn forget(&self, digest: Digest, results: &[Option<StageResult>]) -> Result<(), RunError> {
        let fault = |error| RunError::Stage {
            stage: self.resolved.pipeline.name.clone(),
            error: Box::new(StageError::Store(error)),
        };
        self.store.forget(&digest).map_err(fault)?;
        for result in results.iter().flatten() {
            let names_it = result
                .artifact(Some(self.store))
                .is_ok_and(|artifact| artifact.entries.iter().any(|entry| entry.digest == digest));
            if names_it {
                self.store.forget(&result.digest).map_err(fault)?;
            }
        }
        Ok(())
    }

    /// Looks whether the inputs are still what was read. A file that was only touched is.
    fn guard(&self, planner: &Planner<'_>) -> Result<(), RunError> {
        let changed = |(path, before): (&Path, &Fingerprint)| {
            let same = std::fs::metadata(path).is_ok_and(|now| Fingerprint::of(&now) == *before);
            (!same).then(|| path.to_owned())
        };
        let weights = planner.weight_files();
        let data = planner.all_data().flat_map(|(_, data)| data.files());
        let weights = weights.iter().map(|(path, before)| (path.as_path(), before));
        let paths: BTreeSet<PathBuf> = data.chain(weights).filter_map(changed).collect();
        if paths.is_empty() || planner.inputs_are_equal().unwrap_or(false) {
            return Ok(());
        }
        Err(RunError::Changed { paths: paths.into_iter().collect() })
    }
}
