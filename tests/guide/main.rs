//! docs/guide.md says of every field what it is, its default and why. People write its prose and its examples, and with a heading and
//! the mark `<!-- fields of Train -->` where a type is told; what stands below the marks this test writes from the doc comments.
//!
//!     SD3PIPE_WRITE_GUIDE=1 cargo test -p sd3pipe --no-default-features --test guide

mod definitions;
mod page;
mod values;

use definitions::{Definitions, Shape};
use indexmap::IndexMap;
use page::Page;
use sd3pipe::pipeline::{self, options};
use sd3pipe_stages::stage::Stage;
use std::{collections::BTreeMap, fs, path::Path};

const START: &str = "<!-- fields of ";
const END: &str = "<!-- end -->";

fn definitions(root: &Path) -> Definitions {
    Definitions::read(&[&root.join("src"), &root.join("stages/src")])
}

#[test]
fn the_guide_says_of_every_field_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/guide.md");
    let guide = fs::read_to_string(&path).expect("docs/guide.md");
    let mut titles = BTreeMap::new();
    for (before, mark) in guide.match_indices(START) {
        let name = guide[before + mark.len()..].split(' ').next().expect("a name");
        let title = guide[..before].lines().rfind(|line| line.starts_with('#')).expect("a heading above a mark");
        titles.insert(name.to_owned(), title.trim_matches(['#', ' ']).to_owned());
    }
    let definitions = definitions(root);
    let page = Page::new(&definitions, &titles);
    assert!(page.faults.is_empty(), "doc comments that leave a reader asking:\n{}", page.faults.join("\n"));
    let mut parts = guide.split(START);
    let mut written = parts.next().expect("prose").to_owned();
    for part in parts {
        let name = part.split(' ').next().expect("a name");
        let fields = page.chapters.get(name).unwrap_or_else(|| panic!("no pipeline has a {name}"));
        let (_, prose) = part.split_once(END).unwrap_or_else(|| panic!("no {END} behind {name}"));
        assert!(!fields.is_empty(), "there is nothing to say of {name}");
        written += &format!("{START}{name} -->\n\n{fields}\n{END}{prose}");
    }
    if std::env::var_os("SD3PIPE_WRITE_GUIDE").is_some() {
        return fs::write(&path, written).expect("written");
    }
    let differs = guide.lines().chain([""]).zip(written.lines().chain([""])).find(|(now, then)| now != then);
    assert!(
        differs.is_none(),
        "docs/guide.md is not what the doc comments say: {differs:?}\nto write it anew: \
         SD3PIPE_WRITE_GUIDE=1 cargo test -p sd3pipe --no-default-features --test guide"
    );
}

/// Whole files are loaded from a folder in which all that they name is there; stages are read, and nothing is wrong with them.
#[test]
fn the_examples_of_the_guide_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/guide.md")).expect("docs/guide.md");
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["photos", "models"] {
        fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    let mut stages = Vec::new();
    for example in guide.split("```ron\n").skip(1).map(|rest| rest.split("```").next().unwrap_or(rest)) {
        if let Some((name, _)) = example.strip_prefix("// ").and_then(|rest| rest.split_once(['\n', ':'])) {
            for file in example.split('"').filter(|text| text.starts_with("models/")) {
                fs::write(folder.path().join(file), "").expect("a file");
            }
            fs::write(folder.path().join(name), example).expect("a file");
            let loaded = pipeline::load(&folder.path().join(name), &[]);
            loaded.unwrap_or_else(|faults| panic!("{name}: {:?}", faults.list));
        } else {
            let read = options().from_str::<IndexMap<String, Stage>>(&format!("{{{example}}}"));
            for (_, stage) in read.unwrap_or_else(|error| panic!("{example}\n{error}")) {
                assert!(stage.problems().is_empty(), "{example}: {:?}", stage.problems());
                stages.push(stage.kind().to_string());
            }
        }
    }
    stages.dedup();
    let definitions = definitions(root);
    let Shape::Enum(kinds) = &definitions.get("Stage").shape else { panic!("stages are choices") };
    assert_eq!(stages, kinds.iter().map(|kind| kind.name.clone()).collect::<Vec<_>>(), "each has an example");
}
