//! The texts that a pipeline is read from, and places in them.

use std::{ops::Range, path::PathBuf};

/// One text: a file, or the value of a `--set`.
#[derive(Clone, Debug)]
pub struct Source {
    /// What a message calls it: the file's path as given, or the whole setting.
    pub name: String,
    /// The folder from which the paths written in it start.
    pub folder: PathBuf,
    /// The text itself.
    pub text: String,
}

/// Every text that took part, in the order in which it was read.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text and gives its number.
    pub fn add(&mut self, source: Source) -> usize {
        self.0.push(source);
        self.0.len() - 1
    }

    /// The text of a number that [`add`](Self::add) gave.
    pub fn get(&self, number: usize) -> &Source {
        &self.0[number]
    }
}

/// A range of bytes in one of the texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which text.
    pub source: usize,
    /// Which bytes of it.
    pub range: Range<usize>,
}
