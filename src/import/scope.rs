//! Settings of the data: where each is said, in tables within tables and on the command line.

use super::{
    arguments::plain,
    options::{Takes, option},
    reader::Reader,
};
use crate::pipeline::suggestion;
use serde_json::{Map, Value};

/// A value and where it was said; two are equal when their values are.
#[derive(Clone, Debug, Default)]
pub struct Said<T> {
    pub value: T,
    pub source: String,
}

impl<T: PartialEq> PartialEq for Said<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// What may be said of a dataset.
pub const DATASET_KEYS: [&str; 12] = [
    "batch_size",
    "bucket_no_upscale",
    "bucket_reso_steps",
    "enable_bucket",
    "max_bucket_reso",
    "min_bucket_reso",
    "network_multiplier",
    "resize_interpolation",
    "resolution",
    "subsets",
    "validation_seed",
    "validation_split",
];
/// What may be said of a folder.
pub const FOLDER_KEYS: [&str; 27] = [
    "alpha_mask",
    "cache_info",
    "caption_dropout_every_n_epochs",
    "caption_dropout_rate",
    "caption_extension",
    "caption_prefix",
    "caption_separator",
    "caption_suffix",
    "caption_tag_dropout_rate",
    "class_tokens",
    "color_aug",
    "conditioning_data_dir",
    "custom_attributes",
    "enable_wildcard",
    "face_crop_aug_range",
    "flip_aug",
    "image_dir",
    "is_reg",
    "keep_tokens",
    "keep_tokens_separator",
    "metadata_file",
    "num_repeats",
    "random_crop",
    "secondary_separator",
    "shuffle_caption",
    "token_warmup_min",
    "token_warmup_step",
];

/// The tables in which a setting is looked for, the nearest first, and then the command line.
#[derive(Clone)]
pub struct Scope<'t>(pub Vec<&'t Map<String, Value>>);

impl Scope<'_> {
    /// What is said of a setting, if anything.
    pub fn find(&self, reader: &mut Reader<'_>, name: &'static str) -> Option<Said<Value>> {
        if let Some(value) = self.0.iter().find_map(|table| table.get(name)) {
            return Some(Said { value: value.clone(), source: format!("{name} = {value}") });
        }
        let renamed = match name {
            "batch_size" => "train_batch_size",
            "num_repeats" => "dataset_repeats",
            // The old name counts where both are given.
            "caption_extension" if reader.switch("caption_extention") => "caption_extention",
            name => name,
        };
        let option = option(renamed)?;
        let words = reader.list(option.name)?;
        let value = match option.takes {
            Takes::Nothing => Value::Bool(true),
            _ => Value::String(words.join(" ")),
        };
        Some(Said { value, source: reader.written(renamed) })
    }

    /// What is said, as text; empty if nothing is.
    pub fn text(&self, reader: &mut Reader<'_>, name: &'static str) -> Said<String> {
        self.find(reader, name).map(|said| Said { value: plain(&said.value), source: said.source }).unwrap_or_default()
    }

    /// Whether it is said to be on.
    pub fn flag(&self, reader: &mut Reader<'_>, name: &'static str) -> Said<bool> {
        self.find(reader, name)
            .map(|said| Said { value: said.value == Value::Bool(true), source: said.source })
            .unwrap_or_default()
    }

    /// The number that is said.
    pub fn number<T: std::str::FromStr>(&self, reader: &mut Reader<'_>, name: &'static str) -> Option<Said<T>> {
        let said = self.find(reader, name)?;
        let value = plain(&said.value).parse().ok();
        if value.is_none() {
            reader.refuse(format!("{} is not a number that it could be", said.source), "write one");
        }
        value.map(|value| Said { value, source: said.source })
    }
}

/// The tables of a list.
pub fn list<'t>(table: &'t Map<String, Value>, name: &str) -> Vec<&'t Map<String, Value>> {
    table
        .get(name)
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_object).collect())
        .unwrap_or_default()
}

/// Refuses what sd-scripts would refuse too: keys that mean nothing.
pub fn known(reader: &mut Reader<'_>, table: &Map<String, Value>, keys: &[&str], place: &str) {
    for name in table.keys().filter(|name| !keys.contains(&name.as_str())) {
        let hint = suggestion(name, keys.iter().copied()).unwrap_or_else(|| "leave it out".to_owned());
        reader.refuse(format!("`{name}` means nothing in {place}"), hint);
    }
}
