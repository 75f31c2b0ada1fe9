//! The data of a training: folders that the command line names, or a file of `--dataset_config`, as folders and captions of a pipeline.

use super::{
    arguments::read_table,
    folders::{Folder, by_name, even_out},
    pictures::Sizes,
    reader::Reader,
    scope::{DATASET_KEYS, FOLDER_KEYS, Said, Scope, known, list},
    text::{Bracket, quoted},
    words::Words,
};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What is trained on.
pub struct Data {
    folders: Vec<Folder>,
    words: Words,
    pub batch: Said<u32>,
    pub sizes: Sizes,
    pub validation: Option<Said<f64>>,
    /// Samples that an epoch sees, where the pictures could be counted.
    pub samples: Option<u64>,
    /// Whether texts were encoded before training, as they stand in the files.
    pub cached: bool,
}

/// A dataset in sd-scripts' meaning: folders with one size and one batch.
struct Set {
    folders: Vec<Folder>,
    sizes: Sizes,
    batch: Said<u32>,
    validation: Option<Said<f64>>,
}

/// Finds out what is trained on; nothing when that can't be told.
pub fn read(reader: &mut Reader<'_>) -> Option<Data> {
    let cached = ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "use_t5xxl_cache_only"]
        .map(|name| reader.switch(name))
        .contains(&true);
    let mut words = Vec::new();
    let mut sets = match reader.text("dataset_config") {
        Some(file) => {
            for name in ["train_data_dir", "reg_data_dir"] {
                reader.no_effect(name, "the folders are named in the --dataset_config");
            }
            of_file(reader, &file, &mut words)?
        }
        None => vec![of_command_line(reader, &mut words)?],
    };
    let Some(first_words) = words.first().cloned() else {
        reader
            .refuse("no folder of pictures is named", "[[datasets]] with [[datasets.subsets]] that have an image_dir");
        return None;
    };
    for other in &words {
        first_words.refuse_others(reader, other);
    }
    let mut first = sets.remove(0);
    // Datasets of the same folders are there for their sizes.
    let paths = |set: &Set| set.folders.iter().map(|folder| folder.path.clone()).collect::<BTreeSet<_>>();
    let same = sets.iter().all(|set| paths(set) == paths(&first));
    for set in sets {
        if set.batch != first.batch {
            let message = "the datasets have batches of several sizes, and a training has one";
            reader.refuse(message, "the same batch_size in all of them");
        }
        match same {
            false => {
                first.sizes.must_be(reader, &set.sizes);
                first.folders.extend(set.folders);
            }
            true if set.folders != first.folders => {
                let message = "the same folders are said to be something else at another resolution";
                reader.refuse(message, "the same settings for a folder in all datasets");
            }
            true => first.sizes.add(reader, set.sizes),
        }
    }
    if first.folders.iter().all(|folder| folder.masks.is_none()) {
        reader.no_effect("masked_loss", "there are no masks");
    }
    let samples = even_out(reader, &mut first.folders).map(|samples| samples * first.sizes.count());
    let Set { folders, sizes, batch, validation } = first;
    Some(Data { folders, words: first_words, batch, sizes, validation, samples, cached })
}

/// The datasets of a file.
fn of_file(reader: &mut Reader<'_>, file: &str, words: &mut Vec<Words>) -> Option<Vec<Set>> {
    let tables = match read_table(&reader.arguments.folder.join(file), "--dataset_config") {
        Ok(Value::Object(tables)) => tables,
        Ok(_) => Map::new(),
        Err(refusal) => {
            reader.refusals.push(refusal);
            return None;
        }
    };
    let empty = Map::new();
    let general = tables.get("general").and_then(Value::as_object).unwrap_or(&empty);
    let inherited = [&DATASET_KEYS[..], &FOLDER_KEYS].concat();
    known(reader, &tables, &["general", "datasets"], "the --dataset_config");
    known(reader, general, &inherited, "[general]");
    let mut sets = Vec::new();
    for dataset in list(&tables, "datasets") {
        known(reader, dataset, &inherited, "[[datasets]]");
        let mut folders: Vec<Folder> = Vec::new();
        for subset in list(dataset, "subsets") {
            known(reader, subset, &FOLDER_KEYS, "[[datasets.subsets]]");
            let scope = Scope(vec![subset, dataset, general]);
            let path = scope.text(reader, "image_dir").value;
            if path.is_empty() {
                reader.refuse("a folder of the --dataset_config has no image_dir", "name the folder with the pictures");
            }
            if folders.iter().any(|folder| folder.path == path) {
                reader.remark(format!("{path} a second time in one dataset had no effect: sd-scripts drops it."));
                continue;
            }
            folders.push(Folder::read(reader, &scope, path));
            words.push(Words::read(reader, &scope));
        }
        sets.push(Set::read(reader, &Scope(vec![dataset, general]), folders));
    }
    Some(sets)
}

/// The dataset that the command line's own options make.
fn of_command_line(reader: &mut Reader<'_>, words: &mut Vec<Words>) -> Option<Set> {
    let scope = Scope(Vec::new());
    let Some(path) = reader.text("train_data_dir") else {
        reader.refuse("no data is named", "--train_data_dir, or --dataset_config");
        return None;
    };
    let mut folders = by_name(reader, &scope, &path, false);
    if let Some(path) = reader.text("reg_data_dir") {
        folders.extend(by_name(reader, &scope, &path, true));
    }
    words.push(Words::read(reader, &scope));
    Some(Set::read(reader, &scope, folders))
}

impl Set {
    fn read(reader: &mut Reader<'_>, scope: &Scope<'_>, folders: Vec<Folder>) -> Self {
        let default = Said { value: 1, source: "sd-scripts' default of --train_batch_size".to_owned() };
        if scope.find(reader, "network_multiplier").is_some_and(|said| said.value.as_f64() != Some(1.0)) {
            reader.refuse("network_multiplier: an adapter has one strength in training", "leave it out");
        }
        Self {
            folders,
            sizes: Sizes::read(reader, scope),
            batch: scope.number(reader, "batch_size").unwrap_or(default),
            validation: scope.number::<f64>(reader, "validation_split").filter(|said| said.value > 0.0),
        }
    }
}

impl Data {
    /// Whether some are regularisation images.
    pub fn regularises(&self) -> bool {
        self.folders.iter().any(|folder| folder.regularisation)
    }

    /// The share of captions that are left out.
    pub fn dropout(&self) -> &Said<f64> {
        &self.words.dropout
    }

    /// The stage that reads the captions.
    pub fn captions(&self, reader: &mut Reader<'_>) -> Bracket {
        let mut stage = Bracket::new("Captions");
        let shared =
            [("prefix", self.shared(|folder| &folder.prefix)), ("suffix", self.shared(|folder| &folder.suffix))];
        let own: Vec<&str> =
            shared.iter().filter(|(_, said)| said.is_none() && !self.cached).map(|(name, _)| *name).collect();
        let mut names = BTreeSet::new();
        let several = self.folders.len() > 1;
        let list: Vec<Bracket> =
            self.folders.iter().map(|folder| folder.write(reader, several.then_some(&mut names), &own)).collect();
        stage.field("data", list).from(reader.written("dataset_config"));
        let classes = self.folders.iter().any(|folder| folder.named || !folder.class.value.is_empty());
        let missing = if classes { "ClassName" } else { "Empty" };
        stage.field("missing", &missing).from("as in sd-scripts; `Error` tells of pictures without a caption");
        self.words.write(reader, &mut stage, self.cached);
        for (name, said) in shared {
            if let Some(said) = said.filter(|said| !said.value.is_empty() && !self.cached) {
                stage.field(name, &quoted(&said.value)).from(said.source);
            }
        }
        for said in self.folders.iter().flat_map(|folder| [&folder.prefix, &folder.suffix]) {
            if self.cached && !said.value.is_empty() {
                reader.remark(super::words::lost(&said.source, "as prefix: or suffix: of the captions"));
            }
        }
        stage
    }

    /// What all folders say alike.
    fn shared(&self, of: impl Fn(&Folder) -> &Said<String>) -> Option<Said<String>> {
        let first = self.folders.first().map(&of)?;
        self.folders.iter().all(|folder| of(folder) == first).then(|| first.clone())
    }
}
