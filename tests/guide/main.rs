//! docs/guide.md says of every field what it is, its default and why: written from the doc comments, and held to them.
//!
//!     SD3PIPE_WRITE_GUIDE=1 cargo test --release --test guide      # writes it anew

mod defaults;
mod definitions;
mod page;

use definitions::Definitions;
use std::path::Path;

#[test]
fn the_guide_says_what_the_doc_comments_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/guide.md");
    let definitions = Definitions::read(&[&root.join("src/pipeline"), &root.join("stages/src")]);
    let fields = page::fields(&definitions);
    let guide = std::fs::read_to_string(&path).expect("docs/guide.md");
    let (written, found) = guide.split_once(page::MARK).expect("the guide has the mark of where the fields begin");
    if std::env::var_os("SD3PIPE_WRITE_GUIDE").is_some() {
        std::fs::write(&path, format!("{written}{}{fields}", page::MARK)).expect("written");
    } else {
        assert!(found == fields, "docs/guide.md is behind the doc comments: SD3PIPE_WRITE_GUIDE=1 cargo test --test guide");
    }
}

#[test]
fn every_field_and_every_choice_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let definitions = Definitions::read(&[&root.join("src/pipeline"), &root.join("stages/src")]);
    let lacking = page::reachable(&definitions).into_iter().flat_map(|definition| definition.undocumented());
    assert_eq!(lacking.collect::<Vec<_>>(), Vec::<String>::new());
}
