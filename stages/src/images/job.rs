//! Encoding images as keyed actions: one for each distinct picture at its place in a bucket.

use crate::{
    action::{Action, Artifact},
    captions::Item,
    checkpoint::Component,
    error::StageError,
    facts::Facts,
    images::{
        REVISION,
        bucket::{Placement, place},
        parameters::EncodeImages,
    },
};
use sd3pipe_cache::{Key, Output, Preimage};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

/// All images of a pipeline's items.
#[derive(Clone, Debug)]
pub struct ImagesJob {
    /// How to encode.
    pub parameters: EncodeImages,
    /// The model.
    pub facts: Facts,
    /// For each action the picture that it encodes.
    pub pictures: Vec<Picture>,
    /// One for each distinct picture.
    pub actions: Vec<Action>,
    /// Every item with its action.
    items: Vec<(String, usize)>,
}

/// A picture to encode.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The file.
    pub path: PathBuf,
    /// The digest that the file had when the captions were read.
    pub digest: String,
    /// How it gets into its bucket.
    pub placement: Placement,
}

impl ImagesJob {
    /// The pictures of `items`, whose files `paths` names by item.
    pub fn new(
        parameters: &EncodeImages,
        facts: &Facts,
        items: &[Item],
        paths: &BTreeMap<String, PathBuf>,
    ) -> Result<Self, StageError> {
        let mut job = Self {
            parameters: parameters.clone(),
            facts: facts.clone(),
            pictures: Vec::new(),
            actions: Vec::new(),
            items: Vec::new(),
        };
        let mut faults = Vec::new();
        let mut seen: HashMap<Key, usize> = HashMap::new();
        let model = facts.digests(&[Component::VaeEncoder]);
        for item in items {
            let Ok(placement) = place(item.width, item.height, parameters)
                .map_err(|fault| faults.push(format!("  {}: {fault}", item.id)))
            else {
                continue;
            };
            let (width, height) = placement.bucket;
            // Said once: it's the resolution that is wrong, and not the images.
            facts.geometry.check_latents(height as usize / 8, width as usize / 8).map_err(|fault| {
                let id = &item.id;
                StageError::Unfit(format!(
                    "{id} would be trained at {width} × {height} pixels, and {fault}; lower `resolution`"
                ))
            })?;
            let mut preimage = Preimage::new("encode image", REVISION);
            preimage.read("image", &item.image)?;
            // Where the picture comes to lie and not the settings that put it there: other buckets leave most pictures be.
            preimage.read("placement", &placement)?;
            preimage.read("precision", &parameters.precision)?;
            preimage.read("device", &facts.device)?;
            preimage.read("model", &model)?;
            let action = Action::new(item.id.clone(), preimage);
            let index = *seen.entry(action.key).or_insert_with(|| {
                let path = paths.get(&item.id).cloned().unwrap_or_default();
                job.pictures.push(Picture { path, digest: item.image.clone(), placement });
                job.actions.push(action);
                job.actions.len() - 1
            });
            job.items.push((item.id.clone(), index));
        }
        if !faults.is_empty() {
            return Err(StageError::Items { what: "images", faults });
        }
        Ok(job)
    }

    /// What the stage made, item by item, from what each action made.
    pub fn artifact(&self, outputs: &[Vec<Output>]) -> Artifact {
        let mut artifact = Artifact::default();
        for (id, index) in &self.items {
            let before = artifact.entries.len();
            artifact.extend(&outputs[*index], &[]);
            for entry in &mut artifact.entries[before..] {
                entry.item.clone_from(id);
                entry.size = Some(self.pictures[*index].placement.bucket);
            }
        }
        artifact
    }
}
