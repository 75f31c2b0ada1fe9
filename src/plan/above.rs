//! What stands above a stage: the stages that it reads from, near and far, and what they say.

use super::Planner;
use sd3pipe_stages::{
    adapter::parameters::{Lora, Method},
    stage::{Kind, Stage},
    train::parameters::Train,
};
use std::collections::{BTreeMap, BTreeSet};

impl Planner<'_> {
    /// The captions stage that a stage's data comes from.
    pub fn captions_of(&self, index: usize) -> Option<usize> {
        self.ancestors(index).into_iter().find(|above| self.resolved.stages[*above].stage.kind() == Kind::Captions)
    }

    /// Every stage that a stage reads from, near and far, and the stage itself.
    pub fn ancestors(&self, index: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::from([index]);
        for upstream in &self.resolved.stages[index].upstream {
            all.extend(self.ancestors(upstream.stage));
        }
        all
    }

    /// Every stage up to some last ones, all where there are none, but those whose results are given and what only these read.
    pub fn needed<R>(&self, last: &BTreeSet<usize>, given: &BTreeMap<usize, R>) -> BTreeSet<usize> {
        let mut open: Vec<usize> =
            if last.is_empty() { (0..self.resolved.stages.len()).collect() } else { last.iter().copied().collect() };
        let mut needed = BTreeSet::new();
        while let Some(index) = open.pop() {
            if !given.contains_key(&index) && needed.insert(index) {
                open.extend(self.resolved.stages[index].upstream.iter().map(|upstream| upstream.stage));
            }
        }
        needed
    }

    /// The adapter that is trained above a stage, if one is.
    pub(super) fn adapter_of(&self, index: usize) -> Option<&Lora> {
        self.ancestors(index).into_iter().find_map(|above| match &self.resolved.stages[above].stage {
            Stage::Train(Train { method: Method::LoRA(lora), .. }) => Some(lora),
            _ => None,
        })
    }

    pub(super) fn t5_tokens_of(&self, index: usize) -> u32 {
        let tokens = |above: &usize| match &self.resolved.stages[*above].stage {
            Stage::EncodeText(text) => Some(text.t5_tokens),
            _ => None,
        };
        self.ancestors(index).iter().find_map(tokens).unwrap_or_default()
    }

    pub(super) fn resolution_of(&self, index: usize) -> (u32, u32) {
        let resolution = |above: &usize| match &self.resolved.stages[*above].stage {
            Stage::EncodeImages(images) => Some((images.resolution.width, images.resolution.height)),
            _ => None,
        };
        self.ancestors(index).iter().find_map(resolution).unwrap_or_default()
    }
}
