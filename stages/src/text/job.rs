//! Encoding texts as keyed actions: one for each distinct text.

use crate::{
    action::{Action, Artifact},
    facts::Facts,
    text::{REVISION, parameters::EncodeText},
};
use sd3pipe_cache::{KeyError, Output, Preimage};
use std::collections::BTreeMap;

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
        let mut distinct: BTreeMap<&str, &str> = BTreeMap::new();
        distinct.insert("", "the empty prompt");
        for (text, label) in texts {
            distinct.entry(text).or_insert(label);
        }
        let encoders = facts.text_encoders();
        let mut actions = Vec::with_capacity(distinct.len());
        for (text, label) in &distinct {
            let mut preimage = Preimage::new("encode text", REVISION);
            preimage.read("text", text)?;
            preimage.read("t5_tokens", &parameters.t5_tokens)?;
            preimage.read("precision", &parameters.precision)?;
            preimage.read("device", &facts.device)?;
            preimage.read("model", &encoders)?;
            actions.push(Action::new(*label, preimage));
        }
        let texts = distinct.into_keys().map(str::to_owned).collect();
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
