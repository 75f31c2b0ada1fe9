//! docs/sd-scripts.md has the table of options, which this test writes.
//!
//!     SD3PIPE_WRITE_GUIDE=1 cargo test -p sd3pipe --no-default-features --test import

use sd3pipe::import::options::{Fate, OPTIONS, Takes, Trainer};
use std::{fs, path::Path};

const START: &str = "<!-- options -->";
const END: &str = "<!-- end -->";

fn table() -> String {
    let row = |option: &sd3pipe::import::options::SdOption| {
        let trainer = match option.trainer {
            Trainer::Full => " (full)",
            Trainer::Lora => " (LoRA)",
            Trainer::Both => "",
        };
        let value = match option.takes {
            Takes::Nothing => "",
            Takes::One => " …",
            Takes::Several => " … …",
        };
        let fate = match option.fate {
            Fate::Field(fields) if fields.contains(' ') && !fields.contains(',') => fields.to_owned(),
            Fate::Field(fields) => fields.split(", ").map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", "),
            Fate::Refused(reason, instead) => format!("**refused**: {reason}. Instead: {instead}"),
            _ => option.left_out().expect("a reason").replacen("had no effect", "**no effect**", 1),
        };
        format!("| `--{}{value}`{trainer} | {} |\n", option.name, fate.replace('|', "\\|"))
    };
    let rows: String = OPTIONS.iter().map(row).collect();
    format!("{START}\n\n| option | what becomes of it |\n|---|---|\n{rows}\n{END}")
}

#[test]
fn the_page_has_the_table_of_options() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sd-scripts.md");
    let page = fs::read_to_string(&path).expect("docs/sd-scripts.md");
    let (before, rest) = page.split_once(START).expect("a place for the table");
    let (_, after) = rest.split_once(END).expect("its end");
    let written = format!("{before}{}{after}", table());
    if std::env::var_os("SD3PIPE_WRITE_GUIDE").is_some() {
        return fs::write(&path, written).expect("written");
    }
    let differs = page.lines().zip(written.lines()).find(|(now, then)| now != then);
    assert!(
        page == written,
        "docs/sd-scripts.md is behind: {differs:?}\nto write it anew: SD3PIPE_WRITE_GUIDE=1 cargo test -p sd3pipe \
         --no-default-features --test import"
    );
}
