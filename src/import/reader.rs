//! Options as they are asked for: who asks marks them as used, and what nobody used is told in the end.

use super::{
    Circumstances, Refusal,
    arguments::Arguments,
    options::{Fate, OPTIONS, Takes},
    text::quoted,
};
use crate::pipeline::ineffective;
use indexmap::IndexMap;
use std::{collections::BTreeSet, fmt::Display, path::Path, str::FromStr};

/// The options of a training while they become a pipeline.
pub struct Reader<'r> {
    pub arguments: &'r Arguments,
    pub circumstances: &'r Circumstances,
    /// What can't be carried over.
    pub refusals: Vec<Refusal>,
    /// What whoever imports should know at once.
    pub notes: Vec<String>,
    used: BTreeSet<&'static str>,
    /// Options that had no effect beside others, and why.
    without_effect: Vec<(&'static str, String)>,
    /// Sentences for the end of the file.
    remarks: Vec<String>,
}

impl<'r> Reader<'r> {
    pub fn new(arguments: &'r Arguments, circumstances: &'r Circumstances) -> Self {
        let (refusals, notes) = (Vec::new(), Vec::new());
        let (without_effect, remarks) = (Vec::new(), Vec::new());
        let mut reader =
            Self { arguments, circumstances, refusals, notes, used: BTreeSet::new(), without_effect, remarks };
        for option in OPTIONS {
            let Some(words) = arguments.given.get(option.name) else { continue };
            // Turned off, as programs that write such commands do with all that they know.
            let off = option.takes != Takes::Nothing && words.iter().all(|word| word.parse() == Ok(0.0));
            if let Fate::Refused(reason, instead) = option.fate
                && !off
            {
                reader.refuse(format!("{}: {reason}", reader.written(option.name)), instead);
            }
        }
        reader
    }

    /// What is written behind an option that takes a value.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.list(name).and_then(|words| words.into_iter().next())
    }

    /// What is written behind an option that takes several.
    pub fn list(&mut self, name: &'static str) -> Option<Vec<String>> {
        debug_assert!(super::options::option(name).is_some(), "{name}");
        let words = self.arguments.given.get(name)?;
        self.used.insert(name);
        Some(words.clone())
    }

    /// Whether a switch is on.
    pub fn switch(&mut self, name: &'static str) -> bool {
        self.list(name).is_some()
    }

    /// The number behind an option.
    pub fn number<T: FromStr>(&mut self, name: &'static str) -> Option<T> {
        let text = self.text(name)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.refuse(format!("{} is not a number that it could be", self.written(name)), "write one");
        }
        number
    }

    /// The option as it was written, for a comment; nothing if it was not.
    pub fn written(&self, name: &str) -> String {
        let Some(words) = self.arguments.given.get(name) else { return String::new() };
        let word = |word: &String| match word.is_empty() || word.contains(char::is_whitespace) {
            true => quoted(word),
            false => word.clone(),
        };
        std::iter::once(format!("--{name}")).chain(words.iter().map(word)).collect::<Vec<_>>().join(" ")
    }

    /// Several options as they were written.
    pub fn all_written(&self, names: &[&str]) -> String {
        names.iter().map(|name| self.written(name)).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The option as it was written, or that the value is sd-scripts' default.
    pub fn source(&self, name: &str) -> String {
        match self.written(name) {
            text if text.is_empty() => format!("sd-scripts' default of --{name}"),
            text => text,
        }
    }

    /// Whether the training is told to be older than a day.
    pub fn before(&self, day: &str) -> bool {
        self.circumstances.as_of.as_deref().is_some_and(|as_of| as_of < day)
    }

    pub fn refuse(&mut self, message: impl Into<String>, instead: impl Into<String>) {
        let refusal = Refusal::new(message, instead);
        if !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }

    /// Says of an option, if it was given, that it had no effect.
    pub fn no_effect(&mut self, name: &'static str, why: impl Display) {
        if self.switch(name) && self.without_effect.iter().all(|(known, _)| *known != name) {
            self.without_effect.push((name, format!("had no effect: {why}")));
        }
    }

    /// Says of an option, if it was given, what is here in its place.
    pub fn instead(&mut self, name: &'static str, why: &str) {
        if self.switch(name) {
            self.without_effect.push((name, why.to_owned()));
        }
    }

    /// Says something at the end of the file.
    pub fn remark(&mut self, line: impl Into<String>) {
        let line = line.into();
        if !self.remarks.contains(&line) {
            self.remarks.push(line);
        }
    }

    /// A path as RON, from the pipeline's folder.
    pub fn path(&self, path: &str) -> String {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (from, to) = (absolute(&self.arguments.folder), absolute(&self.circumstances.target));
        if from == to && Path::new(path).is_relative() {
            return quoted(path);
        }
        let moved = from.join(path);
        quoted(&moved.strip_prefix(&to).unwrap_or(&moved).to_string_lossy())
    }

    /// Says what became of all options that came to no field, those for one reason together.
    pub fn leave(&mut self) -> Vec<String> {
        let mut reasons: IndexMap<String, Vec<String>> = IndexMap::new();
        for option in OPTIONS.iter().filter(|option| self.arguments.given.contains_key(option.name)) {
            let beside = self.without_effect.iter().find(|(name, _)| *name == option.name).map(|(_, why)| why.clone());
            let unused =
                || (!self.used.contains(option.name)).then(|| "had no effect beside the other options".to_owned());
            if let Some(why) = beside.or_else(|| option.left_out()).or_else(unused) {
                // A token is nobody's business.
                let secret = ["wandb_api_key", "huggingface_token"].contains(&option.name);
                let written = if secret { format!("--{}", option.name) } else { self.written(option.name) };
                reasons.entry(why).or_default().push(written);
            }
        }
        for (name, nearest) in &self.arguments.unknown {
            let why = match (ineffective::reason(name), nearest) {
                (Some(reason), _) => reason.to_owned(),
                (None, Some(nearest)) => format!("sd-scripts reads no such option for SD3; {nearest}"),
                (None, None) => "sd-scripts reads no such option for SD3".to_owned(),
            };
            reasons.entry(format!("had no effect: {why}")).or_default().push(format!("{name} in the --config_file"));
        }
        let line = |(why, written): (String, Vec<String>)| {
            let end = if why.ends_with('?') { "" } else { "." };
            format!("{}: {why}{end}", written.join(", "))
        };
        reasons.into_iter().map(line).chain(self.remarks.drain(..)).collect()
    }
}
