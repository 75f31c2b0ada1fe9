//! The walk, on small folders made for each test.

use super::super::listing::ListedFile;
use super::*;
use std::fs;

struct Space(tempfile::TempDir);

impl Space {
    fn new(files: &[&str]) -> Self {
        let space = Self(tempfile::tempdir().unwrap());
        for file in files {
            let path = space.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        space
    }

    fn walk(&self, data: &[Dataset]) -> Result<Scan, CaptionsError> {
        walk(&Captions { data: data.to_vec(), ..Captions::default() }, self.0.path())
    }

    fn faults(&self, data: &[Dataset]) -> Vec<ScanFault> {
        match self.walk(data) {
            Err(CaptionsError::Scan(faults)) => faults,
            other => panic!("{other:?}"),
        }
    }

    fn caption_of(&self, scan: &Scan, id: &str) -> Option<String> {
        let found = scan.found.iter().find(|found| found.id == id).unwrap();
        let caption = found.caption.as_ref()?;
        assert_eq!(size(found.caption_state.as_ref().unwrap()), fs::metadata(caption).unwrap().len());
        Some(caption.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned())
    }
}

fn size(state: &Seen) -> u64 {
    state.here().expect("a file that is here").size()
}

fn dataset(path: &str) -> Dataset {
    Dataset { path: path.into(), ..Dataset::default() }
}

fn ids(scan: &Scan) -> Vec<&str> {
    scan.found.iter().map(|found| found.id.as_str()).collect()
}

#[test]
fn images_are_found_to_any_depth_and_sorted() {
    let space = Space::new(&["p/b.PNG", "p/a.jpg", "p/c/d/e.WebP", "p/c/a.jpeg", "p/c.bmp", "p/notes.md"]);
    let scan = space.walk(&[dataset("p")]).unwrap();
    assert_eq!(ids(&scan), ["a.jpg", "b.PNG", "c.bmp", "c/a.jpeg", "c/d/e.WebP"]);
    assert_eq!(scan.unused, ["notes.md"]);
    assert!(scan.found.iter().all(|found| found.repeats == 1 && found.class.is_empty() && found.caption.is_none()));
    assert_eq!(scan.found[0].image, space.0.path().join("p/a.jpg"));
    assert_eq!(size(&scan.found[0].image_state), 7);
}

#[test]
fn a_caption_is_paired_by_its_name_in_its_own_folder() {
    let space = Space::new(&["p/a.v2.png", "p/a.v2.txt", "p/a.txt", "p/c/b.png", "p/b.txt", "p/d.png", "p/d.TXT"]);
    let scan = space.walk(&[dataset("p")]).unwrap();
    assert_eq!(space.caption_of(&scan, "a.v2.png").unwrap(), "p/a.v2.txt");
    assert_eq!(space.caption_of(&scan, "c/b.png"), None);
    assert_eq!(space.caption_of(&scan, "d.png").unwrap(), "p/d.TXT");
    assert_eq!(scan.unused, ["a.txt", "b.txt"]);
}

#[test]
fn the_first_extension_wins_and_the_other_file_is_named() {
    let space = Space::new(&["p/a.png", "p/a.caption", "p/a.txt", "p/b.png", "p/b.caption"]);
    let scan = space.walk(&[dataset("p")]).unwrap();
    assert_eq!(space.caption_of(&scan, "a.png").unwrap(), "p/a.txt");
    assert_eq!(space.caption_of(&scan, "b.png").unwrap(), "p/b.caption");
    assert_eq!(scan.unused, ["a.caption"]);

    let parameters = Captions {
        data: vec![dataset("p")],
        extensions: vec!["caption".to_owned(), "txt".to_owned()],
        ..Captions::default()
    };
    let scan = walk(&parameters, space.0.path()).unwrap();
    assert_eq!(space.caption_of(&scan, "a.png").unwrap(), "p/a.caption");
    assert_eq!(scan.unused, ["a.txt"]);
}

#[test]
fn one_caption_serves_two_images_of_its_name() {
    let space = Space::new(&["p/a.png", "p/a.jpg", "p/a.txt"]);
    let scan = space.walk(&[dataset("p")]).unwrap();
    assert_eq!(ids(&scan), ["a.jpg", "a.png"]);
    assert_eq!(space.caption_of(&scan, "a.jpg"), space.caption_of(&scan, "a.png"));
    assert!(scan.found.iter().all(|found| found.caption.is_some()));
    assert_eq!(scan.unused, [""; 0]);
}

#[test]
fn hidden_files_and_folders_are_passed_over() {
    let space = Space::new(&["p/a.png", "p/.b.png", "p/.c/d.png", "p/._a.txt"]);
    let scan = space.walk(&[dataset("p")]).unwrap();
    assert_eq!((ids(&scan), scan.unused.len()), (vec!["a.png"], 0));
    // The dataset's own folder may be hidden.
    assert_eq!(ids(&space.walk(&[dataset("p/.c")]).unwrap()), ["d.png"]);
}

#[test]
fn a_numbered_folder_multiplies_repeats_and_names_the_class() {
    let space =
        Space::new(&["p/10_sks dog/a.png", "p/10_sks dog/x/b.png", "p/y/3_cat/c.png", "p/d.png", "p/x_1/e.png"]);
    let data = Dataset { repeats: 2, class: "thing".to_owned(), ..dataset("p") };
    let scan = space.walk(&[data]).unwrap();
    let meant: Vec<(&str, u32, &str)> =
        scan.found.iter().map(|found| (found.id.as_str(), found.repeats, found.class.as_str())).collect();
    let expected = [
        ("10_sks dog/a.png", 20, "sks dog"),
        ("10_sks dog/x/b.png", 20, "sks dog"),
        ("d.png", 2, "thing"),
        ("x_1/e.png", 2, "thing"),
        ("y/3_cat/c.png", 2, "thing"),
    ];
    assert_eq!(meant, expected);
    // A listed folder's own name is not read.
    assert_eq!(space.walk(&[dataset("p/10_sks dog")]).unwrap().found[0].repeats, 1);
}

#[test]
fn a_year_in_front_of_a_folder_is_not_taken_for_repeats() {
    let space = Space::new(&[
        "p/2024_summer/a.png",
        "p/2024_summer/b.png",
        "p/0_x/a.png",
        "p/99999999999_x/a.png",
        "p/3_y/a.png",
    ]);
    let faults = space.faults(&[dataset("p")]);
    assert_eq!(faults.len(), 3);
    assert!(faults.iter().all(|fault| matches!(fault, ScanFault::FolderRepeats { .. })));
}

#[test]
fn a_name_goes_before_the_ids_and_keeps_two_folders_apart() {
    let space = Space::new(&["p/a.png", "q/a.png", "q/n.md"]);
    let named = Dataset { name: "other".to_owned(), ..dataset("q") };
    let scan = space.walk(&[dataset("p"), named]).unwrap();
    assert_eq!(ids(&scan), ["a.png", "other/a.png"]);
    assert_eq!(scan.unused, ["other/n.md"]);
}

#[test]
fn equal_ids_of_two_datasets_are_refused_with_the_remedy() {
    let space = Space::new(&["p/a.png", "p/b.png", "q/a.png", "q/b.png", "q/c.png"]);
    let data = [dataset("p"), dataset("q")];
    assert!(matches!(&space.faults(&data)[..], [ScanFault::SameItems { ids, .. }] if ids == &["a.png", "b.png"]));
    let message = space.walk(&data).unwrap_err().to_string();
    assert!(message.contains("both have a.png, b.png") && message.contains("`name`"), "{message}");
}

#[test]
fn everything_wrong_is_listed_at_once() {
    let space = Space::new(&["p/a.png", "empty/n.md", "file"]);
    let faults = space.faults(&[dataset("nowhere"), dataset("empty"), dataset("file"), dataset("p"), dataset("p")]);
    let kinds: Vec<&str> = faults.iter().map(ScanFault::remedy).collect();
    assert_eq!(faults.len(), 4, "{kinds:?}");
    assert!(matches!(faults[0], ScanFault::MissingFolder { .. }));
    assert!(matches!(faults[1], ScanFault::NoImage { .. }));
    assert!(matches!(faults[2], ScanFault::NotAFolder { .. }));
    assert!(matches!(faults[3], ScanFault::SameItems { .. }));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_broken_or_circular_ones_named() {
    use std::os::unix::fs::symlink;
    let space = Space::new(&["p/a.txt", "real/b.png", "real/c/d.png"]);
    let folder = space.0.path();
    symlink(folder.join("real/b.png"), folder.join("p/a.png")).unwrap();
    symlink(folder.join("real/c"), folder.join("p/c")).unwrap();
    let scan = space.walk(&[dataset("p")]).unwrap();
    assert_eq!(ids(&scan), ["a.png", "c/d.png"]);
    assert_eq!(size(&scan.found[0].image_state), 10);
    assert!(scan.found[0].caption.is_some());
    symlink(folder.join("nowhere.png"), folder.join("p/z.png")).unwrap();
    symlink(folder.join("p"), folder.join("p/loop")).unwrap();
    let faults = space.faults(&[dataset("p")]);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults.iter().all(|fault| matches!(fault, ScanFault::Unreadable { .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn links_that_make_many_folders_of_few_are_not_followed_for_ever() {
    use std::os::unix::fs::symlink;

    let space = Space::new(&["p/0/a.png", "p/60/z.png"]);
    let folder = space.0.path().join("p");
    for level in 0..60 {
        fs::create_dir_all(folder.join(level.to_string())).unwrap();
        for link in ["left", "right"] {
            symlink(folder.join((level + 1).to_string()), folder.join(level.to_string()).join(link)).unwrap();
        }
    }
    let faults = space.faults(&[dataset("p/0")]);
    assert!(matches!(faults[..], [ScanFault::TooMany { .. }]), "{faults:?}");
}

#[test]
fn a_name_with_a_control_character_is_an_error_that_shows_it() {
    let space = Space::new(&["p/a.png", "p/b\nerror: c.png", "p/d\u{1b}[2J/e.png", "p/Icon\r"]);
    let faults = space.faults(&[dataset("p")]);
    let mut shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    shown.sort();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].contains(r"p/b\nerror: c.png") && shown[1].contains(r"p/d\u{1b}[2J/e.png"), "{shown:?}");
    assert!(faults.iter().all(|fault| fault.remedy() == "rename it"));
}

#[test]
fn a_name_that_is_not_utf8_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let space = Space::new(&["p/a.png"]);
    fs::write(space.0.path().join("p").join(std::ffi::OsStr::from_bytes(b"caf\xe9.png")), "").unwrap();
    fs::write(space.0.path().join("p").join(std::ffi::OsStr::from_bytes(b".caf\xe9")), "").unwrap();
    assert!(matches!(&space.faults(&[dataset("p")])[..], [ScanFault::NotUtf8Name { .. }]));
}

#[test]
fn a_listing_stands_for_files_that_are_elsewhere() {
    let files = ["10_cats/a.png", "10_cats/a.txt", "b.jpg", "masks/b.png"];
    let here = Space::new(&files.map(|file| format!("p/{file}")).iter().map(String::as_str).collect::<Vec<_>>());
    let with_masks = Dataset { masks: Some(Masks::Folder("p/masks".into())), ..dataset("p") };
    let expected = here.walk(std::slice::from_ref(&with_masks)).unwrap();

    let elsewhere = Space::new(&[]);
    let list = |folder: &str, files: &[&str]| {
        let file = |path: &&str| (path.to_string(), ListedFile { digest: "ab".to_owned(), size: None, text: None });
        let listing = Listing { files: files.iter().map(file).collect() };
        fs::create_dir_all(elsewhere.0.path().join(folder)).unwrap();
        fs::write(elsewhere.0.path().join(folder).join(LISTING), listing.to_json().unwrap()).unwrap();
    };
    list("p", &files[..3]);
    list("p/masks", &["b.png"]);
    let scan = elsewhere.walk(std::slice::from_ref(&with_masks)).unwrap();
    assert_eq!(scan.listings.len(), 2);
    let told = |scan: &Scan| {
        let of = |found: &Found| {
            (found.id.clone(), found.repeats, found.class.clone(), found.caption.is_some(), found.mask.is_some())
        };
        scan.found.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(told(&scan), told(&expected));
    assert!(scan.found.iter().all(|found| found.image_state.listed().is_some()));

    // Who has brought the pictures back says which of the two counts.
    fs::write(elsewhere.0.path().join("p/b.jpg"), "b").unwrap();
    assert!(matches!(&elsewhere.faults(&[dataset("p")])[..], [ScanFault::ListedAndHere { .. }]));
    fs::remove_file(elsewhere.0.path().join("p/b.jpg")).unwrap();
    fs::write(elsewhere.0.path().join("p").join(LISTING), "half of").unwrap();
    assert!(matches!(&elsewhere.faults(&[dataset("p")])[..], [ScanFault::Unreadable { .. }]));
}
