//! The address of a file at Hugging Face: `hf://owner/repo/file@revision`.

use std::{fmt, path::Path};

/// What an address begins with.
const SCHEME: &str = "hf://";

/// Of which file, in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Owner and repository: `stabilityai/stable-diffusion-3-medium`.
    pub repo: String,
    /// The file's path in it.
    pub file: String,
    /// A branch, a tag or a commit; `main` unless given.
    pub revision: String,
}

impl Address {
    /// Reads what stands in a path's place: nothing when that is no address, an error with a hint when it is a wrong one.
    ///
    /// # Errors
    /// When there is no file in it, or something that would lead elsewhere.
    pub fn parse(path: &Path) -> Option<Result<Self, &'static str>> {
        let rest = path.to_str()?.strip_prefix(SCHEME)?;
        let (rest, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let mut parts = rest.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Some(if file.is_empty() {
            Err("name a file, hf://owner/repo/file; for a whole diffusers folder name that of a copy on this machine")
        } else if [owner, name, file, revision].iter().all(|part| leads_in(part)) {
            Ok(Self { repo: format!("{owner}/{name}"), file: file.to_owned(), revision: revision.to_owned() })
        } else {
            Err("an address is hf://owner/repo/file or hf://owner/repo/file@revision")
        })
    }
}

/// Names become folders of the cache and parts of a URL: none may mean anything else there.
fn leads_in(path: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "-_.+=".contains(c);
    path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.repo, self.file)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_and_nothing_leads_out_of_it() {
        let read = |text: &str| Address::parse(Path::new(text));
        for text in ["hf://a/b/c.safetensors", "hf://a/b.c/d/e_f.json@v1", "hf://a/b/c@refs/pr/3"] {
            assert_eq!(read(text).unwrap().unwrap().to_string(), text);
        }
        assert_eq!(read("hf://a/b/c").unwrap().unwrap().revision, "main");
        assert_eq!(read("models/a.safetensors"), None);
        assert!(read("hf://a/b").unwrap().unwrap_err().contains("name a file"));
        for text in [
            "hf://a/b/../../c",
            "hf://../b/c",
            "hf://a/b//c",
            "hf://a/b/c?x",
            "hf://a/b/c@",
            "hf://a/b/c@..",
            "hf:///b/c",
        ] {
            assert!(read(text).unwrap().is_err(), "{text}");
        }
    }
}
