//! What the points of a grid have come to, side by side.

use super::{Journal, deliver};
use crate::{
    pipeline::{Resolved, ResolvedStage, is_at},
    plan::{EpochLosses, PlanError, Planner},
};
use sd3pipe_cache::Store;
use sd3pipe_stages::stage::Kind;
use serde::Serialize;
use std::{collections::BTreeSet, path::PathBuf};

/// A grid after a run.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The pipeline's name.
    pub pipeline: String,
    /// Its points in the order of the grid.
    pub points: Vec<Compared>,
}

/// A point of a grid.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Its name: `learning_rate=1e-4,seed=1`.
    pub point: String,
    /// The folder of its results, if it has any, from that of the pipeline file.
    pub folder: Option<PathBuf>,
    /// The training, which several points may share.
    pub training: String,
    /// The stages that drew with it.
    pub samples: Vec<String>,
    /// What it has measured.
    pub epochs: Vec<EpochLosses>,
}

impl Comparison {
    /// Of what a run has come to; nothing for a pipeline without a grid, or when no training was come to.
    ///
    /// # Errors
    /// When the store has lost what was measured.
    pub fn of(resolved: &Resolved, journal: &Journal, store: &Store) -> Result<Option<Self>, PlanError> {
        let planner = Planner::new(resolved, None, BTreeSet::new(), Default::default());
        let pointed = |index: usize| resolved.stages[index].base_and_point().1;
        let all: Vec<&str> = (0..resolved.stages.len()).filter_map(pointed).collect();
        // Those that choose a value for each field; others are parts of them.
        let is_whole = |point: &str| !all.iter().any(|other| *other != point && is_at(other, point));
        let mut points: Vec<Compared> = Vec::new();
        for (index, stage) in resolved.stages.iter().enumerate() {
            let Some(point) = pointed(index).filter(|point| is_whole(point)) else { continue };
            let folder = matches!(stage.stage.kind(), Kind::Export | Kind::Sample)
                .then(|| resolved.results.join(point))
                .map(|folder| folder.strip_prefix(&resolved.folder).map_or(folder.clone(), ToOwned::to_owned));
            if let Some(known) = points.iter_mut().find(|known| known.point == point) {
                known.folder = known.folder.take().or(folder);
                continue;
            }
            let trainings = planner.ancestors(index).into_iter().map(|above| &resolved.stages[above]);
            let training = trainings.rev().find(|above| above.stage.kind() == Kind::Train);
            let done = training.and_then(|training| journal.stages.iter().find(|entry| entry.name == training.name));
            if let Some((entry, result)) = done.and_then(|entry| Some((entry, entry.result?))) {
                let epochs = EpochLosses::of(result, store)?;
                let drew = |stage: &&ResolvedStage| {
                    let at = stage.base_and_point().1;
                    stage.stage.kind() == Kind::Sample && at.is_some_and(|at| is_at(point, at))
                };
                let samples = resolved.stages.iter().filter(drew).map(|stage| stage.name.clone()).collect();
                points.push(Compared {
                    point: point.to_owned(),
                    folder,
                    training: entry.name.clone(),
                    samples,
                    epochs,
                });
            }
        }
        let pipeline = resolved.pipeline.name.clone();
        Ok((!points.is_empty()).then_some(Self { pipeline, points }))
    }

    /// Writes it as JSON to `out/`, and gives the file.
    ///
    /// # Errors
    /// A folder that can't be written.
    pub fn write(&self, resolved: &Resolved) -> Result<PathBuf, PlanError> {
        let path = resolved.results.join("comparison.json");
        deliver::put(&path, &serde_json::to_vec_pretty(self)?)
            .map_err(|source| PlanError::Deliver { path: path.clone(), source })?;
        Ok(path)
    }

    /// The point, and the epoch of it, with the lowest held-out loss of all; nothing without validation.
    pub fn best(&self) -> Option<(&Compared, u32)> {
        let best = self.points.iter().filter_map(|point| Some((point, EpochLosses::best(&point.epochs)?)));
        let best = best.reduce(|best, next| if next.1.1 < best.1.1 { next } else { best });
        best.map(|(point, (epoch, _))| (point, epoch))
    }
}
