//! A value in a pipeline file that is well-formed and still can't be right.

/// What is wrong with one field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as a path from the stage's own parameters: `shuffle.variants`, `data[1].path`; empty for the stage.
    pub path: String,
    /// What is wrong, as a sentence without its period.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a remedy beyond its message.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), hint: None }
    }

    /// Adds what would be right.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
