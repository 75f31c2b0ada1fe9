//! The weights that a training starts from when they are not the model's: found by run or by file, known by what is in them.

use super::{PlanError, Planner, StageResult, model};
use crate::{pipeline::Resolved, run::Journal};
use sd3pipe_cache::{Digest, Fingerprint, Run, Store};
use sd3pipe_stages::{
    action::Entry,
    checkpoint::{CheckpointError, Component, ComponentSource, MmditGeometry},
    facts::{Facts, Located, component_fingerprints},
    stage::{Kind, Stage},
    train::init::Init,
};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where a training starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// The weights.
    pub located: Located,
    /// The object that they are, when a run made them.
    made: Option<Made>,
    /// What a person calls them: `epoch 8 of train in run 12 (lighthouses)`.
    pub origin: String,
}

/// An object that another run made.
#[derive(Clone, Debug)]
struct Made {
    digest: Digest,
    id: u64,
    stage: String,
}

/// Why there are no weights to start from.
#[derive(Debug, Error)]
pub enum StartError {
    /// Nothing was ever run here.
    #[error("`init`: there is no store yet, and so no run `{run}`; run the pipeline that trains it first")]
    NoStore {
        /// What the pipeline names.
        run: String,
    },
    /// No such run, or it has trained nothing.
    #[error("`init`: there is no run `{run}` in this store that has trained; `sd3pipe runs` lists them")]
    NoRun {
        /// What the pipeline names.
        run: String,
    },
    /// Each run would start from the one before it.
    #[error(
        "`init`: `{run}` is this pipeline, whose last run is another one each time; give the run by its number, run: \"{id}\""
    )]
    Itself {
        /// What the pipeline names.
        run: String,
        /// The number that it has now, or an example.
        id: u64,
    },
    /// It can't be told which training is meant.
    #[error("`init`: run {id} trained in the stages {stages}; say which, stage: \"…\"")]
    Stage {
        /// The run's number.
        id: u64,
        /// Its trainings.
        stages: String,
    },
    /// The training has no such epoch.
    #[error("`init`: there is no epoch {epoch} of {stage} in run {id}; it has 1 to {last}")]
    NoEpoch {
        /// What the pipeline names.
        epoch: u32,
        /// The training.
        stage: String,
        /// The run's number.
        id: u64,
        /// Its last epoch.
        last: u32,
    },
    /// Lost, damaged or cleared away.
    #[error(
        "`init`: the weights of {stage} in run {id} are not in the store any more; make them again with `sd3pipe run … --force {stage}`"
    )]
    Gone {
        /// The training.
        stage: String,
        /// The run's number.
        id: u64,
    },
    /// Weights of another size than the model's.
    #[error("`init`: {path} is of another size than the pipeline's model; start from a checkpoint of the same model")]
    OtherNetwork {
        /// The file.
        path: String,
    },
}

impl Planner<'_> {
    /// Where a training starts, if not from the model; it is looked for once.
    pub fn start(&self, index: usize) -> Result<Option<Start>, PlanError> {
        let Stage::Train(train) = &self.resolved.stages[index].stage else { return Ok(None) };
        if let Some(start) = self.starts.borrow().get(&index) {
            return Ok(start.clone());
        }
        let start = find(&train.init, self.resolved, &self.facts()?.geometry, self.store)?;
        self.starts.borrow_mut().insert(index, start.clone());
        Ok(start)
    }

    /// The model as a stage sees it: a training that starts elsewhere has those weights in the MMDiT's place.
    pub(super) fn facts_of(&self, index: usize) -> Result<Facts, PlanError> {
        let mut facts = self.facts()?.clone();
        if let Some(start) = self.start(index)? {
            facts.components.insert(Component::Mmdit, start.located);
        }
        Ok(facts)
    }

    /// The files of the model, and of the weights that trainings start from, as they were when they were looked at.
    pub fn weight_files(&self) -> Vec<(PathBuf, Fingerprint)> {
        let mut files: Vec<_> =
            self.facts.get().into_iter().flat_map(Facts::files).map(|(path, file)| (path.to_owned(), *file)).collect();
        files.extend(self.starts.borrow().values().flatten().flat_map(|start| start.located.files.clone()));
        files
    }

    /// Whether the weights that trainings start from, looked at once more, are what they were by content.
    pub(super) fn starts_are_equal(&self) -> Result<bool, PlanError> {
        for start in self.starts.borrow().values().flatten() {
            let now = locate(&start.located.path, &self.facts()?.geometry, self.store)?;
            if now.digest != start.located.digest {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Finds the weights that `init` names; nothing when they are the model's.
fn find(
    init: &Init,
    resolved: &Resolved,
    geometry: &MmditGeometry,
    store: Option<&Store>,
) -> Result<Option<Start>, PlanError> {
    Ok(match init {
        Init::Model => None,
        Init::File(path) => {
            let origin = path.display().to_string();
            Some(Start { located: locate(path, geometry, store)?, made: None, origin })
        }
        Init::Run { run, epoch, stage } => {
            let store = store.ok_or_else(|| StartError::NoStore { run: run.clone() })?;
            let found = find_run(run, &resolved.pipeline.name, store)?;
            Some(of_run(&found, *epoch, stage.as_deref(), geometry, store)?)
        }
    })
}

/// The weights in a file or folder, which must be a network of this geometry.
fn locate(path: &Path, geometry: &MmditGeometry, store: Option<&Store>) -> Result<Located, PlanError> {
    let files = component_fingerprints(path, Component::Mmdit)?;
    let source = ComponentSource::open(path, Component::Mmdit)?;
    let of_source = MmditGeometry::of(|name: &str| source.shape(name).map(<[usize]>::to_vec))
        .map_err(|source| CheckpointError::Geometry { path: path.into(), component: Component::Mmdit, source })?;
    if of_source != *geometry {
        return Err(StartError::OtherNetwork { path: path.display().to_string() }.into());
    }
    let digest = model::component_digest(path, &files, &source, store)?;
    Ok(Located { path: path.to_owned(), digest, files })
}

/// The trainings of a run that came to an end: each stage's name and result.
fn trainings(run: &Run) -> Vec<(String, StageResult)> {
    let journal: Journal = serde_json::from_value(run.document.clone()).unwrap_or_default();
    let trained = journal.stages.into_iter().filter(|stage| stage.kind == Kind::Train.to_string());
    trained.filter_map(|stage| Some((stage.name, StageResult::stored(stage.result?)))).collect()
}

/// By its number, by its pipeline's name, or as the last one. A pipeline's own last run would be another one after each run.
fn find_run(name: &str, own: &str, store: &Store) -> Result<Run, PlanError> {
    let none = || StartError::NoRun { run: name.to_owned() };
    let trained = |run: &Run| !trainings(run).is_empty();
    if let Ok(id) = name.trim_start_matches('#').parse() {
        return Ok(store.run(id)?.filter(trained).ok_or_else(none)?);
    }
    let mut runs = store.runs(usize::MAX)?.into_iter().filter(trained);
    if name == own {
        let id = runs.find(|run| run.pipeline == own).map_or(1, |run| run.id);
        return Err(StartError::Itself { run: name.to_owned(), id }.into());
    }
    let is_named = |run: &Run| run.pipeline == name || (name == "last" && run.pipeline != own);
    Ok(runs.find(is_named).ok_or_else(none)?)
}

fn of_run(
    run: &Run,
    epoch: Option<u32>,
    stage: Option<&str>,
    geometry: &MmditGeometry,
    store: &Store,
) -> Result<Start, PlanError> {
    let id = run.id;
    let trainings = trainings(run);
    let mut chosen = trainings.iter().filter(|(name, _)| stage.is_none_or(|stage| stage == name));
    let (Some((stage, result)), None) = (chosen.next(), chosen.next()) else {
        let stages: Vec<_> = trainings.iter().map(|(name, _)| name.as_str()).collect();
        return Err(StartError::Stage { id, stages: stages.join(", ") }.into());
    };
    let of = |digest| Made { digest, id, stage: stage.clone() };
    let artifact = result.artifact(Some(store)).map_err(|error| of(result.digest).or_gone(error))?;
    let epoch_of = |entry: &Entry| entry.item.parse::<u32>().unwrap_or_default();
    let last = artifact.of("weights").map(epoch_of).max().unwrap_or_default();
    let epoch = epoch.unwrap_or(last);
    let weights = artifact.of("weights").find(|entry| epoch_of(entry) == epoch);
    let weights = weights.ok_or_else(|| StartError::NoEpoch { epoch, stage: stage.clone(), id, last })?;
    let made = of(weights.digest);
    if !store.has(&weights.digest, weights.length) {
        return Err(made.gone().into());
    }
    let located = locate(&store.object_path(&weights.digest), geometry, Some(store))?;
    let origin = format!("epoch {epoch} of {stage} in run {id} ({})", run.pipeline);
    Ok(Start { located, made: Some(made), origin })
}

impl Start {
    /// Makes sure, before a training, that the weights are what their run made. A plan that trains nothing does without.
    pub(super) fn verify(&self, store: Option<&Store>) -> Result<(), PlanError> {
        if let (Some(made), Some(store)) = (&self.made, store) {
            store.file(&made.digest).map_err(|error| made.or_gone(error.into()))?;
        }
        Ok(())
    }
}

impl Made {
    fn gone(&self) -> StartError {
        StartError::Gone { stage: self.stage.clone(), id: self.id }
    }

    /// A lost object of another run can't be healed by making it again, as those of this pipeline are.
    fn or_gone(&self, error: PlanError) -> PlanError {
        if error.lost_object().is_some() { self.gone().into() } else { error }
    }
}
