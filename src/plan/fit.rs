//! Whether a stage and the model fit together.

use super::{PlanError, Planner};
use crate::pipeline::ResolvedStage;
use sd3pipe_stages::{error::StageError, facts::TEXT_ENCODERS, sample::parameters::Sample, stage::Stage};

impl Planner<'_> {
    /// What can be told to be wrong with a stage and the model together before anything runs: better before a training than after.
    pub fn check(&self, index: usize) -> Result<(), PlanError> {
        let stage = &self.resolved.stages[index];
        self.start(index)?;
        self.check_size(stage)?;
        self.check_skipped(stage)?;
        self.check_text_encoders(stage)?;
        if let Stage::Train(parameters) = &stage.stage {
            let facts = self.facts()?;
            parameters.check_model(&facts.geometry, &facts.clips)?;
        }
        Ok(())
    }

    /// Samples must fit the model's table of positions.
    fn check_size(&self, stage: &ResolvedStage) -> Result<(), PlanError> {
        let Stage::Sample(Sample { size: (width, height), .. }) = &stage.stage else { return Ok(()) };
        let fits = self.facts()?.geometry.check_latents(*height as usize / 8, *width as usize / 8);
        fits.map_err(|error| StageError::Unfit(format!("samples of {width} × {height}: {error}; change `size`")).into())
    }

    /// Blocks that are left out must be there.
    fn check_skipped(&self, stage: &ResolvedStage) -> Result<(), PlanError> {
        let Stage::Sample(Sample { skip_layers: Some(skip), .. }) = &stage.stage else { return Ok(()) };
        let depth = self.facts()?.geometry.depth;
        let Some(beyond) = skip.layers.iter().find(|layer| **layer as usize >= depth) else { return Ok(()) };
        let message = format!("`skip_layers`: there is no block {beyond}; the model has 0 to {}", depth - 1);
        Err(StageError::Unfit(message).into())
    }

    /// One or two encoders may be missing; with none the model would be trained and asked with zeros for every text.
    fn check_text_encoders(&self, stage: &ResolvedStage) -> Result<(), PlanError> {
        if !matches!(stage.stage, Stage::EncodeText(_) | Stage::Sample(_)) {
            return Ok(());
        }
        let components = &self.facts()?.components;
        if TEXT_ENCODERS.iter().any(|encoder| components.contains_key(encoder)) {
            return Ok(());
        }
        let checkpoint = self.resolved.pipeline.model.checkpoint.display();
        let message = format!(
            "{checkpoint} has no text encoders inside; name them: model: (…, clip_l: \"…\", clip_g: \"…\", t5xxl: \"…\")"
        );
        Err(StageError::Unfit(message).into())
    }
}
