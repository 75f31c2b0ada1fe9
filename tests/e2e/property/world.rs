//! A folder with two pipelines, a model and pictures, which is edited and can be put back.

use super::fields::Field;
use crate::space::TestSpace;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// The pipelines, and what they are called. The second reads the same data and model and goes on longer.
pub const PIPELINES: [(&str, &str); 2] = [("first.ron", "first"), ("second.ron", "second")];

/// The stages with what is not at its default, or is edited in the file: enough to have something that every field acts on.
const STAGES: [(&str, &str, &str); 6] = [
    (
        "captions",
        "Captions",
        "data: [(path: DATA, repeats: 1)], missing: Empty, shuffle: (variants: 2, keep_tokens: 0)",
    ),
    ("text", "EncodeText", "t5_tokens: 16, precision: F32"),
    ("latents", "EncodeImages", "resolution: 64, buckets: (step: 16)"),
    (
        "train",
        "Train",
        "epochs: EPOCHS, batch: 2, learning_rate: 1e-3, schedule: Constant(), precision: F32, save_every: 1",
    ),
    ("export", "Export", ""),
    ("sample", "Sample", "prompts: [PROMPT], size: (64, 64), steps: 1, t5_tokens: 16, precision: F32"),
];

/// What the pipeline files say, apart from what never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub name: String,
    pub data: String,
    /// The model's files by their fields.
    pub model: BTreeMap<&'static str, String>,
    /// Fields right in a stage that were set in the file: by stage and field.
    pub fields: BTreeMap<(&'static str, &'static str), &'static str>,
}

impl Written {
    fn new() -> Self {
        let model = [("checkpoint", "sd3_tiny"), ("clip_l", "clip_l"), ("clip_g", "clip_g"), ("t5xxl", "t5xxl")];
        let model = model.map(|(field, file)| (field, format!("model/{file}.safetensors"))).into();
        Self { name: "first".to_owned(), data: "photos".to_owned(), model, fields: BTreeMap::new() }
    }

    /// The text of a pipeline file.
    fn text(&self, index: usize) -> String {
        let (name, epochs, prompt) =
            if index == 0 { (self.name.as_str(), "1", "\"a cat\"") } else { ("second", "2", "\"a cat\", \"a hut\"") };
        let model: String = self.model.iter().map(|(field, path)| format!("{field}: {path:?}, ")).collect();
        let mut text = format!(
            "Pipeline(\n    name: {name:?},\n    model: ({model}tokenizers: (clip: \"model/clip_tokenizer.json\", \
             t5: \"model/t5_tokenizer.json\")),\n    device: Cpu,\n    stages: {{\n"
        );
        for (stage, kind, fields) in STAGES {
            let mut fields: Vec<String> = split(fields).map(str::to_owned).collect();
            for ((_, field), value) in self.fields.iter().filter(|((of, _), _)| *of == stage) {
                fields.retain(|written| !written.starts_with(&format!("{field}: ")));
                fields.push(format!("{field}: {value}"));
            }
            text += &format!("        {stage:?}: {kind}({}),\n", fields.join(", "));
        }
        text += "    },\n)\n";
        text.replace("DATA", &format!("{:?}", self.data)).replace("EPOCHS", epochs).replace("PROMPT", prompt)
    }
}

/// The parts between the commas that stand in no bracket.
fn split(fields: &'static str) -> impl Iterator<Item = &'static str> {
    let mut depth = 0;
    let parts = fields.split(move |symbol| {
        depth += i32::from("([".contains(symbol)) - i32::from(")]".contains(symbol));
        symbol == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// The inputs at one moment.
#[derive(Clone, PartialEq)]
struct Inputs {
    files: BTreeMap<PathBuf, Vec<u8>>,
    written: Written,
    settings: BTreeMap<&'static str, &'static Field>,
}

/// The folder.
pub struct World {
    pub space: TestSpace,
    pub written: Written,
    /// Fields that are set on the command line, by their paths.
    pub settings: BTreeMap<&'static str, &'static Field>,
    before: Inputs,
}

impl World {
    pub fn new() -> Self {
        let space = TestSpace::small();
        space.remove("test.ron");
        for (name, caption) in
            [("fig", "a fig, ripe, on a plate"), ("hut", "a hut, by the sea"), ("owl", "an owl, asleep")]
        {
            space.write(&format!("photos/{name}.txt"), caption);
        }
        let (written, settings) = (Written::new(), BTreeMap::new());
        let before = Inputs { files: BTreeMap::new(), written: written.clone(), settings: settings.clone() };
        let mut world = Self { space, written, settings, before };
        world.write_pipelines();
        world.remember();
        world
    }

    pub fn write_pipelines(&self) {
        for (index, (file, _)) in PIPELINES.iter().enumerate() {
            self.space.write(file, self.written.text(index));
        }
    }

    /// The inputs, by their paths in the folder.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = self.space.files(&self.written.data);
        files.extend(self.space.files("model"));
        files.extend(PIPELINES.iter().map(|(file, _)| (PathBuf::from(file), self.space.read(file))));
        files
    }

    /// What `--set` is given.
    pub fn arguments(&self) -> Vec<&'static str> {
        self.settings.values().flat_map(|field| field.settings).flat_map(|setting| ["--set", setting]).collect()
    }

    /// The names of the pictures, sorted, without folder and ending.
    pub fn pictures(&self) -> Vec<String> {
        let names = self.space.files(&self.written.data).into_keys();
        let names = names.filter(|path| path.extension().is_some_and(|extension| extension == "png"));
        names.map(|path| path.file_stem().expect("a name").to_str().expect("plain").to_owned()).collect()
    }

    /// A path in the data folder.
    pub fn item(&self, name: &str, ending: &str) -> String {
        format!("{}/{name}.{ending}", self.written.data)
    }

    fn inputs(&self) -> Inputs {
        Inputs { files: self.files(), written: self.written.clone(), settings: self.settings.clone() }
    }

    /// Takes note of the inputs, for [`undo`](Self::undo).
    pub fn remember(&mut self) {
        self.before = self.inputs();
    }

    /// Puts back what was remembered last; once more, and it is the other way round.
    pub fn undo(&mut self) {
        let now = self.inputs();
        let then = std::mem::replace(&mut self.before, now.clone());
        for path in now.files.keys().filter(|path| !then.files.contains_key(*path)) {
            self.space.remove(path.to_str().expect("plain"));
        }
        if now.written.data != then.written.data {
            fs::remove_dir(self.space.path(&now.written.data)).expect("an empty folder");
        }
        for (path, bytes) in then.files.iter().filter(|(path, bytes)| now.files.get(*path) != Some(bytes)) {
            self.space.write(path.to_str().expect("plain"), bytes);
        }
        (self.written, self.settings) = (then.written, then.settings);
    }
}
