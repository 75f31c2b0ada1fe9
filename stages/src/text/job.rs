//! Encoding texts as keyed actions: one for each distinct text.

use crate::{
    action::{Action, Artifact},
    facts::Facts,
    text::{REVISION, parameters::EncodeText},
};
use sd3pipe_cache::{Common, KeyError, Output, Preimage};
use std::sync::Arc;

/// All texts that a pipeline's items have, and the empty one.
#[derive(Clone, Debug)]
pub struct TextJob {
    /// How to encode.
    pub parameters: EncodeText,
    /// The model.
    pub facts: Facts,
    /// The texts, sorted.
    pub texts: Vec<String>,
    /// One for each text.
    pub actions: Vec<Action>,
}

impl TextJob {
    /// The distinct ones of `texts`, which come with what a person calls them, and the empty prompt.
    pub fn new<'t>(
        parameters: &EncodeText,
        facts: &Facts,
        texts: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) -> Result<Self, KeyError> {
        // Of equal texts the first one's label; sorted in place, as a map of a million texts is a jump through memory for each of its levels.
        let mut distinct: Vec<(&str, &str)> = [("", "the empty prompt")].into_iter().chain(texts).collect();
        distinct.sort_by_key(|(text, _)| *text);
        distinct.dedup_by_key(|(text, _)| *text);
        let mut common = Preimage::new("encode text", REVISION);
        common.read("t5_tokens", &parameters.t5_tokens)?;
        common.read("precision", &parameters.precision)?;
        common.read("device", &facts.device)?;
        common.read("model", &facts.text_encoders())?;
        let common = Arc::new(Common::new(common));
        let action = |(text, label): &(&str, &str)| {
            let mut own = common.own();
            own.read("text", text)?;
            Action::among(*label, &common, &own)
        };
        let actions = distinct.iter().map(action).collect::<Result<_, _>>()?;
        let texts = distinct.into_iter().map(|(text, _)| text.to_owned()).collect();
        Ok(Self { parameters: parameters.clone(), facts: facts.clone(), texts, actions })
    }

    /// What the stage made, from what each action made.
    pub fn artifact(&self, outputs: &[Vec<Output>]) -> Artifact {
        let mut artifact = Artifact::default();
        for (text, outputs) in self.texts.iter().zip(outputs) {
            artifact.extend(outputs, &[]);
            // Equal texts of two pipelines share a record; here the text itself is the item.
            if let Some(entry) = artifact.entries.last_mut() {
                entry.item.clone_from(text);
            }
        }
        artifact
    }
}
