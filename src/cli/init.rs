//! `sd3pipe init`: a commented pipeline for a folder of images.

use super::{Failure, print};
use crate::pipeline;
use clap::Args;
use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(super) struct Init {
    /// What the pipeline is called: `my-style` writes my-style.ron.
    name: String,
    /// The folder with the images and their captions.
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// The single-file checkpoint of the model to start from.
    #[arg(long, value_name = "FILE", default_value = "models/sd3_medium.safetensors")]
    checkpoint: PathBuf,
}

const IMAGES: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

impl Init {
    pub(super) fn run(self) -> Result<(), Failure> {
        if !pipeline::is_plain_name(&self.name) {
            return Err(Failure::Usage(format!(
                "`{}` can't name a pipeline\nhint: {}",
                self.name,
                pipeline::PLAIN_NAME
            )));
        }
        let entries = std::fs::read_dir(&self.data).map_err(|error| {
            Failure::Usage(format!(
                "cannot read the folder {}: {error}\nhint: name the folder with your images",
                self.data.display()
            ))
        })?;
        let named = |path: &Path, extensions: &[&str]| {
            let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
            extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
        };
        let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let images: Vec<_> = paths.iter().filter(|path| named(path, &IMAGES)).collect();
        let captioned = images
            .iter()
            .filter(|image| ["txt", "caption"].iter().any(|extension| image.with_extension(extension).exists()))
            .count();
        let file = PathBuf::from(format!("{}.ron", self.name));
        let mut out = OpenOptions::new().write(true).create_new(true).open(&file).map_err(|error| {
            let hint = if error.kind() == std::io::ErrorKind::AlreadyExists {
                "choose another name, or move the file away"
            } else {
                "the folder must be writable"
            };
            Failure::Usage(format!("cannot write {}: {error}\nhint: {hint}", file.display()))
        })?;
        out.write_all(self.text(images.len(), captioned).as_bytes())
            .map_err(|error| Failure::Usage(format!("cannot write {}: {error}", file.display())))?;
        print(&format!(
            "wrote {}\nfound {} images in {}, {captioned} of them with captions\nnext: put the model's paths into it, then `sd3pipe plan {}`\n",
            file.display(),
            images.len(),
            self.data.display(),
            file.display()
        ))
    }

    fn text(&self, images: usize, captioned: usize) -> String {
        // With 4,000 steps as the aim at 16 epochs, as in known good runs of a style on some hundred pictures.
        let repeats = (250 / images.max(1)).clamp(1, 10);
        let missing = if captioned < images {
            "\n            // Not every image has a caption: `Empty` trains those without one, `ClassName` on their folder's class.\n            missing: Empty,"
        } else {
            ""
        };
        include_str!("init.ron")
            .replace("{name}", &self.name)
            .replace("{checkpoint}", &quoted(&self.checkpoint))
            .replace("{data}", &quoted(&self.data))
            .replace("{repeats}", &repeats.to_string())
            .replace("{missing}", missing)
    }
}

/// A path as a RON string.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}
