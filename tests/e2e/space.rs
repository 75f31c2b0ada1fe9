//! A folder with a pipeline, a model and pictures, and the program to run there: an end-to-end test in a few lines.

pub use crate::program::{Outcome, program, repository};

use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Six of the test photographs: landscape, portrait, square, a PNG, one with an EXIF orientation.
pub const PHOTOS: [&str; 6] = [
    "coffee-cup.png",
    "dragonfly-on-twig.jpg",
    "mountain-path.jpg",
    "tabby-cat-face.jpg",
    "two-dogs-at-a-window.jpg",
    "wall-clock.jpg",
];

/// The smallest pipeline that goes through every stage.
pub const PIPELINE: &str = r#"Pipeline(
    name: "test",
    model: (
        checkpoint: "model/sd3_tiny.safetensors",
        clip_l: "model/clip_l.safetensors",
        clip_g: "model/clip_g.safetensors",
        t5xxl: "model/t5xxl.safetensors",
        tokenizers: (clip: "model/clip_tokenizer.json", t5: "model/t5_tokenizer.json"),
    ),
    device: Cpu,
    stages: {
        "captions": Captions(data: [(path: "photos")]),
        "text": EncodeText(t5_tokens: 16, precision: F32),
        "latents": EncodeImages(resolution: 64, buckets: (step: 16)),
        "train": Train(epochs: 2, batch: 2, learning_rate: 1e-3, schedule: Constant(), precision: F32, save_every: 1),
        "export": Export(),
        "sample": Sample(prompts: ["a cat"], size: (64, 64), steps: 2, t5_tokens: 16, precision: F32),
    },
)
"#;

/// Waits for something that another process does.
pub fn wait_until(what: &str, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder of a test, gone with it.
pub struct TestSpace {
    folder: tempfile::TempDir,
}

impl TestSpace {
    /// Nothing but an empty folder.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The tiny model, six photographs with captions, and [`PIPELINE`] as `test.ron`.
    pub fn demo() -> Self {
        let space = Self::empty();
        space.copy(&repository().join("tests/model"), "model", |_| true);
        let chosen =
            |name: &str| PHOTOS.iter().any(|photo| Path::new(photo).file_stem() == Path::new(name).file_stem());
        space.copy(&repository().join("tests/photos"), "photos", chosen);
        space.write("test.ron", PIPELINE);
        space
    }

    /// The tiny model and three small pictures with captions, and [`PIPELINE`] with one epoch: a whole run in a third of a second.
    pub fn small() -> Self {
        let space = Self::empty();
        space.copy(&repository().join("tests/model"), "model", |_| true);
        for (number, (name, caption)) in [("fig", "a fig"), ("hut", "a hut"), ("owl", "an owl")].into_iter().enumerate()
        {
            space.picture(&format!("photos/{name}.png"), (96 - 16 * (number as u32 % 2), 64), number as u8);
            space.write(&format!("photos/{name}.txt"), caption);
        }
        space.write("test.ron", PIPELINE.replace("epochs: 2", "epochs: 1"));
        space
    }

    /// Draws a picture that is another for each `shade`.
    pub fn picture(&self, name: &str, (width, height): (u32, u32), shade: u8) {
        let pixel = |x: u32, y: u32| image::Rgb([(x * 2) as u8, (y * 3) as u8, shade.wrapping_mul(37)]);
        fs::create_dir_all(self.path(name).parent().expect("a folder")).expect("a folder");
        image::RgbImage::from_fn(width, height, pixel).save(self.path(name)).expect("saved");
    }

    /// Copies the files right in a folder.
    pub fn copy(&self, from: &Path, to: &str, chosen: impl Fn(&str) -> bool) {
        fs::create_dir_all(self.path(to)).expect("a folder");
        for entry in fs::read_dir(from).expect("the folder is in the repository") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a plain name");
            if entry.path().is_file() && chosen(&name) {
                fs::copy(entry.path(), self.path(to).join(name)).expect("a copy");
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().expect("a folder")).expect("a folder");
        fs::write(self.path(name), content).expect("written");
    }

    /// A new file, for what a program says.
    pub fn file(&self, name: &str) -> fs::File {
        fs::File::create(self.path(name)).expect("created")
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("renamed");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }

    /// Replaces a part of a text file, which must be there.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.read(name)).expect("a text");
        assert!(text.contains(from), "{name} has no {from:?}");
        self.write(name, text.replace(from, to));
    }

    /// Writes an adapter of one layer of the tiny model, as sd-scripts does.
    pub fn lora(&self, name: &str) {
        let model = self.read("model/sd3_tiny.safetensors");
        let model = safetensors::SafeTensors::deserialize(&model).expect("a model");
        let layer = model.tensor("model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight").expect("a layer");
        let [outputs, inputs] = layer.shape()[..] else { panic!("a matrix") };
        let values = |count: usize| -> Vec<u8> {
            (0..count).flat_map(|index| ((index * 7 % 13) as f32 / 13.0 - 0.5).to_le_bytes()).collect()
        };
        let halves = [("lora_down", vec![2, inputs]), ("lora_up", vec![outputs, 2])];
        let tensors = halves.map(|(half, shape)| {
            (
                format!("lora_unet_joint_blocks_0_x_block_attn_proj.{half}.weight"),
                shape.clone(),
                values(shape.iter().product()),
            )
        });
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            (name.as_str(), view.expect("a tensor"))
        });
        self.write(name, safetensors::serialize(views, None).expect("a file"));
    }

    /// Changes the last value of a tensor a little, in place; the same once more puts it back.
    pub fn change_tensor(&self, file: &str, name: &str) {
        let bytes = self.read(file);
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a model");
        let (_, end) = metadata.info(name).expect("the tensor").data_offsets;
        let place = 8 + header + end - 2;
        let opened = fs::File::options().write(true).open(self.path(file)).expect("a model");
        opened.write_all_at(&[bytes[place] ^ 1], place as u64).expect("written");
    }

    /// The program with these arguments, in the folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(self.folder.path()).env_remove("SD3PIPE_STORE").env("NO_COLOR", "1");
        command
    }

    pub fn call(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).output().expect("the program starts"))
    }

    /// `sd3pipe run test.ron` with more arguments.
    pub fn run_with(&self, arguments: &[&str]) -> Outcome {
        self.call(&[&["run", "test.ron"], arguments].concat())
    }

    pub fn run(&self) -> Outcome {
        self.run_with(&[])
    }

    /// The stages that a plan says will run, each with the actions that it names, sorted.
    pub fn planned(&self, arguments: &[&str]) -> BTreeMap<String, Vec<String>> {
        let plan = self.call(&[&["plan", "test.ron", "--json"], arguments].concat()).succeeds().json();
        let stages = plan["stages"].as_array().expect("stages").iter().filter(|stage| stage["state"] != "kept");
        let sorted = |stage: &Value| {
            let mut missing: Vec<String> = stage["missing"].as_array().expect("a list").iter().map(text).collect();
            missing.sort();
            missing
        };
        stages.map(|stage| (text(&stage["name"]), sorted(stage))).collect()
    }

    /// What the last run carried out, stage by stage, sorted.
    pub fn executed(&self) -> BTreeMap<String, Vec<String>> {
        let shown = self.call(&["show", "last", "--json"]).succeeds().json();
        let stages = shown["journal"]["stages"].as_array().expect("stages").iter();
        let lists = stages.map(|stage| {
            (text(&stage["name"]), stage["executed"].as_array().expect("a list").iter().map(text).collect::<Vec<_>>())
        });
        let lists = lists.map(|(name, mut executed)| {
            executed.sort();
            (name, executed)
        });
        lists.filter(|(_, executed)| !executed.is_empty()).collect()
    }

    /// Every file below a folder with its bytes, but for pages: they tell when and how fast, which differs from run to run.
    pub fn files(&self, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let walk = walkdir::WalkDir::new(self.path(folder))
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file() && entry.file_name() != "report.html");
        walk.map(|entry| {
            (
                entry.path().strip_prefix(self.folder.path()).expect("below").to_owned(),
                fs::read(entry.path()).expect("a file"),
            )
        })
        .collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
