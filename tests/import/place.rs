//! A folder in which all is there that a training names.

use sd3pipe::{
    import::{self, Circumstances, Imported, arguments, shell},
    pipeline::{self, Resolved},
};
use sd3pipe_stages::stage::Stage;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Models and pictures, all of them empty files.
pub struct Place(TempDir);

impl Place {
    /// Ten pictures to be seen twice, and four of a class.
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        for name in ["sd3_medium", "clip_l", "clip_g", "t5xxl_fp16", "vae", "lora"] {
            place.write(&format!("models/{name}.safetensors"), "");
        }
        place.write("models/spiece.model", "");
        place.pictures("photos/2_dog", 10);
        place.pictures("class/1_animal", 4);
        place
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    pub fn pictures(&self, folder: &str, count: u32) {
        (0..count).for_each(|number| self.write(&format!("{folder}/{number}.png"), ""));
    }

    /// What a script with a training comes to, or what is refused of it.
    pub fn import_as_of(&self, script: &str, as_of: Option<&str>) -> Result<Imported, String> {
        let told = |list: Vec<import::Refusal>| list.iter().map(|one| format!("{one}\n")).collect::<String>();
        let commands = shell::commands(script, &|_| None);
        let (command, folder) = arguments::find(commands, self.path()).map_err(|one| one.to_string())?;
        let arguments = arguments::read(&command.words, folder).map_err(told)?;
        let circumstances = Circumstances {
            target: self.path().to_owned(),
            as_of: as_of.map(str::to_owned),
            ..Circumstances::default()
        };
        import::pipeline(&arguments, &circumstances).map_err(told)
    }

    pub fn import(&self, script: &str) -> Result<String, String> {
        self.import_as_of(script, None).map(|imported| imported.text)
    }

    /// The pipeline that a text is, read as from a file by the checks of `plan`.
    pub fn load(&self, text: &str) -> Resolved {
        let file: PathBuf = self.path().join("imported.ron");
        fs::write(&file, text).expect("written");
        pipeline::load(&file, &[]).unwrap_or_else(|faults| panic!("{:?}\n{text}", faults.list))
    }

    /// The pipeline that a training comes to.
    pub fn pipeline(&self, script: &str) -> Resolved {
        let text = self.import(script).unwrap_or_else(|refused| panic!("{refused}"));
        self.load(&text)
    }
}

/// The parameters of a stage, with all that it names written as its kind.
pub fn stage<'r>(resolved: &'r Resolved, name: &str) -> &'r Stage {
    resolved.pipeline.stages.get(name).unwrap_or_else(|| panic!("no stage {name}"))
}

/// A stage as it is when it is written in RON.
pub fn read(text: &str) -> Stage {
    pipeline::options().from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The parameters of one kind.
macro_rules! parameters {
    ($resolved:expr, $name:expr, $kind:ident) => {
        match crate::place::stage($resolved, $name) {
            sd3pipe_stages::stage::Stage::$kind(parameters) => parameters,
            other => panic!("{other:?}"),
        }
    };
}
pub(crate) use parameters;
