//! What a pipeline may say about its images and captions.

pub use super::dataset::{Dataset, Masks};
use crate::problem::Problem;
use serde::{Deserialize, Serialize};

/// Finds the images of one or more folders and makes the texts that each is trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Captions {
    /// The folders with the images, each with repeats, a weight and masks of its own.
    pub data: Vec<Dataset>,
    /// What an image without a caption file means. `Error` by default, because it is nearly always a mistake.
    pub missing: Missing,
    /// Which lines of a caption file are captions. `First` by default, as in sd-scripts.
    pub lines: Lines,
    /// Written before every caption, with a space between. Empty by default.
    pub prefix: String,
    /// Written after every caption, with a space between. Empty by default.
    pub suffix: String,
    /// Makes several texts of one caption with choices in it: of `a {red|blue} door` two. None by default: braces are then
    /// letters like others.
    pub wildcards: Option<Wildcards>,
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
            lines: Lines::First,
            prefix: String::new(),
            suffix: String::new(),
            wildcards: None,
            separator: ",".to_owned(),
            shuffle: None,
            extensions: vec!["txt".to_owned(), "caption".to_owned()],
        }
    }
}

/// Which lines of a caption file are captions. Blank ones never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lines {
    /// The first.
    #[default]
    First,
    /// Every one is a caption of its own, of which training draws one at each step.
    All,
}

/// Makes texts of a caption with choices in it.
///
/// `{a|b|c}` is one of `a`, `b` and `c`, as it stands there; an empty one is nothing. There are no choices inside of choices.
/// `{{` and `}}` are braces. Prefix and suffix may have choices too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wildcards {
    /// Texts for each caption: all that can be made of it if these are no more, else so many that are drawn. 8 by default. With
    /// `shuffle` there are as many as the larger of the two says.
    pub variants: u32,
}

impl Default for Wildcards {
    fn default() -> Self {
        Self { variants: 8 }
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

/// Makes several texts of one caption by drawing among its tags.
///
/// They are encoded once, before training; each is a row of its own in the cache, from which training draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shuffle {
    /// Texts for each caption. 8 by default: enough that no order is learnt by heart, at eight times the text encoding.
    pub variants: u32,
    /// Tags at the front that stay there, such as a trigger word. 0 by default.
    pub keep_tokens: u32,
    /// What stands in a caption between the tags that stay and the others, instead of a number of them: `sks, dog ||| park, sun`.
    /// What comes after a second one stays at the end. Captions without it go by `keep_tokens`. Empty by default: there is none.
    pub keep_tokens_separator: String,
    /// What stands between tags that stay together, and becomes a separator like the others: with `";;"` a caption
    /// `red hat;;blue coat, sun` has two tags that move, and three when it is encoded. Empty by default: there is none.
    pub secondary_separator: String,
    /// The share of texts in which a tag is left out, for each tag that does not stay on its own, from 0 to 1. 0 by default.
    pub tag_dropout: f64,
    /// Whether tags change places. `true` by default; with `false` they only drop out.
    pub reorder: bool,
}

impl Default for Shuffle {
    fn default() -> Self {
        Self {
            variants: 8,
            keep_tokens: 0,
            keep_tokens_separator: String::new(),
            secondary_separator: String::new(),
            tag_dropout: 0.0,
            reorder: true,
        }
    }
}

/// More texts of a caption than that take longer to encode than anybody waits.
const MOST_VARIANTS: u32 = 1000;

impl Captions {
    /// Values out of range, without a look at any file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.data.is_empty() {
            problems.push(Problem::new("data", "no folder is named").hint("data: [(path: \"photos\")]"));
        }
        for (index, dataset) in self.data.iter().enumerate() {
            dataset.problems(&format!("data[{index}]"), self.missing, &mut problems);
        }
        let counts = [
            ("wildcards.variants", self.wildcards.as_ref().map(|wildcards| wildcards.variants)),
            ("shuffle.variants", self.shuffle.as_ref().map(|shuffle| shuffle.variants)),
        ];
        for (path, count) in counts {
            if let Some(count) = count.filter(|count| !(1..=MOST_VARIANTS).contains(count)) {
                let message = format!("{count} is not from 1 to {MOST_VARIANTS}");
                problems.push(Problem::new(path, message).hint("8 is usual; each text is encoded and stored"));
            }
        }
        if let Some(shuffle) = &self.shuffle {
            shuffle.problems(&self.separator, &mut problems);
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
}

impl Shuffle {
    fn problems(&self, separator: &str, problems: &mut Vec<Problem>) {
        let mut add = |field: &str, message: String, hint: &str| {
            problems.push(Problem::new(format!("shuffle.{field}"), message).hint(hint));
        };
        for (field, value) in
            [("keep_tokens_separator", &self.keep_tokens_separator), ("secondary_separator", &self.secondary_separator)]
        {
            if !value.is_empty() && (value.trim().is_empty() || value == separator) {
                add(field, format!("{value:?} can't be told from what else stands in captions"), "\"|||\" is usual");
            }
        }
        if !self.secondary_separator.is_empty() && self.secondary_separator == self.keep_tokens_separator {
            add("secondary_separator", "is the other separator too".to_owned(), "\";;;\" is usual");
        }
        if !(0.0..=1.0).contains(&self.tag_dropout) {
            add("tag_dropout", format!("{} is not from 0 to 1", self.tag_dropout), "0.1 is usual");
        }
        if !self.reorder && self.tag_dropout == 0.0 {
            add(
                "reorder",
                "with `false` and no `tag_dropout` all texts are the same".to_owned(),
                "leave `shuffle` out, or add tag_dropout: 0.1",
            );
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
    use std::path::PathBuf;

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
            data: [
                (
                    path: \"photos\", name: \"a\", repeats: 10, class: \"lighthouse\", weight: 0.5, masks: Folder(\"masks\"),
                    flip: true, trigger: \"sks\", prefix: \"a\", suffix: \"b\",
                ),
                (path: \"class\", regularisation: true, masks: Alpha, prefix: \"\"),
            ],
            missing: ClassName, lines: All, prefix: \"p\", suffix: \"s\", wildcards: (variants: 3), separator: \";\",
            shuffle: (
                variants: 4, keep_tokens: 1, keep_tokens_separator: \"|||\", secondary_separator: \"+\", tag_dropout: 0.1,
                reorder: false,
            ),
            extensions: [\"cap\"],
        )";
        let captions = read(text).unwrap();
        assert_eq!(captions.shuffle.as_ref().unwrap().keep_tokens_separator, "|||");
        assert_eq!(captions.data[0].masks, Some(Masks::Folder("masks".into())));
        assert_eq!(captions.data[1].prefix, Some(String::new()));
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
                Dataset {
                    path: "b".into(),
                    name: "a/b".to_owned(),
                    repeats: 0,
                    class: "dog".to_owned(),
                    weight: f64::NAN,
                    masks: Some(Masks::Folder(PathBuf::new())),
                    ..Dataset::default()
                },
            ],
            wildcards: Some(Wildcards { variants: 1001 }),
            shuffle: Some(Shuffle {
                variants: 0,
                keep_tokens_separator: " ".to_owned(),
                secondary_separator: " ".to_owned(),
                tag_dropout: 1.5,
                ..Shuffle::default()
            }),
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
            "data[1].weight",
            "data[1].masks",
            "data[1].class",
            "wildcards.variants",
            "shuffle.variants",
            "shuffle.keep_tokens_separator",
            "shuffle.secondary_separator",
            "shuffle.secondary_separator",
            "shuffle.tag_dropout",
            "separator",
            "extensions[1]",
            "extensions[2]",
            "extensions[3]",
        ];
        assert_eq!(paths, expected);
        assert!(problems.iter().all(|problem| problem.hint.is_some()));
    }

    #[test]
    fn a_shuffle_that_draws_nothing_is_a_problem() {
        let of = |shuffle| {
            let data = vec![Dataset { path: "photos".into(), ..Dataset::default() }];
            Captions { data, shuffle: Some(shuffle), ..Captions::default() }.problems()
        };
        assert_eq!(of(Shuffle { reorder: false, ..Shuffle::default() })[0].path, "shuffle.reorder");
        assert_eq!(of(Shuffle { reorder: false, tag_dropout: 0.1, ..Shuffle::default() }), []);
    }

    #[test]
    fn no_data_and_a_separator_without_effect_are_problems() {
        let captions = Captions { separator: ";".to_owned(), extensions: Vec::new(), ..Captions::default() };
        let paths: Vec<String> = captions.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["data", "separator", "extensions"]);
    }
}
