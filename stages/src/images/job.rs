//! Encoding images as keyed actions: one for each distinct picture at its place in a bucket.

use crate::{
    action::{Action, Artifact},
    captions::{Item, items::Mask},
    checkpoint::Component,
    error::StageError,
    facts::Facts,
    images::{
        FLIPPED, FLIPPED_MASK, LATENTS, MASK, MASK_REVISION, REVISION,
        bucket::{Placement, place},
        parameters::EncodeImages,
    },
};
use sd3pipe_cache::{Common, Key, KeyError, Output, Preimage};
use std::{collections::HashMap, path::PathBuf, sync::Arc};

/// All images of a pipeline's items.
#[derive(Clone, Debug)]
pub struct ImagesJob {
    /// How to encode.
    pub parameters: EncodeImages,
    /// The model.
    pub facts: Facts,
    /// For each action the picture that it reads.
    pub pictures: Vec<Picture>,
    /// One for each distinct picture.
    pub actions: Vec<Action>,
    /// Every item with each of its actions.
    items: Vec<(String, usize)>,
}

/// A picture, and what is made of it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The file.
    pub path: PathBuf,
    /// The digest that the file had when the captions were read.
    pub digest: String,
    /// How its image gets into its bucket.
    pub placement: Placement,
    /// What is made of it.
    pub made: Made,
    /// Whether it is mirrored left to right first.
    pub flip: bool,
}

/// What is made of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Its latents.
    Latents,
    /// The mask in its alpha channel.
    AlphaMask,
    /// The mask that it is.
    Mask,
}

impl Picture {
    /// What its action puts out.
    pub fn role(&self) -> &'static str {
        match (self.made, self.flip) {
            (Made::Latents, false) => LATENTS,
            (Made::Latents, true) => FLIPPED,
            (_, false) => MASK,
            (_, true) => FLIPPED_MASK,
        }
    }

    fn label(&self, id: &str) -> String {
        let of = if self.made == Made::Latents { "" } else { "mask of " };
        format!("{of}{id}{}", if self.flip { ", flipped" } else { "" })
    }

    /// What is made of it is a function of this; `common` is what all latents are made with.
    fn action(&self, id: &str, common: &Arc<Common>) -> Result<Action, KeyError> {
        let of_mask = || Preimage::new("read mask", MASK_REVISION);
        let mut own = if self.made == Made::Latents { common.own() } else { of_mask() };
        own.read("image", &self.digest)?;
        // Where the picture comes to lie and not the settings that put it there: other buckets leave most pictures be.
        own.read("placement", &self.placement)?;
        if self.flip {
            own.read("flip", &true)?;
        }
        match self.made {
            Made::Latents => return Action::among(self.label(id), common, &own),
            Made::AlphaMask => own.read("channel", &"alpha")?,
            Made::Mask => own.read("channel", &"red")?,
        }
        Ok(Action::new(self.label(id), own))
    }
}

/// The files of an item.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The image.
    pub image: PathBuf,
    /// The mask, if it has a file of its own.
    pub mask: Option<PathBuf>,
}

impl ImagesJob {
    /// The pictures of `items`; `files` gives those of an item by its id.
    ///
    /// # Errors
    /// With every image that fits into no bucket, or if the network can't take images of that size.
    pub fn new(
        parameters: &EncodeImages,
        facts: &Facts,
        items: &[Item],
        mut files: impl FnMut(&str) -> Files,
    ) -> Result<Self, StageError> {
        let mut job = Self {
            parameters: parameters.clone(),
            facts: facts.clone(),
            pictures: Vec::new(),
            actions: Vec::new(),
            items: Vec::new(),
        };
        let mut faults = Vec::new();
        let mut seen: HashMap<Key, usize> = HashMap::with_capacity(items.len());
        let mut common = Preimage::new("encode image", REVISION);
        common.read("precision", &parameters.precision)?;
        common.read("device", &facts.device)?;
        common.read("model", &facts.digests(&[Component::VaeEncoder]))?;
        let common = Arc::new(Common::new(common));
        for item in items {
            let mut placements: Vec<Placement> = Vec::new();
            for resolution in parameters.resolutions() {
                match place(item.width, item.height, resolution, parameters.buckets.as_ref()) {
                    // What lies alike at two resolutions is one picture.
                    Ok(placement) if placements.contains(&placement) => {}
                    Ok(placement) => placements.push(placement),
                    Err(fault) => {
                        faults.push(format!("  {}: {fault}", item.id));
                        break;
                    }
                }
            }
            for placement in placements {
                let (width, height) = placement.bucket;
                // Said once: it's the resolution that is wrong, and not the images.
                facts.geometry.check_latents(height as usize / 8, width as usize / 8).map_err(|fault| {
                    let id = &item.id;
                    StageError::Unfit(format!(
                        "{id} would be trained at {width} × {height} pixels, and {fault}; lower `resolution`"
                    ))
                })?;
                for picture in pictures(item, placement, files(&item.id)) {
                    let action = picture.action(&item.id, &common)?;
                    let index = *seen.entry(action.key).or_insert_with(|| {
                        job.pictures.push(picture);
                        job.actions.push(action);
                        job.actions.len() - 1
                    });
                    job.items.push((item.id.clone(), index));
                }
            }
        }
        if !faults.is_empty() {
            return Err(StageError::Items { what: "images", faults });
        }
        Ok(job)
    }

    /// What the stage made, item by item, from what each action made: of each item at each of its places its latents, and what else
    /// belongs to these right behind them.
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

/// All that is made of an item at one place, its latents first.
fn pictures(item: &Item, placement: Placement, files: Files) -> Vec<Picture> {
    let image = Picture { path: files.image, digest: item.image.clone(), placement, made: Made::Latents, flip: false };
    let mask = item.mask.as_ref().map(|mask| match mask {
        Mask::Alpha => Picture { made: Made::AlphaMask, ..image.clone() },
        Mask::File(digest) => {
            Picture { path: files.mask.unwrap_or_default(), digest: digest.clone(), made: Made::Mask, ..image.clone() }
        }
    });
    let mut pictures: Vec<Picture> = [Some(image), mask].into_iter().flatten().collect();
    if item.flip {
        let flipped: Vec<Picture> = pictures.iter().map(|picture| Picture { flip: true, ..picture.clone() }).collect();
        pictures.extend(flipped);
    }
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::parameters::{Buckets, Resolution};
    use crate::train::tests::facts;

    fn item(id: &str, digest: &str) -> Item {
        Item { id: id.to_owned(), image: digest.to_owned(), width: 200, height: 100, ..Item::default() }
    }

    fn parameters() -> EncodeImages {
        let resolution = Resolution { width: 64, height: 64 };
        EncodeImages {
            resolution,
            buckets: Some(Buckets { step: 16, ..Buckets::default() }),
            ..EncodeImages::default()
        }
    }

    fn job(parameters: &EncodeImages, items: &[Item]) -> ImagesJob {
        ImagesJob::new(parameters, &facts(), items, |_: &str| Files::default()).unwrap()
    }

    fn keys(job: &ImagesJob) -> Vec<String> {
        job.actions.iter().map(|action| action.key.to_string()).collect()
    }

    fn labels(job: &ImagesJob) -> Vec<&str> {
        job.actions.iter().map(|action| action.label.as_str()).collect()
    }

    #[test]
    fn keys_are_pinned_for_ever() {
        let job = job(&parameters(), &[item("a.png", "1"), item("b.png", "2"), item("c.png", "1")]);
        assert_eq!(labels(&job), ["a.png", "b.png"]);
        assert_eq!(keys(&job), PINNED);
    }

    const PINNED: [&str; 2] = [
        "e3d975e009ddd53fdb5a643490db852fbe3c26ef808af76455da67cfd1a567ba",
        "2744037fc2e60ba1f88c468330ca45bcdf032869db73ce182590780ef12ed34b",
    ];

    #[test]
    fn flips_masks_and_sizes_are_added_and_move_no_key() {
        let plain = job(&parameters(), &[item("a.png", "1")]);
        let special = Item { flip: true, mask: Some(Mask::File("9".to_owned())), ..item("a.png", "1") };
        let more = job(&parameters(), std::slice::from_ref(&special));
        assert_eq!(labels(&more), ["a.png", "mask of a.png", "a.png, flipped", "mask of a.png, flipped"]);
        assert_eq!(keys(&more)[0], keys(&plain)[0]);
        let roles: Vec<&str> = more.pictures.iter().map(Picture::role).collect();
        assert_eq!(roles, [LATENTS, MASK, FLIPPED, FLIPPED_MASK]);

        let further = vec![Resolution { width: 96, height: 96 }];
        let large = job(&EncodeImages { further_resolutions: further, ..parameters() }, &[special]);
        assert_eq!(keys(&large)[..4], keys(&more));
        assert_eq!(labels(&large)[4..], labels(&more));
        let buckets: Vec<(u32, u32)> = large.pictures.iter().map(|picture| picture.placement.bucket).collect();
        assert_eq!((buckets[0], buckets[4]), ((80, 48), (128, 64)));
        let mut distinct = keys(&large);
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn an_image_that_lies_alike_at_two_resolutions_is_one_picture() {
        let buckets = Some(Buckets { step: 16, upscale: false, ..Buckets::default() });
        let further_resolutions = vec![Resolution { width: 256, height: 256 }];
        let parameters = EncodeImages { buckets, further_resolutions, ..parameters() };
        let small = Item { width: 48, height: 48, ..item("a.png", "1") };
        assert_eq!(job(&parameters, &[small]).actions.len(), 1);
        assert_eq!(job(&parameters, &[item("a.png", "1")]).actions.len(), 2);
    }
}
