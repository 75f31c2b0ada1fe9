//! What a pipeline may say about its images and captions.

use crate::problem::Problem;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Finds the images of one or more folders and makes the texts that each is trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Captions {
    /// The folders with the images.
    pub data: Vec<Dataset>,
    /// What an image without a caption file means. `Error` by default, because it is nearly always a mistake.
    pub missing: Missing,
    /// Written before every caption, with a space between. Empty by default.
    pub prefix: String,
    /// Written after every caption, with a space between. Empty by default.
    pub suffix: String,
    /// What stands between two tags of a caption. A comma by default, as taggers write it. Has no effect without `shuffle`.
    pub separator: String,
    /// Makes several texts of one caption, with its tags in other orders. None by default: a sentence has no tags.
    pub shuffle: Option<Shuffle>,
    /// The endings of caption files, the first that exists counts. `txt` by default, then `caption`, which is that of sd-scripts.
    pub extensions: Vec<String>,
}

impl Default for Captions {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            missing: Missing::Error,
            prefix: String::new(),
            suffix: String::new(),
            separator: ",".to_owned(),
            shuffle: None,
            extensions: vec!["txt".to_owned(), "caption".to_owned()],
        }
    }
}

/// A folder of images, with the folders below it.
///
/// A folder right in it that is called `<number>_<words>`, as sd-scripts wants it, multiplies `repeats` by its number and
/// its words are the class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dataset {
    /// The folder, which must be given. Relative paths start from the folder of the pipeline file.
    pub path: PathBuf,
    /// Goes before the name of each item, to tell two folders with files of equal names apart. Empty by default.
    pub name: String,
    /// Times that each image is seen in an epoch. 1 by default.
    pub repeats: u32,
    /// The text of images without a caption, when `missing` is `ClassName`. Empty by default.
    pub class: String,
}

impl Default for Dataset {
    fn default() -> Self {
        Self { path: PathBuf::new(), name: String::new(), repeats: 1, class: String::new() }
    }
}

/// What an image without a caption file means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// A mistake: the stage fails and lists the images.
    #[default]
    Error,
    /// Its caption is empty, and so is that of an empty caption file.
    Empty,
    /// Its caption is the class of its folder.
    ClassName,
}

/// The shuffled texts of a caption.
///
/// They are encoded once, before training; each is a row of its own in the cache, from which training draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shuffle {
    /// Texts for each caption. 8 by default: enough that no order is learnt by heart, at eight times the text encoding.
    pub variants: u32,
    /// Tags at the front that stay there, such as a trigger word. 0 by default.
    pub keep_tokens: u32,
}

impl Default for Shuffle {
    fn default() -> Self {
        Self { variants: 8, keep_tokens: 0 }
    }
}

/// More repeats than that are no data set but a slip of the hand: every turn of an epoch is listed.
const MOST_REPEATS: u32 = 10_000;

impl Captions {
    /// Values out of range, without a look at any file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.data.is_empty() {
            problems.push(Problem::new("data", "no folder is named").hint("data: [(path: \"photos\")]"));
        }
        for (index, dataset) in self.data.iter().enumerate() {
            self.dataset_problems(&format!("data[{index}]"), dataset, &mut problems);
        }
        if let Some(shuffle) = &self.shuffle
            && !(1..=1000).contains(&shuffle.variants)
        {
            let message = format!("{} is not from 1 to 1000", shuffle.variants);
            problems
                .push(Problem::new("shuffle.variants", message).hint("8 is usual; each text is encoded and stored"));
        }
        if self.separator.trim().is_empty() {
            problems.push(Problem::new("separator", "nothing stands between two tags").hint("separator: \",\""));
        } else if self.shuffle.is_none() && self.separator != Self::default().separator {
            problems.push(
                Problem::new("separator", "has no effect without `shuffle`")
                    .hint("leave it out, or add shuffle: (variants: 8)"),
            );
        }
        if self.extensions.is_empty() {
            problems
                .push(Problem::new("extensions", "no ending of caption files is named").hint("extensions: [\"txt\"]"));
        }
        for (index, extension) in self.extensions.iter().enumerate() {
            extension_problems(format!("extensions[{index}]"), extension, &self.extensions[..index], &mut problems);
        }
        problems
    }

    fn dataset_problems(&self, path: &str, dataset: &Dataset, problems: &mut Vec<Problem>) {
        if dataset.path.as_os_str().is_empty() {
            problems.push(Problem::new(format!("{path}.path"), "no folder is named").hint("path: \"photos\""));
        }
        if dataset.name.contains(|symbol: char| matches!(symbol, '/' | '\\') || symbol.is_control()) {
            let message = format!("{:?} is not a plain word", dataset.name);
            problems.push(Problem::new(format!("{path}.name"), message).hint("letters, digits, spaces, `-` and `_`"));
        }
        if dataset.repeats == 0 {
            let problem = Problem::new(format!("{path}.repeats"), "with 0 repeats no image of it is ever seen");
            problems.push(problem.hint("1 or more, or leave the folder out"));
        }
        if dataset.repeats > MOST_REPEATS {
            let message = format!("{} repeats are more than {MOST_REPEATS}", dataset.repeats);
            problems
                .push(Problem::new(format!("{path}.repeats"), message).hint("see the data more often with `epochs`"));
        }
        if !dataset.class.is_empty() && self.missing != Missing::ClassName {
            let problem = Problem::new(format!("{path}.class"), "has no effect unless `missing` is `ClassName`");
            problems.push(problem.hint("leave it out, or add missing: ClassName"));
        }
    }
}

fn extension_problems(path: String, extension: &str, earlier: &[String], problems: &mut Vec<Problem>) {
    let same = |other: &String| other.eq_ignore_ascii_case(extension);
    if extension.is_empty() || extension.contains(['.', '/', '\\']) {
        problems.push(
            Problem::new(path, format!("{extension:?} is not the ending of a file name"))
                .hint("without the dot: \"txt\""),
        );
    } else if super::scan::IMAGE_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()) {
        problems.push(Problem::new(path, format!("`{extension}` is the ending of images")).hint("\"txt\" is usual"));
    } else if earlier.iter().any(same) {
        problems.push(Problem::new(path, format!("`{extension}` is there twice")).hint("leave one out"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Captions, ron::error::SpannedError> {
        ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME).from_str(text)
    }

    #[test]
    fn the_short_form_is_the_default_with_a_folder() {
        let expected =
            Captions { data: vec![Dataset { path: "photos".into(), ..Dataset::default() }], ..Captions::default() };
        assert_eq!(read("(data: [(path: \"photos\")])").unwrap(), expected);
        assert_eq!(expected.problems(), []);
    }

    #[test]
    fn every_field_can_be_written() {
        let text = "(
            data: [(path: \"photos\", name: \"a\", repeats: 10, class: \"lighthouse\")], missing: ClassName, prefix: \"p\",
            suffix: \"s\", separator: \";\", shuffle: (variants: 4, keep_tokens: 1), extensions: [\"cap\"],
        )";
        let captions = read(text).unwrap();
        assert_eq!(captions.shuffle, Some(Shuffle { variants: 4, keep_tokens: 1 }));
        assert_eq!(captions.missing, Missing::ClassName);
        assert_eq!(captions.problems(), []);
        let written = ron::to_string(&captions).unwrap();
        assert_eq!(ron::from_str::<Captions>(&written).unwrap(), captions);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(read("(dat: [])").unwrap_err().to_string().contains("dat"));
        assert!(read("(data: [(path: \"a\", repeat: 2)])").is_err());
        assert!(read("(shuffle: (keep_token: 1))").is_err());
    }

    #[test]
    fn all_problems_come_at_once_each_with_its_path() {
        let captions = Captions {
            data: vec![
                Dataset::default(),
                Dataset { path: "b".into(), name: "a/b".to_owned(), repeats: 0, class: "dog".to_owned() },
            ],
            shuffle: Some(Shuffle { variants: 0, keep_tokens: 0 }),
            separator: " ".to_owned(),
            extensions: ["txt", ".txt", "PNG", "TXT"].map(str::to_owned).to_vec(),
            ..Captions::default()
        };
        let problems = captions.problems();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        let expected = [
            "data[0].path",
            "data[1].name",
            "data[1].repeats",
            "data[1].class",
            "shuffle.variants",
            "separator",
            "extensions[1]",
            "extensions[2]",
            "extensions[3]",
        ];
        assert_eq!(paths, expected);
        assert!(problems.iter().all(|problem| problem.hint.is_some()));
    }

    #[test]
    fn no_data_and_a_separator_without_effect_are_problems() {
        let captions = Captions { separator: ";".to_owned(), extensions: Vec::new(), ..Captions::default() };
        let paths: Vec<String> = captions.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["data", "separator", "extensions"]);
    }
}
