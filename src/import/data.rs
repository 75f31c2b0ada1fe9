//! The data of a training: folders that the command line names, or a file of `--dataset_config`, as folders and captions of a pipeline.

use super::{
    arguments::{plain, read_table},
    options::{Fate, Takes, option},
    pictures::Sizes,
    reader::Reader,
    text::{Bracket, number, quoted},
};
use crate::pipeline::suggestion;
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fs, path::Path};

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

/// What is trained on.
pub struct Data {
    folders: Vec<Folder>,
    words: Words,
    pub batch: Said<u32>,
    pub sizes: Sizes,
    pub validation: Option<Said<f64>>,
    pub dropout: Said<f64>,
    /// Samples that an epoch sees, where the pictures could be counted.
    pub samples: Option<u64>,
    /// Whether texts were encoded before training, as they stand in the files.
    pub cached: bool,
}

/// A folder of pictures.
struct Folder {
    path: String,
    /// Its name says repeats and class, or those of the folders in it do.
    named: bool,
    repeats: Said<u32>,
    class: Said<String>,
    regularisation: bool,
    masks: Option<Said<String>>,
    flip: Said<bool>,
    prefix: Said<String>,
    suffix: Said<String>,
    /// Pictures in it, and those times their repeats; none where it can't be read.
    count: Option<(u64, u64)>,
}

/// What is done to captions.
#[derive(Clone, Default)]
struct Words {
    extension: Said<String>,
    separator: Said<String>,
    shuffle: Said<bool>,
    keep_tokens: Said<u32>,
    keep_tokens_separator: Said<String>,
    secondary_separator: Said<String>,
    wildcard: Said<bool>,
    tag_dropout: Said<f64>,
    dropout: Said<f64>,
}

const DATASET_KEYS: [&str; 12] = [
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
const FOLDER_KEYS: [&str; 27] = [
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
pub struct Scope<'t>(Vec<&'t Map<String, Value>>);

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

    pub fn text(&self, reader: &mut Reader<'_>, name: &'static str) -> Said<String> {
        self.find(reader, name).map(|said| Said { value: plain(&said.value), source: said.source }).unwrap_or_default()
    }

    pub fn flag(&self, reader: &mut Reader<'_>, name: &'static str) -> Said<bool> {
        self.find(reader, name)
            .map(|said| Said { value: said.value == Value::Bool(true), source: said.source })
            .unwrap_or_default()
    }

    pub fn number<T: std::str::FromStr>(&self, reader: &mut Reader<'_>, name: &'static str) -> Option<Said<T>> {
        let said = self.find(reader, name)?;
        let value = plain(&said.value).parse().ok();
        if value.is_none() {
            reader.refuse(format!("{} is not a number that it could be", said.source), "write one");
        }
        value.map(|value| Said { value, source: said.source })
    }
}

/// Finds out what is trained on; nothing when that can't be told.
pub fn read(reader: &mut Reader<'_>) -> Option<Data> {
    let cached = ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "use_t5xxl_cache_only"]
        .map(|name| reader.switch(name))
        .contains(&true);
    let file = reader.text("dataset_config");
    let tables = match &file {
        None => Ok(Value::Object(Map::new())),
        Some(file) => read_table(&reader.arguments.folder.join(file), "--dataset_config"),
    };
    let tables = match tables {
        Ok(Value::Object(tables)) => tables,
        Ok(_) => Map::new(),
        Err(refusal) => {
            reader.refusals.push(refusal);
            return None;
        }
    };
    let empty = Map::new();
    let general = tables.get("general").and_then(Value::as_object).unwrap_or(&empty);
    let mut folders = Vec::new();
    let mut words: Vec<Words> = Vec::new();
    let mut sets = Vec::new();
    if file.is_some() {
        for name in ["train_data_dir", "reg_data_dir"] {
            reader.no_effect(name, "the folders are named in the --dataset_config");
        }
        known(reader, &tables, &["general", "datasets"], "the --dataset_config");
        known(reader, general, &[&DATASET_KEYS[..], &FOLDER_KEYS].concat(), "[general]");
        for dataset in list(&tables, "datasets") {
            known(reader, dataset, &[&DATASET_KEYS[..], &FOLDER_KEYS].concat(), "[[datasets]]");
            let scope = Scope(vec![dataset, general]);
            let mut paths = BTreeSet::new();
            for subset in list(dataset, "subsets") {
                known(reader, subset, &FOLDER_KEYS, "[[datasets.subsets]]");
                let scope = Scope(vec![subset, dataset, general]);
                let path = scope.text(reader, "image_dir").value;
                if path.is_empty() {
                    reader.refuse("a folder of the --dataset_config has no image_dir", "name the folder with the pictures");
                }
                if !paths.insert(path.clone()) {
                    reader.remark(format!("{path} a second time in one dataset: had no effect: sd-scripts drops it."));
                } else {
                    folders.push((sets.len(), Folder::read(reader, &scope, path)));
                    words.push(Words::read(reader, &scope));
                }
            }
            sets.push((Sizes::read(reader, &scope), Set::read(reader, &scope), paths));
        }
    } else {
        let scope = Scope(Vec::new());
        let Some(path) = reader.text("train_data_dir") else {
            if reader.arguments.given.contains_key("in_json") {
                return None;
            }
            reader.refuse("no data is named", "--train_data_dir, or --dataset_config");
            return None;
        };
        let regularisation = reader.text("reg_data_dir");
        folders.extend(by_name(reader, &scope, &path, false).into_iter().map(|folder| (0, folder)));
        if let Some(path) = regularisation {
            folders.extend(by_name(reader, &scope, &path, true).into_iter().map(|folder| (0, folder)));
        }
        words.push(Words::read(reader, &scope));
        sets.push((Sizes::read(reader, &scope), Set::read(reader, &scope), BTreeSet::new()));
    }
    let (Some(first), false) = (words.first().cloned(), folders.is_empty()) else {
        reader.refuse("no folder of pictures is named", "[[datasets]] with [[datasets.subsets]] that have an image_dir");
        return None;
    };
    for other in &words {
        first.refuse_others(reader, other);
    }
    let (mut sizes, set, paths) = sets.remove(0);
    for (other_sizes, other, other_paths) in sets {
        if other.batch != set.batch {
            let message = "the datasets have batches of several sizes, and a training has one";
            reader.refuse(message, "the same batch_size in all of them");
        }
        if other_paths == paths {
            sizes.add(reader, other_sizes);
            continue;
        }
        sizes.must_be(reader, &other_sizes);
    }
    // A set that has the folders of the first is there for its size.
    let firsts: BTreeSet<String> = folders.iter().filter(|(set, _)| *set == 0).map(|(_, folder)| folder.path.clone()).collect();
    folders.retain(|(set, folder)| *set == 0 || !firsts.contains(&folder.path));
    let mut folders: Vec<Folder> = folders.into_iter().map(|(_, folder)| folder).collect();
    let samples = even_out(reader, &mut folders).map(|samples| samples * sizes.count());
    let dropout = first.dropout.clone();
    Some(Data { folders, words: first, batch: set.batch, sizes, validation: set.validation, dropout, samples, cached })
}

fn list<'t>(table: &'t Map<String, Value>, name: &str) -> Vec<&'t Map<String, Value>> {
    table.get(name).and_then(Value::as_array).map(|list| list.iter().filter_map(Value::as_object).collect()).unwrap_or_default()
}

/// Refuses what sd-scripts would refuse too: keys that mean nothing.
fn known(reader: &mut Reader<'_>, table: &Map<String, Value>, keys: &[&str], place: &str) {
    for name in table.keys().filter(|name| !keys.contains(&name.as_str())) {
        let hint = suggestion(name, keys.iter().copied()).unwrap_or_else(|| "leave it out".to_owned());
        reader.refuse(format!("`{name}` means nothing in {place}"), hint);
    }
}

/// What holds for all folders of a dataset, beside sizes.
struct Set {
    batch: Said<u32>,
    validation: Option<Said<f64>>,
}

impl Set {
    fn read(reader: &mut Reader<'_>, scope: &Scope<'_>) -> Self {
        let default = || Said { value: 1, source: "sd-scripts' default of --train_batch_size".to_owned() };
        if scope.find(reader, "network_multiplier").is_some_and(|said| said.value.as_f64() != Some(1.0)) {
            reader.refuse("network_multiplier: an adapter has one strength in training", "leave it out");
        }
        Self {
            batch: scope.number(reader, "batch_size").unwrap_or_else(default),
            validation: scope.number::<f64>(reader, "validation_split").filter(|said| said.value > 0.0),
        }
    }
}

impl Folder {
    fn read(reader: &mut Reader<'_>, scope: &Scope<'_>, path: String) -> Self {
        for name in ["color_aug", "random_crop", "face_crop_aug_range", "caption_dropout_every_n_epochs", "token_warmup_step"] {
            let said = scope.find(reader, name).filter(|said| {
                !matches!(&said.value, Value::Bool(false)) && plain(&said.value).parse() != Ok(0.0)
            });
            if let (Some(said), Some(Fate::Refused(reason, instead))) = (said, option(name).map(|option| option.fate))
                && !said.source.starts_with("--")
            {
                reader.refuse(format!("{}: {reason}", said.source), instead);
            }
        }
        if scope.find(reader, "metadata_file").is_some() {
            let (reason, instead) = match option("in_json").map(|option| option.fate) {
                Some(Fate::Refused(reason, instead)) => (reason, instead),
                _ => ("", ""),
            };
            reader.refuse(format!("metadata_file: {reason}"), instead);
        }
        if scope.find(reader, "custom_attributes").is_some_and(|said| said.value != Value::Object(Map::new())) {
            reader.refuse("custom_attributes: there is no preservation of outputs here", "leave them out");
        }
        let masked = scope.text(reader, "conditioning_data_dir");
        let alpha = scope.flag(reader, "alpha_mask");
        let masks = match (masked.value.is_empty(), alpha.value) {
            (false, _) if reader.switch("masked_loss") => {
                let folder = reader.path(&masked.value);
                Some(Said { value: format!("Folder({folder})"), source: masked.source })
            }
            (true, true) => Some(Said { value: "Alpha".to_owned(), source: alpha.source }),
            _ => None,
        };
        let repeats = scope.number(reader, "num_repeats").unwrap_or(Said { value: 1, source: String::new() });
        let regularisation = scope.flag(reader, "is_reg").value;
        let folder = reader.arguments.folder.join(&path);
        let count = pictures(&folder).map(|count| (count, count * u64::from(repeats.value)));
        if folders_in(&folder).is_some_and(|inner| !inner.is_empty()) {
            reader.notes.push(format!("pictures in folders inside of {path} are trained on here too; sd-scripts passes them over"));
        }
        Self {
            path,
            named: false,
            repeats,
            class: scope.text(reader, "class_tokens"),
            regularisation,
            masks,
            flip: scope.flag(reader, "flip_aug"),
            prefix: scope.text(reader, "caption_prefix"),
            suffix: scope.text(reader, "caption_suffix"),
            count,
        }
    }
}

/// The folders of sd-scripts' convention in one: `10_name` for ten repeats of the class `name`.
fn by_name(reader: &mut Reader<'_>, scope: &Scope<'_>, path: &str, regularisation: bool) -> Vec<Folder> {
    let base = reader.arguments.folder.join(path);
    let whole = |reader: &mut Reader<'_>| {
        let mut folder = Folder::read(reader, scope, path.to_owned());
        (folder.named, folder.regularisation, folder.count) = (true, regularisation, None);
        folder.repeats = Said { value: 1, source: String::new() };
        folder
    };
    let notes = reader.notes.len();
    let Some(inner) = folders_in(&base) else { return vec![whole(reader)] };
    let convention = |name: &str| {
        let (repeats, class) = name.split_once('_').unwrap_or((name, ""));
        Some((repeats.parse::<u32>().ok().filter(|repeats| *repeats > 0)?, class.to_owned()))
    };
    let named: Vec<_> = inner.iter().filter_map(|name| Some((name, convention(name)?))).collect();
    if named.is_empty() {
        let hint = "rename a folder of pictures to `10_name`, for ten repeats, or start from `sd3pipe init NAME --data FOLDER`";
        reader.refuse(format!("sd-scripts finds no picture in {path}: no folder in it is called like `10_name`"), hint);
    }
    let counts: Vec<_> = named.iter().map(|(name, (repeats, _))| {
        let count = pictures(&base.join(name)).unwrap_or_default();
        (count, count * u64::from(*repeats))
    }).collect();
    // All that lies in it is trained on here, so that it can only be named as a whole if there is nothing else.
    if !regularisation && named.len() == inner.len() && pictures(&base) == Some(0) {
        let mut folder = whole(reader);
        reader.notes.truncate(notes);
        folder.count = counts.into_iter().reduce(|one, other| (one.0 + other.0, one.1 + other.1));
        let names: Vec<String> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
        folder.repeats.source = format!("the folders {} in it say repeats and class", names.join(", "));
        return vec![folder];
    }
    let folder = |((name, (repeats, class)), count): ((&String, (u32, String)), (u64, u64))| {
        let mut folder = Folder::read(reader, scope, format!("{}/{name}", path.trim_end_matches('/')));
        folder.repeats = Said { value: repeats, source: String::new() };
        folder.class = Said { value: class, source: String::new() };
        (folder.regularisation, folder.count) = (regularisation, Some(count));
        folder
    };
    named.into_iter().zip(counts).map(folder).collect()
}

/// How many pictures lie right in a folder, if it can be read.
fn pictures(folder: &Path) -> Option<u64> {
    let is_picture = |name: &str| {
        let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_lowercase()).unwrap_or_default();
        ["png", "jpg", "jpeg", "webp", "bmp"].contains(&ending.as_str())
    };
    Some(names(folder, false)?.iter().filter(|name| is_picture(name)).count() as u64)
}

fn folders_in(folder: &Path) -> Option<Vec<String>> {
    names(folder, true)
}

fn names(folder: &Path, folders: bool) -> Option<Vec<String>> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let names = entries.filter(|entry| entry.path().is_dir() == folders).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort_unstable();
    Some(names)
}

/// Gives regularisation images the repeats that make them as many as the others; the samples of an epoch, where all can be counted.
fn even_out(reader: &mut Reader<'_>, folders: &mut [Folder]) -> Option<u64> {
    let counts: Option<Vec<(bool, u64, u64)>> = folders
        .iter()
        .map(|folder| folder.count.map(|(count, samples)| (folder.regularisation, count, samples)))
        .collect();
    let counts = counts?;
    let own: u64 = counts.iter().filter(|(regularisation, ..)| !regularisation).map(|(.., samples)| samples).sum();
    let class: u64 = counts.iter().filter(|(regularisation, ..)| *regularisation).map(|(_, count, _)| count).sum();
    if class == 0 {
        return Some(own);
    }
    let repeats = ((own as f64 / class as f64).round() as u32).max(1);
    for folder in folders.iter_mut().filter(|folder| folder.regularisation) {
        let source = format!("{own} samples beside {class} such pictures: sd-scripts makes them as many");
        folder.repeats = Said { value: repeats, source };
    }
    if class > own {
        reader.notes.push(format!("sd-scripts leaves out {} of the {class} regularisation images; here all are seen", class - own));
    }
    Some(own + class * u64::from(repeats))
}

impl Words {
    fn read(reader: &mut Reader<'_>, scope: &Scope<'_>) -> Self {
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
    fn refuse_others(&self, reader: &mut Reader<'_>, other: &Self) {
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
}

impl Data {
    /// Whether some are regularisation images.
    pub fn regularises(&self) -> bool {
        self.folders.iter().any(|folder| folder.regularisation)
    }

    /// The stage that reads the captions.
    pub fn captions(&self, reader: &mut Reader<'_>) -> Bracket {
        let mut stage = Bracket::new("Captions");
        let lost = "cached texts are encoded as they stand in the files. Written here it would have one";
        let (prefix, suffix) = (self.shared(|folder| &folder.prefix), self.shared(|folder| &folder.suffix));
        let mut taken = BTreeSet::new();
        let several = self.folders.len() > 1;
        let classes = self.folders.iter().any(|folder| folder.named || !folder.class.value.is_empty());
        let mut list = Vec::new();
        for folder in &self.folders {
            let mut item = Bracket::new("");
            item.field("path", &reader.path(&folder.path));
            if several {
                let base = folder.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                let name = (1..).map(|number| if number == 1 { base.to_owned() } else { format!("{base} {number}") });
                let name = name.into_iter().find(|name| taken.insert(name.clone())).unwrap_or_default();
                item.field("name", &quoted(&name));
            }
            if folder.named && folder.repeats.value == 1 {
                let source = if folder.repeats.source.is_empty() { "folders called like `10_name` in it say repeats and class" } else { &folder.repeats.source };
                item.field("repeats", &1).from(source);
            } else {
                item.field("repeats", &folder.repeats.value).from(&*folder.repeats.source);
            }
            if !folder.class.value.is_empty() {
                item.field("class", &quoted(&folder.class.value)).from(&*folder.class.source);
            }
            if folder.regularisation {
                item.field("regularisation", &true);
            }
            if let Some(masks) = &folder.masks {
                item.field("masks", &masks.value).from(&*masks.source).note(
                    "Here a mask is divided by its mean: what is learnt of a small part counts as much as a whole picture.",
                );
            }
            if folder.flip.value {
                item.field("flip", &true).from(&*folder.flip.source);
            }
            for (name, said, shared) in [("prefix", &folder.prefix, &prefix), ("suffix", &folder.suffix, &suffix)] {
                if shared.is_none() && !self.cached {
                    item.field(name, &quoted(&said.value)).from(&*said.source);
                }
            }
            list.push(item);
        }
        stage.field("data", list);
        let missing = if classes { "ClassName" } else { "Empty" };
        stage.field("missing", &missing).from("as in sd-scripts; `Error` tells of pictures without a caption");
        let extension = self.words.extension.value.trim_start_matches('.');
        let added = stage.field("extensions", &format!("[{}]", quoted(extension))).from(&*self.words.extension.source);
        if extension == "caption" && self.words.extension.source.starts_with("sd-scripts") {
            added.note("Without --caption_extension .txt files are not read: then pictures are trained on with their class alone.");
        }
        for (name, said) in [("prefix", prefix), ("suffix", suffix)] {
            let Some(said) = said.filter(|said| !said.value.is_empty()) else { continue };
            match self.cached {
                true => reader.remark(format!("{}: had no effect: {lost}: {name}: {}.", said.source, quoted(&said.value))),
                false => drop(stage.field(name, &quoted(&said.value)).from(said.source)),
            }
        }
        self.variants(reader, &mut stage, lost);
        stage
    }

    /// The fields that make several texts of a caption.
    fn variants(&self, reader: &mut Reader<'_>, stage: &mut Bracket, lost: &str) {
        let words = &self.words;
        let refused = "sd-scripts refuses this beside cached texts. Here each variant of a text is encoded once, and training draws one at each step.";
        let plain = "Each variant of a text is encoded once, and training draws one at each step.";
        match (words.wildcard.value, self.cached) {
            (true, true) => reader.remark(format!("{}: had no effect: {lost}: wildcards: (variants: 8), lines: All.", words.wildcard.source)),
            (true, false) => {
                stage.field("lines", &"All").from(&*words.wildcard.source);
                stage.field("wildcards", &"(variants: 8)").from(&*words.wildcard.source).note(plain);
            }
            _ => {}
        }
        let drops = words.tag_dropout.value > 0.0;
        if !words.shuffle.value && !drops {
            for (said, name) in [
                (words.keep_tokens.value > 0, "keep_tokens"),
                (!words.keep_tokens_separator.value.is_empty(), "keep_tokens_separator"),
                (words.separator.value != ",", "caption_separator"),
            ] {
                let source = match name {
                    "keep_tokens" => &words.keep_tokens.source,
                    "keep_tokens_separator" => &words.keep_tokens_separator.source,
                    _ => &words.separator.source,
                };
                if said {
                    reader.remark(format!("{source}: had no effect: nothing is shuffled."));
                }
            }
            if !words.secondary_separator.value.is_empty() {
                let message = format!("{}: without shuffling it is only written as the separator", words.secondary_separator.source);
                reader.refuse(message, "write the separator in the captions, and leave it out");
            }
            return;
        }
        let mut shuffle = Bracket::new("");
        shuffle.field("variants", &8);
        if words.keep_tokens.value > 0 {
            shuffle.field("keep_tokens", &words.keep_tokens.value).from(&*words.keep_tokens.source);
        }
        for (name, said) in
            [("keep_tokens_separator", &words.keep_tokens_separator), ("secondary_separator", &words.secondary_separator)]
        {
            if !said.value.is_empty() {
                shuffle.field(name, &quoted(&said.value)).from(&*said.source);
            }
        }
        if drops {
            shuffle.field("tag_dropout", &number(words.tag_dropout.value)).from(&*words.tag_dropout.source);
        }
        if !words.shuffle.value {
            shuffle.field("reorder", &false).from("without --shuffle_caption");
        }
        if words.separator.value != "," {
            stage.field("separator", &quoted(&words.separator.value)).from(&*words.separator.source);
        }
        stage.field("shuffle", shuffle).from(&*words.shuffle.source).note(if self.cached { refused } else { plain });
    }

    /// What all folders say alike.
    fn shared(&self, of: impl Fn(&Folder) -> &Said<String>) -> Option<Said<String>> {
        let first = self.folders.first().map(&of)?;
        self.folders.iter().all(|folder| of(folder) == first).then(|| first.clone())
    }
}

