//! What is wrong with a pipeline, where, and what to do about it.

use super::source::{Place, Sources};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// The sentence, without a period.
    pub message: String,
    /// Where it stands, if it stands anywhere.
    pub place: Option<Place>,
    /// What would be right.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A diagnostic at a place.
    pub fn new(message: impl Into<String>, place: Option<Place>) -> Self {
        Self { message: message.into(), place, hint: None }
    }

    /// Adds what would be right, if anything is known.
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Everything that is wrong with a pipeline, with the texts that the places lie in.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    /// The texts.
    pub sources: Sources,
    /// The errors, in the order of the text.
    pub list: Vec<Diagnostic>,
}

/// "did you mean …?" when one of the known names is close to what was written.
pub fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near = |name: &str| 1 + name.len() / 4;
    known
        .into_iter()
        // Comparing takes memory and time by the product of the lengths, and people mistype short names.
        .filter(|name| name.len() < 100 && name.len().abs_diff(written.len()) <= near(name))
        .map(|name| (strsim::damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= near(name))
        .min()
        .map(|(_, name)| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_suggested_and_a_far_one_is_not() {
        let known = ["learning_rate", "epochs"];
        assert_eq!(suggestion("learning_rat", known).as_deref(), Some("did you mean `learning_rate`?"));
        assert_eq!(suggestion("Epoch", known).as_deref(), Some("did you mean `epochs`?"));
        assert_eq!(suggestion("momentum", known), None);
        // Would take 80 GB.
        assert_eq!(suggestion(&"a".repeat(100_000), [&*"b".repeat(100_000)]), None);
    }
}
