//! What the stage makes: every item with its image's digest and size, and its texts.

use super::caption::{CaptionFault, all_lines, further_lines, normalise};
use super::error::CaptionsError;
use super::parameters::{Captions, Dataset, Lines, Masks, Missing};
use super::scan::{Found, Scan};
use super::variants::texts;
use crate::images::fault::ImageFault;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// One image with the texts that it is trained with. Fields that came later are not written at their defaults, so that older lists
/// are still equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name, see [`Found::id`].
    pub id: String,
    /// The digest of the image file's bytes, in hexadecimal digits.
    pub image: String,
    /// Width in pixels as the image is shown, after its EXIF orientation.
    pub width: u32,
    /// Height in pixels as the image is shown.
    pub height: u32,
    /// Times that it is seen in an epoch.
    pub repeats: u32,
    /// The texts to encode, all different, at least one.
    pub texts: Vec<String>,
    /// What it counts in the loss, before the training's `prior_loss_weight`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: f64,
    /// Whether it is a regularisation image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub regularisation: bool,
    /// Whether it is trained mirrored too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flip: bool,
    /// Where it is written which parts of it are learnt, if not all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
}

/// Where it is written which parts of an image are learnt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mask {
    /// In the image's own alpha channel.
    Alpha,
    /// In a file with this digest, in hexadecimal digits.
    File(String),
}

fn one() -> f64 {
    1.0
}

fn is_one(weight: &f64) -> bool {
    *weight == 1.0
}

impl Default for Item {
    fn default() -> Self {
        Self {
            id: String::new(),
            image: String::new(),
            width: 0,
            height: 0,
            repeats: 1,
            texts: Vec::new(),
            weight: 1.0,
            regularisation: false,
            flip: false,
            mask: None,
        }
    }
}

/// All items of a data set, sorted by their ids.
///
/// As JSON it is canonical: equal items have equal bytes, whatever their folder is called and however it was listed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Item>", into = "Vec<Item>")]
pub struct Items(Vec<Item>);

impl From<Vec<Item>> for Items {
    fn from(mut items: Vec<Item>) -> Self {
        items.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Self(items)
    }
}

impl From<Items> for Vec<Item> {
    fn from(items: Items) -> Self {
        items.0
    }
}

impl Items {
    /// The items, sorted by their ids.
    pub fn as_slice(&self) -> &[Item] {
        &self.0
    }

    /// The canonical bytes: an array of objects without white space, fields in the order of [`Item`].
    ///
    /// # Errors
    /// None that is known: every item can be written.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&self.0)
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// What the stage has to know of an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// The digest of the file's bytes, in hexadecimal digits.
    pub digest: String,
    /// Width in pixels as the image is shown, see [`probe`](crate::images::decode::probe).
    pub width: u32,
    /// Height in pixels as the image is shown.
    pub height: u32,
}

/// The items, and what their captions' files were like, for the report. Names are ids, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// The stage's result.
    pub items: Items,
    /// Items without a caption file.
    pub no_caption: Vec<String>,
    /// Items whose caption file has no text.
    pub empty_caption: Vec<String>,
    /// Items whose caption file has text after the line that is used.
    pub further_lines: Vec<String>,
}

/// Why a file of an item can't be used. The text does not name the file.
#[derive(Debug, Error)]
pub enum ItemFault {
    /// No caption file stands beside the image.
    #[error("has no caption file beside it")]
    NoCaption,
    /// No caption file stands beside the image, and its folder has no class.
    #[error("has no caption file beside it, and its folder has no class")]
    NoClass,
    /// The caption file has no text.
    #[error("is empty")]
    EmptyCaption,
    /// The caption file's bytes are no caption.
    #[error(transparent)]
    Caption(#[from] CaptionFault),
    /// The file can't be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The image can't be trained on.
    #[error(transparent)]
    Image(#[from] ImageFault),
    /// Its dataset has masks in a folder, and none there is for it.
    #[error("has no mask of its name in {folder}", folder = folder.display())]
    NoMask {
        /// The folder with the masks.
        folder: PathBuf,
    },
    /// The mask has another shape than the image. Sizes are (width, height) in pixels.
    #[error("is {} × {} pixels, and has not the shape of its image, which is {} × {}", mask.0, mask.1, image.0, image.1)]
    MaskShape {
        /// The mask's size.
        mask: (u32, u32),
        /// The image's size.
        image: (u32, u32),
    },
}

impl ItemFault {
    /// What to do about it; equal for faults of one kind.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoCaption => {
                "write a caption into a file of the same name that ends in .txt, or choose missing: Empty or missing: ClassName"
            }
            Self::NoClass => {
                "give the folder a `class` in `data`, or call it `10_lighthouse`, say: repeats, then class"
            }
            Self::EmptyCaption => "write a caption into it, or choose missing: Empty",
            Self::Caption(CaptionFault::NotUtf8 { .. }) => "save it as UTF-8",
            Self::Caption(CaptionFault::TooManyLines) => "write fewer, or choose lines: First",
            Self::Caption(CaptionFault::TooLong) => {
                "shorten it, or, if it is no caption, move it out of the folder or leave its ending out of `extensions`"
            }
            Self::Unreadable(_) => "make it readable, or move it out of the folder",
            Self::Image(fault) => fault.remedy(),
            Self::NoMask { .. } => {
                "put a mask there, white where the image is to be learnt; images without one belong into a folder of their own in `data`"
            }
            Self::MaskShape { .. } => "draw it anew on the image as it is shown: sizes may differ, shapes may not",
        }
    }
}

/// Makes the items of what was found. `image` tells of an image file, a mask being one too, and `caption` reads a caption file, each
/// given the place of what it belongs to among what was found: how they do it, and whether they remember it from an earlier run, is theirs.
///
/// # Errors
/// [`CaptionsError::Items`] with every file that can't be used.
pub fn make(
    scan: &Scan,
    parameters: &Captions,
    mut image: impl FnMut(usize, &Path) -> Result<ImageFacts, ItemFault>,
    mut caption: impl FnMut(usize, &Path) -> io::Result<Vec<u8>>,
) -> Result<Made, CaptionsError> {
    let mut made = Made::default();
    let mut items = Vec::with_capacity(scan.found.len());
    let mut faults = Vec::new();
    for (at, found) in scan.found.iter().enumerate() {
        let Some(dataset) = parameters.data.get(found.dataset) else { continue };
        let facts =
            image(at, &found.image).map_err(|fault| faults.push((found.id.clone(), found.image.clone(), fault)));
        let mask = mask(found, dataset, facts.as_ref().ok(), |path| image(at, path)).map_err(|fault| {
            let file = found.mask.as_deref().map_or(&found.image, |(path, _)| path);
            faults.push((found.id.clone(), file.clone(), fault));
        });
        let captions = match &found.caption {
            None => {
                made.no_caption.push(found.id.clone());
                without_caption(found, parameters.missing).map(|text| vec![text])
            }
            Some(path) => caption(at, path).map_err(ItemFault::from).and_then(|bytes| {
                let captions = match parameters.lines {
                    Lines::All => all_lines(&bytes)?,
                    Lines::First => {
                        if further_lines(&bytes)? > 0 {
                            made.further_lines.push(found.id.clone());
                        }
                        Some(normalise(&bytes)?).filter(|text| !text.is_empty()).into_iter().collect()
                    }
                };
                if captions.is_empty() {
                    made.empty_caption.push(found.id.clone());
                }
                let usable = !captions.is_empty() || parameters.missing == Missing::Empty;
                usable.then_some(captions).ok_or(ItemFault::EmptyCaption)
            }),
        };
        let captions = captions.map_err(|fault| {
            let file = found.caption.as_ref().unwrap_or(&found.image);
            faults.push((found.id.clone(), file.clone(), fault));
        });
        if let (Ok(facts), Ok(mask), Ok(captions)) = (facts, mask, captions) {
            items.push(Item {
                id: found.id.clone(),
                image: facts.digest,
                width: facts.width,
                height: facts.height,
                repeats: found.repeats,
                texts: texts(&captions, dataset, parameters),
                weight: dataset.weight,
                regularisation: dataset.regularisation,
                flip: dataset.flip,
                mask,
            });
        }
    }
    if !faults.is_empty() {
        return Err(CaptionsError::Items(faults));
    }
    made.items = items.into();
    Ok(made)
}

/// The mask of an image, if its dataset has masks.
fn mask(
    found: &Found,
    dataset: &Dataset,
    image: Option<&ImageFacts>,
    facts: impl FnOnce(&Path) -> Result<ImageFacts, ItemFault>,
) -> Result<Option<Mask>, ItemFault> {
    let folder = match &dataset.masks {
        None => return Ok(None),
        Some(Masks::Alpha) => return Ok(Some(Mask::Alpha)),
        Some(Masks::Folder(folder)) => folder,
    };
    let Some((path, _)) = found.mask.as_deref() else { return Err(ItemFault::NoMask { folder: folder.clone() }) };
    let mask = facts(path)?;
    match image {
        Some(image) if !same_shape((mask.width, mask.height), (image.width, image.height)) => {
            Err(ItemFault::MaskShape { mask: (mask.width, mask.height), image: (image.width, image.height) })
        }
        _ => Ok(Some(Mask::File(mask.digest))),
    }
}

/// Whether one of them is the other scaled, as far as whole pixels allow.
fn same_shape(one: (u32, u32), other: (u32, u32)) -> bool {
    let [one, other] = [one, other].map(|(width, height)| (u64::from(width), u64::from(height)));
    // One side follows from the other to within a pixel of the smaller one.
    (one.0 * other.1).abs_diff(other.0 * one.1) <= one.0.max(one.1).max(other.0).max(other.1)
}

fn without_caption(found: &Found, missing: Missing) -> Result<String, ItemFault> {
    match missing {
        Missing::Error => Err(ItemFault::NoCaption),
        Missing::Empty => Ok(String::new()),
        Missing::ClassName if found.class.is_empty() => Err(ItemFault::NoClass),
        Missing::ClassName => Ok(found.class.clone()),
    }
}

#[cfg(test)]
mod tests;
