//! What can happen to a folder between two runs.

use super::{
    fields,
    world::{PIPELINES, World},
};
use sd3pipe_stages::random::Draws;
use std::{fmt, fs, os::unix::fs::PermissionsExt, str::FromStr, thread::sleep, time::Duration};

/// An edit and the number that its choices follow from: the same on the same folder does the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edit {
    pub kind: Kind,
    pub choice: u64,
}

/// Declares the kinds with their names, so that a list of edits can be printed and read again.
macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($kind),* }
        const KINDS: &[Kind] = &[$(Kind::$kind),*];
    };
}

kinds!(
    CaptionChanged,
    CaptionEmptied,
    CaptionRestored,
    ImageReplaced,
    ImageAdded,
    ImageRemoved,
    ImageRenamed,
    ImagesSwapped,
    CaptionsSwapped,
    Touched,
    PermissionsChanged,
    FolderRenamed,
    SetInFile,
    SetOnCommandLine,
    Unset,
    TensorChanged,
    ModelSavedAgain,
    ModelRenamed,
    PipelineRenamed,
    Undone,
    SecondPipeline,
    RunUntil,
    Forced,
    Killed,
    Collected,
    ResultRemoved,
    ResultScribbledOver,
);

/// One tensor of each network.
const TENSORS: [(&str, &str); 6] = [
    ("checkpoint", "model.diffusion_model.final_layer.linear.bias"),
    ("checkpoint", "first_stage_model.encoder.conv_out.bias"),
    ("checkpoint", "first_stage_model.decoder.conv_out.bias"),
    ("clip_l", "text_model.final_layer_norm.bias"),
    ("clip_g", "text_projection.weight"),
    ("t5xxl", "encoder.final_layer_norm.weight"),
];

const STAGES: [&str; 5] = ["text", "latents", "train", "export", "sample"];

impl fmt::Display for Edit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}:{}", self.kind, self.choice)
    }
}

impl FromStr for Edit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, choice) = text.split_once(':').ok_or_else(|| format!("{text:?} is no edit"))?;
        let kind = KINDS.iter().find(|kind| format!("{kind:?}") == name);
        let kind = *kind.ok_or_else(|| format!("there is no edit {name:?}"))?;
        Ok(Self { kind, choice: choice.parse().map_err(|_| format!("{choice:?} is no number"))? })
    }
}

/// What to run after an edit.
#[derive(Clone, Debug, Default)]
pub struct Then {
    /// The index of the pipeline.
    pub pipeline: usize,
    /// A stage to do anew.
    pub force: Option<&'static str>,
}

impl Edit {
    /// The next edit of a history.
    pub fn draw(draws: &mut Draws) -> Self {
        let kind = KINDS[draws.below(KINDS.len() as u64) as usize];
        Self { kind, choice: draws.below(1000) }
    }

    fn of<T: Clone>(&self, list: &[T]) -> T {
        list[self.choice as usize % list.len()].clone()
    }

    /// Does it. An edit that makes no sense now, such as removing the last pictures, does nothing.
    pub fn apply(&self, world: &mut World) -> Then {
        if self.kind == Kind::Undone {
            world.undo();
            return Then::default();
        }
        world.remember();
        let pictures = world.pictures();
        let picture = self.of(&pictures);
        let another = self.of(&pictures.iter().filter(|other| **other != picture).cloned().collect::<Vec<_>>());
        let caption = world.item(&picture, "txt");
        let shade = (self.choice % 7) as u8 + 10;
        match self.kind {
            Kind::CaptionChanged => world.space.write(&caption, format!("{picture}, number {}", self.choice % 5)),
            Kind::CaptionEmptied => world.space.write(&caption, ""),
            Kind::CaptionRestored => world.space.write(&caption, format!("a {picture}, as it was")),
            Kind::ImageReplaced => {
                // Of the same shape or of another, which is another bucket.
                let size = if self.choice.is_multiple_of(2) { (64, 96) } else { (96, 64) };
                world.space.picture(&world.item(&picture, "png"), size, shade);
            }
            Kind::ImageAdded if pictures.len() < 5 => {
                let name = format!("added-{}", self.choice % 4);
                world.space.picture(&world.item(&name, "png"), (80, 80), shade);
                // Sometimes with a caption that another has too.
                let text =
                    if self.choice.is_multiple_of(3) { "an owl, asleep".to_owned() } else { format!("{name}, new") };
                world.space.write(&world.item(&name, "txt"), text);
            }
            Kind::ImageRemoved if pictures.len() > 2 => {
                world.space.remove(&world.item(&picture, "png"));
                drop(fs::remove_file(world.space.path(&caption)));
            }
            Kind::ImageRenamed => {
                let name = format!("{}-{}", picture.split('-').next().unwrap_or_default(), self.choice % 9);
                if !pictures.contains(&name) {
                    world.space.rename(&world.item(&picture, "png"), &world.item(&name, "png"));
                    if world.space.path(&caption).exists() {
                        world.space.rename(&caption, &world.item(&name, "txt"));
                    }
                }
            }
            Kind::ImagesSwapped => swap(world, &picture, &another, "png"),
            Kind::CaptionsSwapped => swap(world, &picture, &another, "txt"),
            Kind::Touched => {
                let path = world.item(&picture, if self.choice.is_multiple_of(2) { "png" } else { "txt" });
                let bytes = world.space.read(&path);
                world.space.write(&path, bytes);
            }
            Kind::PermissionsChanged => {
                let mode = self.of(&[0o600, 0o644, 0o755, 0o664]);
                let path = world.space.path(&world.item(&picture, "png"));
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
            }
            Kind::FolderRenamed => {
                let name = self.of(&["photos", "pictures", "the pictures"]);
                if name != world.written.data {
                    world.space.rename(&world.written.data, name);
                    name.clone_into(&mut world.written.data);
                }
            }
            Kind::SetInFile => {
                let field = self.of(&fields::free());
                for setting in field.settings {
                    let (path, value) = setting.split_once('=').expect("a setting");
                    match path.split('.').collect::<Vec<_>>()[..] {
                        [stage, name] => drop(world.written.fields.insert((stage, name), value)),
                        _ => drop(world.settings.insert(field.path, field)),
                    }
                }
            }
            Kind::SetOnCommandLine => {
                let field = self.of(&fields::free());
                world.settings.insert(field.path, field);
            }
            Kind::Unset => {
                world.settings.clear();
                world.written.fields.clear();
            }
            Kind::TensorChanged => {
                let (field, tensor) = self.of(&TENSORS);
                world.space.change_tensor(&world.written.model[field], tensor);
            }
            Kind::ModelSavedAgain => {
                let field = self.of(&["checkpoint", "clip_l", "clip_g", "t5xxl"]);
                save_again(world, &world.written.model[field]);
            }
            Kind::ModelRenamed => {
                let field = self.of(&["checkpoint", "clip_l", "clip_g", "t5xxl"]);
                let name = format!("model/{field}-{}.safetensors", self.choice % 5);
                let old = world.written.model.insert(field, name.clone()).expect("a file");
                world.space.rename(&old, &name);
            }
            Kind::PipelineRenamed => world.written.name = self.of(&["first", "renamed", "another"]).to_owned(),
            Kind::RunUntil => {
                let until = ["run", PIPELINES[self.choice as usize % 2].0, "--until", self.of(&STAGES)];
                world.space.call(&[&until[..], &world.arguments()].concat()).succeeds();
            }
            Kind::Killed => {
                let arguments = [&["run", PIPELINES[self.choice as usize % 2].0][..], &world.arguments()].concat();
                let mut command = world.space.command(&arguments);
                let quiet = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
                let mut child = quiet.spawn().expect("the program starts");
                sleep(Duration::from_millis(self.choice % 300));
                child.kill().expect("killed");
                child.wait().expect("an end");
            }
            // A program that can't collect yet has nothing to show here.
            Kind::Collected if world.space.call(&["gc", "--help"]).code == Some(0) => {
                let keep = ["0", "1", "3"][self.choice as usize % 3];
                world.space.call(&["gc", PIPELINES[0].0, "--keep-runs", keep]).succeeds();
            }
            Kind::ResultRemoved | Kind::ResultScribbledOver => {
                let results: Vec<_> = world.space.files("out").into_keys().collect();
                if !results.is_empty() {
                    let path = self.of(&results);
                    match self.kind {
                        Kind::ResultRemoved => world.space.remove(path.to_str().expect("plain")),
                        _ => world.space.write(path.to_str().expect("plain"), "scribble"),
                    }
                }
            }
            Kind::SecondPipeline => return Then { pipeline: 1, force: None },
            Kind::Forced => return Then { pipeline: 0, force: Some(self.of(&STAGES)) },
            Kind::ImageAdded | Kind::ImageRemoved | Kind::Collected | Kind::Undone => {}
        }
        world.write_pipelines();
        Then::default()
    }
}

fn swap(world: &World, one: &str, other: &str, ending: &str) {
    let [one, other] = [one, other].map(|name| world.item(name, ending));
    if [&one, &other].iter().all(|path| world.space.path(path).exists()) {
        world.space.rename(&one, "between");
        world.space.rename(&other, &one);
        world.space.rename("between", &other);
    }
}

/// Writes a file's tensors in another order, the bytes of each as they were.
fn save_again(world: &World, file: &str) {
    let bytes = world.space.read(file);
    let mut tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a model").tensors();
    tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
    // What was in order is turned round, and back again the next time.
    let (first, last) = (&tensors[0], &tensors[tensors.len() - 1]);
    if first.1.data().as_ptr() < last.1.data().as_ptr() {
        tensors.reverse();
    }
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in &tensors {
        let start = data.len();
        data.extend_from_slice(tensor.data());
        let entry = serde_json::json!({
            "dtype": tensor.dtype().to_string(), "shape": tensor.shape(), "data_offsets": [start, data.len()],
        });
        entries.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&entries).expect("a header");
    world.space.write(file, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat());
}
