//! What a training sees of its images, and the digests by which its keys know them.

use super::parameters::Train;
use crate::{
    action::{Artifact, Entry},
    error::StageError,
    images::{FLIPPED, FLIPPED_MASK, LATENTS, MASK},
};
use sd3pipe_cache::Digest;
use std::collections::HashMap;

/// An item as training sees it.
#[derive(Clone, Debug)]
pub struct TrainItem {
    /// Its id, which its noise is drawn by.
    pub id: String,
    /// The digest of its file's bytes, by which it is held out or not.
    pub image: String,
    /// Times that it's seen in an epoch.
    pub repeats: u32,
    /// The encodings of its caption's variants.
    pub texts: Vec<Digest>,
    /// The variants themselves, for CLIPs that have an adapter.
    pub captions: Vec<String>,
    /// Its latents.
    pub latents: Digest,
    /// Which cells of these are learnt, if not all are.
    pub mask: Option<Digest>,
    /// Its latents mirrored left to right with their mask, if it is trained so too.
    pub flipped: Option<(Digest, Option<Digest>)>,
    /// Width and height of its bucket in pixels.
    pub bucket: (u32, u32),
    /// Whether another item of this id, in another bucket, comes before it: an image that is trained at several resolutions.
    pub further: bool,
    /// What it counts in the loss.
    pub weight: f64,
    /// Whether it is there to keep what the model knew: it is neither held out nor measured.
    pub regularisation: bool,
}

/// What the images' stage made of an item at one place.
pub(super) struct View<'a> {
    pub latents: &'a Entry,
    pub mask: Option<Digest>,
    pub flipped: Option<Digest>,
    pub flipped_mask: Option<Digest>,
}

/// The views of every item: what belongs to latents comes right behind them.
pub(super) fn views(latents: &Artifact) -> HashMap<&str, Vec<View<'_>>> {
    let mut views: HashMap<&str, Vec<View<'_>>> = HashMap::new();
    for entry in &latents.entries {
        let of_item = views.entry(&entry.item).or_default();
        if entry.role == LATENTS {
            of_item.push(View { latents: entry, mask: None, flipped: None, flipped_mask: None });
        } else if let Some(view) = of_item.last_mut() {
            match entry.role.as_str() {
                MASK => view.mask = Some(entry.digest),
                FLIPPED => view.flipped = Some(entry.digest),
                FLIPPED_MASK => view.flipped_mask = Some(entry.digest),
                _ => {}
            }
        }
    }
    views
}

/// What is trained on and what is held out.
pub(super) fn split(parameters: &Train, items: Vec<TrainItem>) -> Result<(Vec<TrainItem>, Vec<TrainItem>), StageError> {
    let Some(validation) = &parameters.validation else { return Ok((items, Vec::new())) };
    let count = items.len();
    let (trained, held_out) = validation.split(items);
    let (happens, change) = match (trained.is_empty(), held_out.is_empty()) {
        (true, _) => ("all are held out and none is left to train on", "lower"),
        (_, true) => ("none is held out", "raise"),
        _ => return Ok((trained, held_out)),
    };
    Err(StageError::Unfit(format!(
        "`validation`: of {count} images {happens}; each is decided on alone, by its bytes: {change} `share` (now {})",
        validation.share
    )))
}

/// The digest of what an epoch reads of its data.
pub(super) fn items_digest(items: &[TrainItem], reads_captions: bool) -> Digest {
    let mut bytes = Vec::new();
    let mut field = |part: &[u8]| {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    };
    for item in items {
        field(item.id.as_bytes());
        field(&item.repeats.to_le_bytes());
        field(&[item.bucket.0.to_le_bytes(), item.bucket.1.to_le_bytes()].concat());
        field(item.latents.as_bytes());
        field(&item.texts.iter().flat_map(|text| *text.as_bytes()).collect::<Vec<u8>>());
        item.captions.iter().filter(|_| reads_captions).for_each(|caption| field(caption.as_bytes()));
    }
    Digest::of(&bytes)
}

/// The digest of what a validation reads of some items: what a noise is drawn by, the latents, their mask and the first caption.
pub(super) fn measured_digest(items: &[TrainItem], reads_captions: bool) -> Digest {
    let line = |item: &TrainItem| {
        let text = item.texts.first().map(Digest::to_string).unwrap_or_default();
        let caption = item.captions.first().filter(|_| reads_captions);
        let caption = caption.map(|caption| format!(" {}", Digest::of(caption.as_bytes()))).unwrap_or_default();
        let mask = item.mask.map(|mask| mask.to_string()).unwrap_or_default();
        format!("{} {} {mask} {text}{caption}\n", item.image, item.latents)
    };
    Digest::of(items.iter().map(line).collect::<String>().as_bytes())
}

/// The digest of what some items have and most have not; nothing if none has, so that older trainings are still found.
pub(super) fn more_digest(items: &[TrainItem]) -> Option<Digest> {
    let mut bytes = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let TrainItem { mask, flipped, further, weight, .. } = item;
        if mask.is_none() && flipped.is_none() && !further && *weight == 1.0 {
            continue;
        }
        bytes.extend((index as u64).to_le_bytes());
        bytes.extend(weight.to_bits().to_le_bytes());
        bytes.push(u8::from(*further));
        let (latents, flipped_mask) = flipped.unzip();
        for digest in [*mask, latents, flipped_mask.flatten()] {
            bytes.push(u8::from(digest.is_some()));
            bytes.extend(digest.iter().flat_map(|digest| *digest.as_bytes()));
        }
    }
    (!bytes.is_empty()).then(|| Digest::of(&bytes))
}
