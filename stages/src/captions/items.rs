//! What the stage makes: every item with its image's digest and size, and its texts.

use super::caption::{CaptionFault, compose, further_lines, normalise, variants};
use super::error::CaptionsError;
use super::parameters::{Captions, Missing};
use super::scan::{Found, Scan};
use crate::images::fault::ImageFault;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use thiserror::Error;

/// One image with the texts that it is trained with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// All items of a data set, sorted by their ids.
///
/// As JSON it is canonical: equal items have equal bytes, whatever their folder is called and however it was listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
            Self::Caption(CaptionFault::TooLong) => {
                "shorten it, or, if it is no caption, move it out of the folder or leave its ending out of `extensions`"
            }
            Self::Unreadable(_) => "make it readable, or move it out of the folder",
            Self::Image(fault) => fault.remedy(),
        }
    }
}

/// Makes the items of what was found. `image` tells of an image file and `caption` reads a caption file: how they do it, and
/// whether they remember it from an earlier run, is theirs.
///
/// # Errors
/// [`CaptionsError::Items`] with every file that can't be used.
pub fn make(
    scan: &Scan,
    parameters: &Captions,
    mut image: impl FnMut(&Found) -> Result<ImageFacts, ItemFault>,
    mut caption: impl FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Made, CaptionsError> {
    let mut made = Made::default();
    let mut items = Vec::with_capacity(scan.found.len());
    let mut faults = Vec::new();
    for found in &scan.found {
        let facts = image(found).map_err(|fault| faults.push((found.id.clone(), found.image.clone(), fault)));
        let text = match &found.caption {
            None => {
                made.no_caption.push(found.id.clone());
                without_caption(found, parameters.missing)
            }
            Some(path) => caption(path).map_err(ItemFault::from).and_then(|bytes| {
                let text = normalise(&bytes)?;
                if further_lines(&bytes)? > 0 {
                    made.further_lines.push(found.id.clone());
                }
                if text.is_empty() {
                    made.empty_caption.push(found.id.clone());
                }
                let usable = !text.is_empty() || parameters.missing == Missing::Empty;
                usable.then_some(text).ok_or(ItemFault::EmptyCaption)
            }),
        };
        let text = text.map_err(|fault| {
            let file = found.caption.as_ref().unwrap_or(&found.image);
            faults.push((found.id.clone(), file.clone(), fault));
        });
        if let (Ok(facts), Ok(text)) = (facts, text) {
            items.push(Item {
                id: found.id.clone(),
                image: facts.digest,
                width: facts.width,
                height: facts.height,
                repeats: found.repeats,
                texts: texts(&text, parameters),
            });
        }
    }
    if !faults.is_empty() {
        return Err(CaptionsError::Items(faults));
    }
    made.items = items.into();
    Ok(made)
}

/// The texts that are made of one caption: its variants, each with prefix and suffix, which are not shuffled.
pub fn texts(caption: &str, parameters: &Captions) -> Vec<String> {
    variants(caption, &parameters.separator, parameters.shuffle.as_ref())
        .iter()
        .map(|variant| compose(variant, &parameters.prefix, &parameters.suffix))
        .collect()
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
    use super::super::parameters::{Dataset, Shuffle};
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

    fn facts(found: &Found) -> Result<ImageFacts, ItemFault> {
        let bytes = fs::read(&found.image)?;
        let (width, height) = probe(&bytes)?;
        Ok(ImageFacts { digest: blake3::hash(&bytes).to_hex().to_string(), width, height })
    }

    /// Makes items of a folder of this name with these files, and with these parameters but for the data.
    fn made(folder: &str, files: &[(&str, &[u8])], parameters: Captions) -> Result<Made, CaptionsError> {
        let space = tempfile::tempdir().unwrap();
        for (file, bytes) in files {
            let path = space.path().join(folder).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let data = vec![Dataset { path: folder.into(), ..Dataset::default() }];
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
            shuffle: Some(Shuffle { variants: 2, keep_tokens: 1 }),
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
        let item = |id: &str| Item {
            id: id.to_owned(),
            image: String::new(),
            width: 1,
            height: 1,
            repeats: 1,
            texts: Vec::new(),
        };
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
    fn prefix_and_suffix_are_not_shuffled() {
        let parameters = Captions {
            prefix: "photo, of".to_owned(),
            suffix: "x, y".to_owned(),
            shuffle: Some(Shuffle { variants: 6, keep_tokens: 0 }),
            ..Captions::default()
        };
        for text in texts("a,b,c", &parameters) {
            assert!(text.starts_with("photo, of ") && text.ends_with(" x, y"), "{text}");
        }
    }
}
