//! What is done to captions.

use super::{
    reader::Reader,
    scope::{Said, Scope},
    text::{Bracket, number, quoted},
};

/// What is done to captions.
#[derive(Clone, Default)]
pub struct Words {
    extension: Said<String>,
    separator: Said<String>,
    shuffle: Said<bool>,
    keep_tokens: Said<u32>,
    keep_tokens_separator: Said<String>,
    secondary_separator: Said<String>,
    wildcard: Said<bool>,
    tag_dropout: Said<f64>,
    pub dropout: Said<f64>,
}

impl Words {
    pub fn read(reader: &mut Reader<'_>, scope: &Scope<'_>) -> Self {
        let or = |said: Said<String>, default: &str, name: &str| match said.value.is_empty() {
            true => Said { value: default.to_owned(), source: format!("sd-scripts' default of --{name}") },
            false => said,
        };
        Self {
            extension: or(scope.text(reader, "caption_extension"), ".caption", "caption_extension"),
            separator: or(scope.text(reader, "caption_separator"), ",", "caption_separator"),
            shuffle: scope.flag(reader, "shuffle_caption"),
            keep_tokens: scope.number(reader, "keep_tokens").unwrap_or_default(),
            keep_tokens_separator: scope.text(reader, "keep_tokens_separator"),
            secondary_separator: scope.text(reader, "secondary_separator"),
            wildcard: scope.flag(reader, "enable_wildcard"),
            tag_dropout: scope.number(reader, "caption_tag_dropout_rate").unwrap_or_default(),
            dropout: scope.number(reader, "caption_dropout_rate").unwrap_or_default(),
        }
    }

    /// Refuses what is another for the folders that have these settings.
    pub fn refuse_others(&self, reader: &mut Reader<'_>, other: &Self) {
        let differ = [
            ("caption_extension", self.extension != other.extension),
            ("caption_separator", self.separator != other.separator),
            ("shuffle_caption", self.shuffle != other.shuffle),
            ("keep_tokens", self.keep_tokens != other.keep_tokens),
            ("keep_tokens_separator", self.keep_tokens_separator != other.keep_tokens_separator),
            ("secondary_separator", self.secondary_separator != other.secondary_separator),
            ("enable_wildcard", self.wildcard != other.wildcard),
            ("caption_tag_dropout_rate", self.tag_dropout != other.tag_dropout),
            ("caption_dropout_rate", self.dropout != other.dropout),
        ];
        for (name, _) in differ.iter().filter(|(_, differs)| *differs) {
            reader.refuse(format!("{name} is another in some of the folders"), "the same in all of them");
        }
    }

    /// Writes the fields of the stage that reads captions.
    pub fn write(&self, reader: &mut Reader<'_>, stage: &mut Bracket, cached: bool) {
        let extension = self.extension.value.trim_start_matches('.');
        let added = stage.field("extensions", &format!("[{}]", quoted(extension))).from(&*self.extension.source);
        if extension == "caption" && !self.extension.source.starts_with("--caption") {
            added.note("So .txt files are not read: then pictures are trained on with their class alone.");
        }
        match (self.wildcard.value, cached) {
            (true, true) => reader.remark(lost(&self.wildcard.source, "as wildcards: (variants: 8), lines: All")),
            (true, false) => {
                stage.field("lines", &"All").from(&*self.wildcard.source);
                stage.field("wildcards", &"(variants: 8)").from(&*self.wildcard.source).note(VARIANTS);
            }
            _ => {}
        }
        if !self.shuffle.value && self.tag_dropout.value == 0.0 {
            return self.plain(reader, cached);
        }
        if self.separator.value != "," {
            stage.field("separator", &quoted(&self.separator.value)).from(&*self.separator.source);
        }
        let mut shuffle = Bracket::new("");
        shuffle.field("variants", &8);
        if self.keep_tokens.value > 0 {
            shuffle.field("keep_tokens", &self.keep_tokens.value).from(&*self.keep_tokens.source);
        }
        for (name, said) in
            [("keep_tokens_separator", &self.keep_tokens_separator), ("secondary_separator", &self.secondary_separator)]
        {
            if !said.value.is_empty() {
                shuffle.field(name, &quoted(&said.value)).from(&*said.source);
            }
        }
        if self.tag_dropout.value > 0.0 {
            shuffle.field("tag_dropout", &number(self.tag_dropout.value)).from(&*self.tag_dropout.source);
        }
        if !self.shuffle.value {
            shuffle.field("reorder", &false).from("without --shuffle_caption");
        }
        let added = stage.field("shuffle", shuffle).from(&*self.shuffle.source).note(VARIANTS);
        if cached {
            added.note("(sd-scripts refuses it beside cached texts.)");
        }
    }

    /// What settings of tags mean where these stay as they are.
    fn plain(&self, reader: &mut Reader<'_>, cached: bool) {
        for (given, source) in [
            (self.keep_tokens.value > 0, &self.keep_tokens.source),
            (!self.keep_tokens_separator.value.is_empty(), &self.keep_tokens_separator.source),
            (self.separator.value != ",", &self.separator.source),
        ] {
            if given {
                reader.remark(format!("{source} had no effect: nothing is shuffled."));
            }
        }
        match (self.secondary_separator.value.is_empty(), cached) {
            (true, _) => {}
            (false, true) => {
                reader.remark(lost(&self.secondary_separator.source, "as secondary_separator: of a shuffle"))
            }
            (false, false) => {
                let message =
                    format!("{}: without shuffling it only becomes the separator", self.secondary_separator.source);
                reader.refuse(message, "write the separator in the captions in its place, and leave it out");
            }
        }
    }
}

const VARIANTS: &str = "Each variant of a text is encoded once, and training draws one at each step.";

/// What is said of a setting that cached texts lose, and how to have it.
pub fn lost(source: &str, place: &str) -> String {
    format!(
        "{source} had no effect: cached texts are encoded as they stand in the files. Written here, {place}, it has one."
    )
}
