//! The data report of a captions stage, with the lengths of its texts in tokens.

use super::{PlanError, Planner};
use crate::pipeline::ResolvedStage;
use sd3pipe_stages::{
    captions::report::{DataReport, TokenCount},
    stage::Stage,
    text::tokenizer::{ClipPad, ClipTokenizer, T5Tokenizer, TokenizerError},
};

impl Planner<'_> {
    /// What is worth saying of a captions stage's data, if it was made anew: with the lengths of its texts in tokens, when a stage
    /// encodes them.
    pub fn data_report(&mut self, index: usize) -> Result<Option<DataReport>, PlanError> {
        let encodes = |stage: &&ResolvedStage| stage.upstream.iter().any(|upstream| upstream.stage == index);
        let limit = self.resolved.stages.iter().filter(encodes).find_map(|stage| match &stage.stage {
            Stage::EncodeText(text) => Some(text.t5_tokens),
            _ => None,
        });
        let Some(mut report) = self.data(index)?.report.clone() else { return Ok(None) };
        if let Some(limit) = limit {
            let result = self.data(index)?.result.clone();
            let items = result.items(self.store)?;
            let model = &self.resolved.pipeline.model;
            let clip = match model.clip_tokenizer() {
                Some(path) => ClipTokenizer::open(&path)?,
                None => ClipTokenizer::built_in(),
            };
            let t5 = model.t5_tokenizer().map(|path| T5Tokenizer::open(&path)).transpose()?;
            let mut fault = None;
            report.count_tokens(&items, limit as usize, |text| {
                count_tokens(text, limit, &clip, t5.as_ref()).unwrap_or_else(|error| {
                    fault.get_or_insert(error);
                    TokenCount::default()
                })
            });
            if let Some(error) = fault {
                return Err(error.into());
            }
        }
        Ok(Some(report))
    }
}

fn count_tokens(
    text: &str,
    limit: u32,
    clip: &ClipTokenizer,
    t5: Option<&T5Tokenizer>,
) -> Result<TokenCount, TokenizerError> {
    let clip = clip.encode(text, ClipPad::Zero)?.length_before_truncation;
    let t5 = t5.map(|t5| t5.encode(text, limit as usize)).transpose()?;
    let (t5, unknown_t5) = t5.map_or((0, 0), |tokens| (tokens.length_before_truncation, tokens.unknown));
    Ok(TokenCount { clip, t5, unknown_t5 })
}
