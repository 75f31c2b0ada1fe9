//! Items, of small folders made for each test.

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
    make(&walk(&parameters, space.path())?, &parameters, |_, path| facts(path), |_, path| fs::read(path))
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
    assert_eq!(result.items.as_slice().iter().map(|item| &item.texts[0]).collect::<Vec<_>>(), ["at dusk", "at dusk"]);
    assert_eq!(
        (result.no_caption, result.empty_caption),
        (vec!["3_sea side/a.png".to_owned()], vec!["3_sea side/b.png".to_owned()])
    );
    let result = with(Missing::ClassName, &files[..1]).unwrap();
    assert_eq!((&result.items.as_slice()[0].texts[0][..], result.items.as_slice()[0].repeats), ("sea side at dusk", 3));
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
    let empty: [(&str, &[u8]); 2] = [("a.png", files[0].1), ("a.txt", b"\n \n")];
    let all = |missing| made("p", &empty, Captions { lines: Lines::All, missing, ..Captions::default() });
    assert!(all(Missing::Error).unwrap_err().to_string().contains("a.txt: is empty"));
    assert_eq!(all(Missing::Empty).unwrap().items.as_slice()[0].texts, [""]);
}

#[test]
fn what_a_folder_says_is_written_down_only_where_it_says_something() {
    let files: [(&str, &[u8]); 2] = [("a.png", &png(16, 16)), ("a.txt", b"a dog")];
    let dataset =
        Dataset { weight: 0.5, regularisation: true, flip: true, masks: Some(Masks::Alpha), ..Dataset::default() };
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
        Ok((make(&scan, &parameters, |_, path| facts(path), |_, path| fs::read(path))?, scan.unused))
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
