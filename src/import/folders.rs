//! The folders with the pictures.

use super::{
    arguments::plain,
    options::{Fate, option},
    reader::Reader,
    scope::{Said, Scope},
    text::{Bracket, quoted},
};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fs, path::Path};

/// A folder of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Folder {
    pub path: String,
    /// Its name says repeats and class, or those of the folders in it do.
    pub named: bool,
    repeats: Said<u32>,
    pub class: Said<String>,
    pub regularisation: bool,
    pub masks: Option<Said<String>>,
    flip: Said<bool>,
    pub prefix: Said<String>,
    pub suffix: Said<String>,
    /// Pictures in it, and those times their repeats; none where it can't be read.
    count: Option<(u64, u64)>,
}

impl Folder {
    /// Reads what is said of the folder at a path.
    pub fn read(reader: &mut Reader<'_>, scope: &Scope<'_>, path: String) -> Self {
        for name in
            ["color_aug", "random_crop", "face_crop_aug_range", "caption_dropout_every_n_epochs", "token_warmup_step"]
        {
            let said = scope
                .find(reader, name)
                .filter(|said| !matches!(&said.value, Value::Bool(false)) && plain(&said.value).parse() != Ok(0.0));
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
        let (folder, alpha) = (scope.text(reader, "conditioning_data_dir"), scope.flag(reader, "alpha_mask"));
        let masks = match (folder.value.is_empty(), alpha.value) {
            // The command line's is for no folder; see the table of options.
            (false, _) if !folder.source.starts_with("--") => {
                if !reader.switch("masked_loss") {
                    reader.refuse(format!("{}: masks are used with --masked_loss alone", folder.source), "add it");
                }
                let value = format!("Folder({})", reader.path(&folder.value));
                Some(Said { value, source: format!("{} with --masked_loss", folder.source) })
            }
            (_, true) => Some(Said { value: "Alpha".to_owned(), source: alpha.source }),
            _ => None,
        };
        let repeats = scope.number(reader, "num_repeats").unwrap_or(Said { value: 1, source: String::new() });
        let regularisation = scope.flag(reader, "is_reg").value;
        let folder = reader.arguments.folder.join(&path);
        let count = pictures(&folder).map(|count| (count, count * u64::from(repeats.value)));
        tell_inner(reader, &path, &folder);
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

    /// Its entry, with a name of its own among several and with those of `prefix` and `suffix` that are to be in it.
    pub fn write(&self, reader: &Reader<'_>, names: Option<&mut BTreeSet<String>>, own: &[&str]) -> Bracket {
        let mut item = Bracket::new("");
        item.field("path", &reader.path(&self.path)).from(if self.named { &*self.repeats.source } else { "" });
        if let Some(names) = names {
            let base = self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let mut name = base.to_owned();
            for number in 2.. {
                if names.insert(name.clone()) {
                    break;
                }
                name = format!("{base} {number}");
            }
            item.field("name", &quoted(&name));
        }
        if !self.named {
            item.field("repeats", &self.repeats.value).from(&*self.repeats.source);
        }
        if !self.class.value.is_empty() {
            item.field("class", &quoted(&self.class.value)).from(&*self.class.source);
        }
        if self.regularisation {
            item.field("regularisation", &true).from(reader.all_written(&["reg_data_dir"]));
        }
        if let Some(masks) = &self.masks {
            item.field("masks", &masks.value).from(&*masks.source).note(
                "A mask is divided by its mean here: what is learnt of a small part counts as much as a whole picture.",
            );
        }
        if self.flip.value {
            item.field("flip", &true).from(&*self.flip.source);
        }
        for (name, said) in [("prefix", &self.prefix), ("suffix", &self.suffix)] {
            if own.contains(&name) {
                item.field(name, &quoted(&said.value)).from(&*said.source);
            }
        }
        item
    }
}

/// The folders of sd-scripts' convention in one: `10_name` for ten repeats of the class `name`.
pub fn by_name(reader: &mut Reader<'_>, scope: &Scope<'_>, path: &str, regularisation: bool) -> Vec<Folder> {
    let base = reader.arguments.folder.join(path);
    let whole = |reader: &mut Reader<'_>| {
        let mut folder = Folder::read(reader, scope, path.to_owned());
        (folder.named, folder.regularisation, folder.count) = (true, regularisation, None);
        folder.repeats =
            Said { value: 1, source: "folders called like `10_name` in it say repeats and class".to_owned() };
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
    let counts: Vec<_> = named
        .iter()
        .map(|(name, (repeats, _))| {
            let count = pictures(&base.join(name)).unwrap_or_default();
            (count, count * u64::from(*repeats))
        })
        .collect();
    // All that lies in it is trained on here, so that it can only be named as a whole if there is nothing else.
    let alike = |name: &String, repeats: u32| name.contains('_') && repeats <= 1000;
    let as_here = named.len() == inner.len() && named.iter().all(|(name, (repeats, _))| alike(name, *repeats));
    if !regularisation && as_here && pictures(&base) == Some(0) {
        let mut folder = whole(reader);
        reader.notes.truncate(notes);
        named.iter().for_each(|(name, _)| tell_inner(reader, &format!("{path}/{name}"), &base.join(name)));
        folder.count = counts.into_iter().reduce(|one, other| (one.0 + other.0, one.1 + other.1));
        let names: Vec<String> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
        folder.repeats.source = format!("--train_data_dir; the names of {} say repeats and class", names.join(", "));
        return vec![folder];
    }
    let mut folders = Vec::new();
    for ((name, (repeats, class)), count) in named.into_iter().zip(counts) {
        let mut folder = Folder::read(reader, scope, format!("{}/{name}", path.trim_end_matches('/')));
        folder.repeats = Said { value: repeats, source: String::new() };
        folder.class = Said { value: class, source: String::new() };
        (folder.regularisation, folder.count) = (regularisation, Some(count));
        folders.push(folder);
    }
    folders
}

/// Tells of folders inside of one, into which sd-scripts does not look.
fn tell_inner(reader: &mut Reader<'_>, path: &str, folder: &Path) {
    if folders_in(folder).is_some_and(|inner| !inner.is_empty()) {
        let note = "are trained on here too; sd-scripts passes them over";
        reader.notes.push(format!("pictures in folders inside of {path} {note}"));
    }
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
    let names = entries
        .filter(|entry| entry.path().is_dir() == folders)
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort_unstable();
    Some(names)
}

/// Gives regularisation images the repeats that make them as many as the others; the samples of an epoch, where all can be counted.
pub fn even_out(reader: &mut Reader<'_>, folders: &mut [Folder]) -> Option<u64> {
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
        reader.notes.push(format!(
            "sd-scripts leaves out {} of the {class} regularisation images; here all are seen",
            class - own
        ));
    }
    Some(own + class * u64::from(repeats))
}
