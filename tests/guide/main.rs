//! docs/guide.md says of every field what it is, its default and why. People write what is between its marks and its headings; below
//! each `<!-- fields: … -->` stands what the doc comments say, which this test writes and compares.
//!
//!     SD3PIPE_WRITE_GUIDE=1 cargo test -p sd3pipe --no-default-features --test guide      # writes it anew

mod definitions;
mod page;
mod values;

use definitions::Definitions;
use indexmap::IndexMap;
use page::{Chapter, Page};
use sd3pipe::pipeline::{self, options};
use sd3pipe_stages::stage::Stage;
use std::path::Path;

const START: &str = "<!-- fields: ";
const END: &str = "<!-- end -->\n";

/// What people have written up to each mark, what stands below that, and the paths that the marks name; at last what follows.
struct Guide<'g> {
    parts: Vec<(&'g str, &'g str, String)>,
    rest: &'g str,
}

impl<'g> Guide<'g> {
    fn read(text: &'g str) -> Self {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(start) = rest.find(START) {
            let (path, behind) = rest[start + START.len()..].split_once(" -->\n").expect("a mark ends with its line");
            let before = &rest[..rest.len() - behind.len()];
            let (fields, after) = behind.split_once(END).unwrap_or_else(|| panic!("no {END} behind {path}"));
            parts.push((before, fields, path.to_owned()));
            rest = after;
        }
        Self { parts, rest }
    }

    fn chapters(&self) -> Vec<Chapter> {
        let chapter = |(before, _, path): &(&str, &str, String)| {
            let heading = before.lines().rfind(|line| line.starts_with('#')).expect("a heading above a mark");
            let title = heading.trim_start_matches('#');
            Chapter { path: path.clone(), title: title.trim().to_owned(), level: heading.len() - title.len() }
        };
        self.parts.iter().map(chapter).collect()
    }
}

#[test]
fn the_guide_says_of_every_field_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/guide.md");
    let text = std::fs::read_to_string(&path).expect("docs/guide.md");
    let guide = Guide::read(&text);
    let definitions =
        Definitions::read(&[("sd3pipe", &root.join("src")), ("sd3pipe_stages", &root.join("stages/src"))]);
    let chapters = guide.chapters();
    let mut page = Page::new(&definitions, "sd3pipe::pipeline::definition::Pipeline", &chapters);
    let written = guide.parts.iter().enumerate().map(|(index, (before, ..))| {
        let fields = page.chapter(index);
        assert!(!fields.is_empty(), "{}: no pipeline can hold such a thing", chapters[index].path);
        format!("{before}{fields}\n{END}")
    });
    let written = written.collect::<String>() + guide.rest;
    assert!(page.faults.is_empty(), "doc comments that would leave a reader asking:\n{}", page.faults.join("\n"));
    if std::env::var_os("SD3PIPE_WRITE_GUIDE").is_some() {
        std::fs::write(&path, written).expect("written");
    } else if let Some((line, (now, then))) =
        text.lines().chain([""]).zip(written.lines().chain([""])).enumerate().find(|(_, (now, then))| now != then)
    {
        panic!(
            "docs/guide.md is not what the doc comments say, first in line {}:\n{now}\n{then}\nwrite it anew with \
             SD3PIPE_WRITE_GUIDE=1 cargo test -p sd3pipe --no-default-features --test guide",
            line + 1
        );
    }
}

/// Whole files are loaded from a folder in which all that they name is there; stages are read, and nothing is wrong with them.
#[test]
fn the_examples_of_the_guide_are_right() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide.md")).expect("docs/guide.md");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("photos")).expect("a folder");
    let (mut files, mut stages) = (0, Vec::new());
    for example in text.split("```ron\n").skip(1) {
        let example = example.split("```").next().unwrap_or(example);
        match example.strip_prefix("// ").and_then(|rest| rest.split_once(['\n', ':'])) {
            Some((name, _)) if name.ends_with(".ron") => {
                for file in example.split('"').skip(1).step_by(2).filter(|text| text.contains("models/")) {
                    let path = folder.path().join(file);
                    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                    std::fs::write(path, "").expect("a file");
                }
                let path = folder.path().join(name);
                std::fs::write(&path, example).expect("a file");
                pipeline::load(&path, &[]).unwrap_or_else(|faults| panic!("{name}: {:?}", faults.list));
                files += 1;
            }
            _ => {
                let read = options().from_str::<IndexMap<String, Stage>>(&format!("{{{example}}}"));
                for (name, stage) in read.unwrap_or_else(|error| panic!("{example}\n{error}")) {
                    assert!(stage.problems().is_empty(), "{name}: {:?}", stage.problems());
                    stages.push(stage.kind());
                }
            }
        }
    }
    stages.dedup();
    let definitions =
        Definitions::read(&[("sd3pipe_stages", &Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/src"))]);
    let definitions::Shape::Enum(kinds) = &definitions.get("sd3pipe_stages::stage::Stage").shape else {
        unreachable!()
    };
    assert_eq!((files, stages.len()), (2, kinds.len()), "an example of a file and an heir, and one of each stage");
}
