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

/// Makes the items of what was found. `image` tells of an image file, a mask being one too, and `caption` reads a caption file: how
/// they do it, and whether they remember it from an earlier run, is theirs.
///
/// # Errors
/// [`CaptionsError::Items`] with every file that can't be used.
pub fn make(
    scan: &Scan,
    parameters: &Captions,
    mut image: impl FnMut(&Path) -> Result<ImageFacts, ItemFault>,
    mut caption: impl FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Made, CaptionsError> {
    let mut made = Made::default();
    let mut items = Vec::with_capacity(scan.found.len());
    let mut faults = Vec::new();
    for found in &scan.found {
        let Some(dataset) = parameters.data.get(found.dataset) else { continue };
        let facts = image(&found.image).map_err(|fault| faults.push((found.id.clone(), found.image.clone(), fault)));
        let mask = mask(found, dataset, facts.as_ref().ok(), &mut image).map_err(|fault| {
            let file = found.mask.as_ref().map_or(&found.image, |(path, _)| path);
            faults.push((found.id.clone(), file.clone(), fault));
        });
        let captions = match &found.caption {
            None => {
                made.no_caption.push(found.id.clone());
                without_caption(found, parameters.missing).map(|text| vec![text])
            }
            Some(path) => caption(path).map_err(ItemFault::from).and_then(|bytes| {
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
    facts: &mut impl FnMut(&Path) -> Result<ImageFacts, ItemFault>,
) -> Result<Option<Mask>, ItemFault> {
    let folder = match &dataset.masks {
        None => return Ok(None),
        Some(Masks::Alpha) => return Ok(Some(Mask::Alpha)),
        Some(Masks::Folder(folder)) => folder,
    };
    let Some((path, _)) = &found.mask else { return Err(ItemFault::NoMask { folder: folder.clone() }) };
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
mod tests {
    use super::super::parameters::{Shuffle, Wildcards};
    use super::super::scan::walk;
    use super::*;
    use crate::images::decode::probe;
    use image::{ImageFormat, RgbImage};
    use std::fs;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        RgbImage::new(width, height).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn facts(path: &Path) -> Result<ImageFacts, ItemFault> {
        let bytes = fs::read(path)?;
        let (width, height) = probe(&bytes)?;
        Ok(ImageFacts { digest: blake3::hash(&bytes).to_hex().to_string(), width, height })
    }

    /// Makes items of a folder of this name with these files, and with these parameters but for the data.
    fn made(folder: &str, files: &[(&str, &[u8])], parameters: Captions) -> Result<Made, CaptionsError> {
        made_of(Dataset::default(), folder, files, parameters)
    }

    /// The same with these settings of the folder.
    fn made_of(
        dataset: Dataset,
        folder: &str,
        files: &[(&str, &[u8])],
        parameters: Captions,
    ) -> Result<Made, CaptionsError> {
        let space = tempfile::tempdir().unwrap();
        for (file, bytes) in files {
            let path = space.path().join(folder).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let data = vec![Dataset { path: folder.into(), ..dataset }];
        let parameters = Captions { data, ..parameters };
        make(&walk(&parameters, space.path())?, &parameters, facts, |path| fs::read(path))
    }

    #[test]
    fn items_are_pinned_for_ever() {
        let files: [(&str, &[u8]); 4] = [
            ("b.png", &png(20, 30)),
            ("b.txt", b"sks, sea, dusk\n"),
            ("2_x/a.png", &png(16, 16)),
            ("2_x/a.txt", b"\xef\xbb\xbfa dog"),
        ];
        let parameters = Captions {
            prefix: "photo of".to_owned(),
            shuffle: Some(Shuffle { variants: 2, keep_tokens: 1, ..Shuffle::default() }),
            ..Captions::default()
        };
        let json = made("p", &files, parameters).unwrap().items.to_json().unwrap();
        // Raise `REVISION` when this changes.
        // The digests are those of the image crate's PNG files; a new version of it may write others.
        let [small, large] = [&files[2], &files[0]].map(|(_, bytes)| blake3::hash(bytes).to_hex().to_string());
        let expected = format!(
            concat!(
                r#"[{{"id":"2_x/a.png","image":"{}","width":16,"height":16,"repeats":2,"texts":["photo of a dog"]}},"#,
                r#"{{"id":"b.png","image":"{}","width":20,"height":30,"repeats":1,"#,
                r#""texts":["photo of sks, sea, dusk","photo of sks, dusk, sea"]}}]"#,
            ),
            small, large
        );
        assert_eq!(String::from_utf8(json.clone()).unwrap(), expected);
        assert_eq!(Items::from_json(&json).unwrap().to_json().unwrap(), json);
    }

    #[test]
    fn the_folder_s_name_changes_nothing() {
        let files: [(&str, &[u8]); 2] = [("a.png", &png(16, 16)), ("a.txt", b"a dog")];
        let json = |folder| made(folder, &files, Captions::default()).unwrap().items.to_json().unwrap();
        assert_eq!(json("p"), json("another/one"));
    }

    #[test]
    fn items_are_sorted_however_they_come() {
        let item = |id: &str| Item { id: id.to_owned(), ..Item::default() };
        let items = Items::from(vec![item("b"), item("a/c"), item("a")]);
        let ids: Vec<&str> = items.as_slice().iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["a", "a/c", "b"]);
    }

    #[test]
    fn every_fault_is_listed_with_its_remedy_once_per_kind() {
        let photo = png(16, 16);
        let files: [(&str, &[u8]); 9] = [
            ("a.png", &photo),
            ("b.png", &photo),
            ("c.png", &photo),
            ("c.txt", b"caf\xe9"),
            ("d.png", &photo),
            ("d.txt", b" \n"),
            ("e.png", b"text"),
            ("f.png", &photo[..40]),
            ("g.png", &png(8, 100)),
        ];
        let error = made("p", &files, Captions::default()).unwrap_err();
        let CaptionsError::Items(faults) = &error else { panic!("{error:?}") };
        let ids: Vec<&str> = faults.iter().map(|(id, _, _)| id.as_str()).collect();
        assert_eq!(ids, ["a.png", "b.png", "c.png", "d.png", "e.png", "e.png", "f.png", "f.png", "g.png", "g.png"]);
        let message = error.to_string();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "10 files cannot be used");
        assert_eq!(lines.iter().filter(|line| line.contains("has no caption file")).count(), 5);
        assert_eq!(lines.iter().filter(|line| line.starts_with("  hint: write a caption into a file")).count(), 1);
        assert!(message.contains("c.txt: line 1 is not UTF-8, at byte 3\n  hint: save it as UTF-8"), "{message}");
        assert!(message.contains("d.txt: is empty\n  hint: "), "{message}");
        assert!(message.contains("e.png: is no image"), "{message}");
        assert!(message.contains("f.png: ends too early for a PNG"), "{message}");
        assert!(message.contains("g.png: is too small: 8 × 100 pixels"), "{message}");
    }

    #[test]
    fn a_missing_caption_is_what_the_parameters_say() {
        let photo = png(16, 16);
        let files: [(&str, &[u8]); 3] =
            [("3_sea side/a.png", &photo), ("3_sea side/b.png", &photo), ("3_sea side/b.txt", b"")];
        let with = |missing, files: &[(&str, &[u8])]| {
            made("p", files, Captions { missing, suffix: "at dusk".to_owned(), ..Captions::default() })
        };
        let result = with(Missing::Empty, &files).unwrap();
        assert_eq!(
            result.items.as_slice().iter().map(|item| &item.texts[0]).collect::<Vec<_>>(),
            ["at dusk", "at dusk"]
        );
        assert_eq!(
            (result.no_caption, result.empty_caption),
            (vec!["3_sea side/a.png".to_owned()], vec!["3_sea side/b.png".to_owned()])
        );
        let result = with(Missing::ClassName, &files[..1]).unwrap();
        assert_eq!(
            (&result.items.as_slice()[0].texts[0][..], result.items.as_slice()[0].repeats),
            ("sea side at dusk", 3)
        );
        // An empty file is no class: somebody meant to write into it.
        assert!(with(Missing::ClassName, &files).unwrap_err().to_string().contains("b.txt: is empty"));
        let error = with(Missing::ClassName, &[("a.png", &photo)]).unwrap_err().to_string();
        assert!(error.contains("its folder has no class"), "{error}");
    }

    #[test]
    fn lines_that_are_left_out_are_remembered() {
        let files: [(&str, &[u8]); 2] = [("a.png", &png(16, 16)), ("a.txt", b"a dog\n\na cat\n")];
        assert_eq!(made("p", &files, Captions::default()).unwrap().further_lines, ["a.png"]);
    }

    #[test]
    fn each_line_can_be_a_caption() {
        let files: [(&str, &[u8]); 2] = [("a.png", &png(16, 16)), ("a.txt", b"a {red|blue} dog\n\na cat\n")];
        let wildcards = Some(Wildcards::default());
        let result = made("p", &files, Captions { lines: Lines::All, wildcards, ..Captions::default() }).unwrap();
        assert_eq!(result.items.as_slice()[0].texts, ["a red dog", "a blue dog", "a cat"]);
        assert!(result.further_lines.is_empty());
        let empty: [(&str, &[u8]); 2] = [("a.png", &files[0].1), ("a.txt", b"\n \n")];
        let all = |missing| made("p", &empty, Captions { lines: Lines::All, missing, ..Captions::default() });
        assert!(all(Missing::Error).unwrap_err().to_string().contains("a.txt: is empty"));
        assert_eq!(all(Missing::Empty).unwrap().items.as_slice()[0].texts, [""]);
    }

    #[test]
    fn what_a_folder_says_is_written_down_only_where_it_says_something() {
        let files: [(&str, &[u8]); 2] = [("a.png", &png(16, 16)), ("a.txt", b"a dog")];
        let dataset = Dataset {
            weight: 0.5,
            regularisation: true,
            flip: true,
            masks: Some(Masks::Alpha),
            ..Dataset::default()
        };
        let json = |dataset| {
            let items = made_of(dataset, "p", &files, Captions::default()).unwrap().items;
            assert_eq!(Items::from_json(&items.to_json().unwrap()).unwrap(), items);
            String::from_utf8(items.to_json().unwrap()).unwrap()
        };
        let plain = json(Dataset::default());
        let with = json(dataset);
        let added = r#","weight":0.5,"regularisation":true,"flip":true,"mask":"Alpha"}]"#;
        assert_eq!(with, plain.replace("}]", added));
    }

    #[test]
    fn a_mask_is_known_by_its_bytes_and_has_its_image_s_shape() {
        let masks = |files: &[(&str, &[u8])]| {
            let space = tempfile::tempdir().unwrap();
            for (file, bytes) in files {
                let path = space.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            let masks = Some(Masks::Folder("p/masks".into()));
            let data = vec![Dataset { path: "p".into(), masks, ..Dataset::default() }];
            let parameters = Captions { data, missing: Missing::Empty, ..Captions::default() };
            let scan = walk(&parameters, space.path())?;
            Ok((make(&scan, &parameters, facts, |path| fs::read(path))?, scan.unused))
        };
        let (photo, mask) = (png(64, 48), png(32, 24));
        let (made, unused) = masks(&[
            ("p/a.png", &photo),
            ("p/x/a.png", &photo),
            ("p/masks/a.webp", &photo),
            ("p/masks/x/a.png", &mask),
            ("p/masks/b.png", &mask),
            ("p/masks/read.me", b""),
        ])
        .unwrap();
        let of: Vec<_> = made.items.as_slice().iter().map(|item| (item.id.as_str(), item.mask.clone().unwrap())).collect();
        let file = |bytes: &[u8]| Mask::File(blake3::hash(bytes).to_hex().to_string());
        assert_eq!(of, [("a.png", file(&photo)), ("x/a.png", file(&mask))]);
        assert_eq!(unused, ["masks/b.png", "masks/read.me"]);

        let error: CaptionsError =
            masks(&[("p/a.png", &photo), ("p/b.png", &photo), ("p/masks/b.png", &png(48, 64))]).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("a.png: has no mask of its name in p/masks\n  hint: put a mask there"), "{message}");
        assert!(message.contains("b.png: is 48 × 64 pixels, and has not the shape of its image"), "{message}");
    }

    #[test]
    fn sizes_that_differ_by_rounding_have_one_shape() {
        assert!(same_shape((1000, 667), (500, 333)) && same_shape((1000, 667), (500, 334)));
        assert!(!same_shape((1000, 667), (500, 336)) && !same_shape((100, 50), (50, 100)));
    }
}
