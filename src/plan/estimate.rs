//! What a run costs, told before it begins: the bytes that it writes, the memory that it needs, the time that it takes.

use super::{Examined, PlanError, Planner, StageResult, State, target};
use sd3pipe_cache::{Digest, Output};
use sd3pipe_stages::{device::DeviceKind, job::Job, train::TrainJob};
use serde::Serialize;
use std::{collections::HashSet, fmt, path::PathBuf};

/// What a run would cost.
#[derive(Debug, Default)]
pub struct Estimate {
    /// Stage by stage; none for those that are not looked at.
    pub stages: Vec<Option<Cost>>,
}

/// What one stage costs.
#[derive(Debug, Default)]
pub struct Cost {
    /// What there will be to do once the stages are done that it waits on, if nothing of what they make is known.
    pub projected: Option<State>,
    /// Bytes of new objects. Exact, but for PNGs, losses and the files of diffusers folders, of which they are upper bounds.
    pub store: u64,
    /// How many objects.
    pub objects: u64,
    /// Bytes that the store holds beside these while the stage runs.
    pub passing: u64,
    /// Bytes of new files in `out/`, as if they were copied.
    pub out: u64,
    /// Bytes of older files that these take the place of.
    pub replaced: u64,
    /// How many actions will be carried out.
    pub actions: usize,
    /// Bytes that they need on the device at the worst moment, about; none when that is nothing to speak of.
    pub memory: Option<u64>,
}

/// Bytes, by where they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// To the store.
    pub store: u64,
    /// To `out/`.
    pub out: u64,
}

impl Estimate {
    /// The bytes that all stages write.
    pub fn bytes(&self) -> Bytes {
        let sum = |of: fn(&Cost) -> u64| self.stages.iter().flatten().map(of).sum();
        Bytes { store: sum(|cost| cost.store), out: sum(|cost| cost.out) }
    }

    /// The most memory that one of the stages needs.
    pub fn memory(&self) -> Option<u64> {
        self.stages.iter().flatten().filter_map(|cost| cost.memory).max()
    }

    /// The bytes by which store and `out/` will have grown at the worst moment: objects fill whole blocks, and the index and its
    /// journal need some room too.
    pub fn growth(&self) -> Bytes {
        const BLOCK: u64 = 4096;
        const INDEX: u64 = 16 << 20;
        let costs = || self.stages.iter().flatten();
        let Bytes { store, out } = self.bytes();
        if store + out == 0 {
            return Bytes::default();
        }
        let objects: u64 = costs().map(|cost| cost.objects).sum();
        let passing = costs().map(|cost| cost.passing).max().unwrap_or_default();
        let replaced = costs().map(|cost| cost.replaced).sum();
        Bytes { store: store + objects * BLOCK + passing + INDEX, out: out.saturating_sub(replaced) }
    }
}

impl Planner<'_> {
    /// Examines stages in order, and puts down the results that are known; a stage that reads from one that must run first waits.
    ///
    /// # Errors
    /// The first stage that can't be examined, and why.
    pub fn survey(
        &mut self,
        wanted: impl IntoIterator<Item = usize>,
        results: &mut [Option<StageResult>],
    ) -> Result<Vec<Option<Examined>>, (usize, Box<PlanError>)> {
        let mut examined: Vec<Option<Examined>> = results.iter().map(|_| None).collect();
        for index in wanted {
            let found = self.examine(index, results).map_err(|error| (index, Box::new(error)))?;
            results[index] = found.state.result().cloned();
            examined[index] = Some(found);
        }
        Ok(examined)
    }

    /// What it costs to do what a survey found missing. Stages that wait are examined with stand-ins for what they will read, so
    /// that what is kept of theirs is not counted: the first epochs of a training that is made longer, say.
    ///
    /// # Errors
    /// The first stage of which it can't be told, and why.
    pub fn estimate(&mut self, examined: &[Option<Examined>]) -> Result<Estimate, (usize, Box<PlanError>)> {
        let mut results = vec![None; examined.len()];
        let mut written = HashSet::new();
        let mut estimate = Estimate::default();
        for (index, found) in examined.iter().enumerate() {
            let cost = match found {
                Some(found) => self.cost(index, found, &mut results, &mut written).map(Some),
                None => Ok(None),
            };
            estimate.stages.push(cost.map_err(|error| (index, Box::new(error)))?);
        }
        Ok(estimate)
    }

    fn cost(
        &mut self,
        index: usize,
        found: &Examined,
        results: &mut [Option<StageResult>],
        written: &mut HashSet<Digest>,
    ) -> Result<Cost, PlanError> {
        let projected = match found.state {
            State::Waiting { .. } => Some(self.examine(index, results)?.state),
            _ => None,
        };
        if let State::Run { missing, .. } = projected.as_ref().unwrap_or(&found.state) {
            written.reserve(missing.len());
        }
        let mut cost = Cost::default();
        let mut count = |digest: Digest, length: u64| {
            if written.insert(digest) && !self.store.is_some_and(|store| store.has(&digest, length)) {
                cost.store += length;
                cost.objects += 1;
            }
        };
        match projected.as_ref().unwrap_or(&found.state) {
            State::Kept { result } => results[index] = Some(result.clone()),
            State::Waiting { .. } => {}
            State::Assembled { result, .. } => {
                count(result.digest, result.bytes(self.store)?.len() as u64);
                let data = self.all_data().find(|(of, _)| *of == index);
                if let Some(memo) = data.and_then(|(_, data)| data.memo()) {
                    count(Digest::of(memo), memo.len() as u64);
                }
                results[index] = Some(result.clone());
            }
            State::Run { job, missing } => {
                let mut outputs = match missing.len() == job.actions().len() {
                    true => vec![Vec::new(); missing.len()],
                    false => self.outputs(job)?.into_iter().map(Option::unwrap_or_default).collect(),
                };
                let forecast = job.forecast(missing, &outputs)?;
                let prompts = self.prompts(job, missing)?;
                forecast
                    .outputs
                    .iter()
                    .flatten()
                    .chain(&prompts)
                    .for_each(|output| count(output.digest, output.length));
                // Moved and not copied, and dropped as soon as may be: there may be a million.
                for (&action, outputs_of_action) in missing.iter().zip(forecast.outputs) {
                    outputs[action] = outputs_of_action;
                }
                let artifact = job.artifact(&outputs);
                let targets = target::targets(self.resolved, index, &artifact);
                // By path: files of what is made may be the same as some of what is kept.
                let mut fresh = HashSet::new();
                if !targets.is_empty() {
                    let mut made = vec![Vec::new(); outputs.len()];
                    missing.iter().for_each(|&action| made[action] = std::mem::take(&mut outputs[action]));
                    let targets = target::targets(self.resolved, index, &job.artifact(&made));
                    fresh = targets.into_iter().map(|target| target.path).collect::<HashSet<PathBuf>>();
                }
                drop(outputs);
                let result = StageResult::foreseen(artifact.to_bytes()?);
                drop(artifact);
                count(result.digest, result.bytes(None)?.len() as u64);
                for target in targets {
                    let older = std::fs::metadata(&target.path).map(|metadata| metadata.len()).ok();
                    // What is kept lies there already, unless somebody took it away.
                    if fresh.contains(&target.path) || older != Some(target.length) {
                        cost.out += target.length;
                        cost.replaced += older.unwrap_or_default();
                    }
                }
                if let Job::Train(train) = &**job {
                    cost.out += curves(train);
                }
                (cost.passing, cost.actions) = (forecast.passing, missing.len());
                let pipeline = &self.resolved.pipeline;
                let (devices, on_cpu) = (pipeline.places().len(), pipeline.device_kind() == DeviceKind::Cpu);
                // Workers on the CPU are all in the same memory.
                let together = if on_cpu { devices as u64 } else { 1 };
                cost.memory = job.peak_memory(devices)?.map(|each| each * together);
                results[index] = Some(result);
            }
        }
        cost.projected = projected;
        Ok(cost)
    }

    /// The encodings that drawing makes of its prompts, if it draws and the store does not have them.
    fn prompts(&self, job: &Job, missing: &[usize]) -> Result<Vec<Output>, PlanError> {
        let Job::Sample(sample) = job else { return Ok(Vec::new()) };
        if missing.iter().all(|index| *index == sample.sheet()) {
            return Ok(Vec::new());
        }
        let texts = Job::Text(sample.texts()?);
        let known = self.outputs(&texts)?;
        let missing: Vec<usize> = (0..known.len()).filter(|index| known[*index].is_none()).collect();
        Ok(texts.forecast(&missing, &[])?.outputs.concat())
    }
}

/// Bytes that a point of a training's curves takes in `out/` at most, as an event and as a line of JSON.
const POINT: u64 = 200;

/// Bytes of a training's curves at most.
fn curves(job: &TrainJob) -> u64 {
    let losses = job.parameters.validation.as_ref().map_or(0, |validation| 2 + validation.timesteps.len());
    let sets = 1 + usize::from(job.parameters.average.is_some());
    (3 * job.total_steps() + (job.validated.len() * sets * losses) as u64) * POINT
}

/// A number of bytes as people read it: `66 GiB`, `9.8 GiB`, `512 B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let (mut value, mut unit) = (self.0 as f64, "B");
        for larger in UNITS {
            // What would be written as 1024 is one of the next unit.
            if value >= 1023.5 {
                (value, unit) = (value / 1024.0, larger);
            }
        }
        let digits = usize::from(unit != "B" && value < 9.95);
        write!(formatter, "{value:.digits$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let texts =
            [0, 1023, 1024, 10_100, 1 << 20, (1 << 30) - 1, 66 << 30, u64::MAX].map(|size| Size(size).to_string());
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "9.9 KiB", "1.0 MiB", "1.0 GiB", "66 GiB", "16 EiB"]);
    }

    #[test]
    fn what_passes_and_what_is_replaced_count_for_the_worst_moment() {
        let cost =
            |store, passing, out, replaced| Some(Cost { store, objects: 1, passing, out, replaced, ..Cost::default() });
        let estimate = Estimate { stages: vec![cost(100, 50, 0, 0), None, cost(10, 70, 300, 200)] };
        assert_eq!(estimate.bytes(), Bytes { store: 110, out: 300 });
        assert_eq!(estimate.growth(), Bytes { store: 110 + 70 + 2 * 4096 + (16 << 20), out: 100 });
        assert_eq!(Estimate { stages: vec![Some(Cost::default())] }.growth(), Bytes::default());
    }
}
