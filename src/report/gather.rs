//! Collects what a page shows. What the store does not have any more is left out: a page never makes a run fail, nor train again.

use super::verdicts;
use crate::{
    pipeline::{Pipeline, options},
    plan::StageResult,
    run::{Journal, StageEntry},
};
use sd3pipe_cache::{Digest, Key, Run, Store, StoreError};
use sd3pipe_stages::{
    action::Artifact,
    captions::{Captions, Item, Items, scan},
    images::LATENTS,
    report::Verdicts,
    sample::{ShotName, parameters::Sample},
    stage::Stage,
    train::validation::{Report, VALIDATION},
};
use serde::Deserialize;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// What a page shows.
pub struct Gathered<'g> {
    /// Where objects are read from.
    pub store: &'g Store,
    /// The run.
    pub run: &'g Run,
    /// What it did.
    pub journal: Journal,
    /// By each stage's name, the newest run that made its result, and how long that took.
    pub made: HashMap<String, (u64, f64)>,
    /// The data sets.
    pub data: Vec<DataSet>,
    /// The trainings.
    pub courses: Vec<Course>,
    /// The samples.
    pub galleries: Vec<Gallery>,
}

/// What a `Captions` stage found.
pub struct DataSet {
    /// The stage's name.
    pub name: String,
    /// The pictures.
    pub items: Vec<Item>,
    /// Their ids by the size that they are trained at, in the order of sizes.
    pub buckets: Vec<((u32, u32), Vec<String>)>,
    /// Their files.
    pub files: HashMap<String, PathBuf>,
}

/// The course of a training.
pub struct Course {
    /// The stage's name.
    pub name: String,
    /// Its steps.
    pub steps: Vec<Step>,
    /// Steps that are done at the end of each epoch.
    pub epochs: Vec<u64>,
    /// What validations found.
    pub reports: Vec<Report>,
}

/// What is measured at a step.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Step {
    /// From 0 over all epochs.
    pub step: u64,
    /// The mean loss of its samples.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
}

/// What a `Sample` stage drew.
#[derive(Clone)]
pub struct Gallery {
    /// The stage's name.
    pub name: String,
    /// What was asked for.
    pub parameters: Sample,
    /// What the checkpoints are called, in the order of the sheet.
    pub rows: Vec<String>,
    /// Every image, with what its name says.
    pub shots: Vec<(ShotName, Digest)>,
    /// What is said of the checkpoints.
    pub verdicts: Option<Verdicts>,
    /// What they are found by.
    pub key: Option<Key>,
    /// The data set that they compare with.
    pub data: Option<usize>,
}

/// The bytes of an item's image file, if they are those that the items were made of.
pub fn picture(files: &HashMap<String, PathBuf>, item: &Item) -> Option<Vec<u8>> {
    let bytes = std::fs::read(files.get(&item.id)?).ok()?;
    (Digest::of(&bytes).to_string() == item.image).then_some(bytes)
}

/// So many runs are looked through for those that made what this one found.
const RUNS_BACK: usize = 200;

impl<'g> Gathered<'g> {
    /// Everything that a run's page shows. Verdicts that are not known yet are found, and kept if `keep` says so.
    ///
    /// # Errors
    /// When they can't be kept.
    pub fn of(run: &'g Run, store: &'g Store, folder: &Path, keep: bool) -> Result<Self, StoreError> {
        let journal: Journal = serde_json::from_value(run.document.clone()).unwrap_or_default();
        let pipeline: Option<Pipeline> = options().from_str(&journal.pipeline).ok();
        let made = makers(run, &journal, store);
        let mut gathered =
            Self { store, run, journal, made, data: Vec::new(), courses: Vec::new(), galleries: Vec::new() };
        let Some(pipeline) = pipeline else { return Ok(gathered) };
        for (name, stage) in &pipeline.stages {
            match stage {
                Stage::Captions(captions) => gathered.data.extend(gathered.data_set(name, captions, &pipeline, folder)),
                Stage::Train(_) => gathered.courses.extend(gathered.course(name)),
                _ => {}
            }
        }
        for (name, stage) in &pipeline.stages {
            if let Stage::Sample(parameters) = stage
                && let Some(mut gallery) = gathered.gallery(name, parameters)
            {
                verdicts::fill(&mut gallery, &gathered, &pipeline, keep)?;
                gathered.galleries.push(gallery);
            }
        }
        Ok(gathered)
    }

    /// What the run found or made of a stage.
    pub fn result(&self, name: &str) -> Option<StageResult> {
        let stage = self.journal.stages.iter().find(|stage| stage.name == name)?;
        stage.result.map(StageResult::stored)
    }

    /// The same, as a list of objects.
    pub fn artifact(&self, name: &str) -> Option<Artifact> {
        self.result(name)?.artifact(Some(self.store)).ok()
    }

    fn data_set(&self, name: &str, captions: &Captions, pipeline: &Pipeline, folder: &Path) -> Option<DataSet> {
        let items = Vec::from(self.result(name)?.items(Some(self.store)).unwrap_or_else(|_| Items::default()));
        let encodes = |(encoder, stage): (&String, &Stage)| match stage {
            Stage::EncodeImages(images) if images.captions.as_deref() == Some(name) => self.artifact(encoder),
            _ => None,
        };
        let latents = pipeline.stages.iter().find_map(encodes).unwrap_or_default();
        let mut buckets: Vec<((u32, u32), Vec<String>)> = Vec::new();
        for entry in latents.of(LATENTS) {
            let size = entry.size.unwrap_or_default();
            match buckets.iter_mut().find(|(bucket, _)| *bucket == size) {
                Some((_, ids)) => ids.push(entry.item.clone()),
                None => buckets.push((size, vec![entry.item.clone()])),
            }
        }
        buckets.sort();
        let found = scan::walk(captions, folder).map(|scan| scan.found).unwrap_or_default();
        let files = found.into_iter().map(|found| (found.id, found.image)).collect();
        Some(DataSet { name: name.to_owned(), items, buckets, files })
    }

    fn course(&self, name: &str) -> Option<Course> {
        let artifact = self.artifact(name)?;
        let mut course = Course { name: name.to_owned(), steps: Vec::new(), epochs: Vec::new(), reports: Vec::new() };
        for entry in artifact.of("losses") {
            let steps =
                self.store.read(&entry.digest).ok().and_then(|bytes| serde_json::from_slice::<Vec<Step>>(&bytes).ok());
            course.steps.extend(steps.unwrap_or_default());
            course.epochs.push(course.steps.last().map_or(0, |step| step.step + 1));
        }
        let reports = artifact.of(VALIDATION).filter_map(|entry| self.store.read(&entry.digest).ok());
        course.reports = reports.filter_map(|bytes| Report::from_bytes(&bytes).ok()).collect();
        Some(course)
    }

    fn gallery(&self, name: &str, parameters: &Sample) -> Option<Gallery> {
        let artifact = self.artifact(name)?;
        let shots: Vec<_> =
            artifact.of("image").filter_map(|entry| Some((ShotName::parse(&entry.item)?, entry.digest))).collect();
        let mut rows: Vec<String> = Vec::new();
        for (shot, _) in &shots {
            if !rows.contains(&shot.row) {
                rows.push(shot.row.clone());
            }
        }
        let (name, parameters) = (name.to_owned(), parameters.clone());
        Some(Gallery { name, parameters, rows, shots, verdicts: None, key: None, data: None })
    }
}

/// By each stage of a run, the newest run that carried out actions for the same key, and how long it took.
fn makers(run: &Run, journal: &Journal, store: &Store) -> HashMap<String, (u64, f64)> {
    let made = |stage: &&StageEntry| !stage.executed.is_empty() && stage.result.is_some();
    let own = journal.stages.iter().filter(made).map(|stage| (stage.name.clone(), (run.id, stage.seconds)));
    let mut makers: HashMap<String, (u64, f64)> = own.collect();
    if journal.stages.iter().all(|stage| makers.contains_key(&stage.name)) {
        return makers;
    }
    for run in store.runs(RUNS_BACK).unwrap_or_default() {
        let Ok(earlier) = serde_json::from_value::<Journal>(run.document) else { continue };
        for stage in earlier.stages.iter().filter(made) {
            for own in journal.stages.iter().filter(|own| own.key == stage.key) {
                makers.entry(own.name.clone()).or_insert((run.id, stage.seconds));
            }
        }
    }
    makers
}
