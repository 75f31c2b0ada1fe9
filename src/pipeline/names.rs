//! What pipelines and stages may be called: their names become those of folders.

/// Bytes of a name at most: file systems end at 255, and files of `out/` have more than the pipeline's name in theirs.
const LONGEST_NAME: usize = 100;

/// What a plain name is, in words.
pub(crate) const PLAIN_NAME: &str =
    "letters, digits, `-` and `_`, at most 100 bytes, and none of Windows' own (con, nul, com1 …)";

/// Whether something may be called so that has a folder of its own in `out/`: such a name leads nowhere else, on no system.
pub(crate) fn is_plain_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        && !is_device(name)
}

/// Names that are devices on Windows, whatever folder they stand in. It takes the raised digits for digits too.
fn is_device(name: &str) -> bool {
    let name = name.to_lowercase();
    let numbered = |kind: &str| {
        let number = name.strip_prefix(kind).map(|rest| rest.chars().collect::<Vec<_>>());
        matches!(number.as_deref(), Some(['0'..='9' | '¹' | '²' | '³']))
    };
    ["con", "prn", "aux", "nul"].contains(&&*name) || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folders_everywhere() {
        for name in ["a", "my-style_2", "Häuser", "console", "com10", "lpt", "communion"] {
            assert!(is_plain_name(name), "{name}");
        }
        for name in ["", "a.", "a b", "a/b", "..", "a:b", "con", "CON", "Nul", "com1", "LPT9", "com²", &"a".repeat(101)]
        {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
