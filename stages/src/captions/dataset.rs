//! What a pipeline may say about one of its folders of images.

use super::parameters::Missing;
use crate::problem::Problem;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// A folder of images, with the folders below it.
///
/// A folder right in it that is called `<number>_<words>`, as sd-scripts wants it, multiplies `repeats` by its number and
/// its words are the class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dataset {
    /// The folder. Relative paths start from the folder of the pipeline file.
    pub path: PathBuf,
    /// Goes before the name of each item, to tell two folders with files of equal names apart. Empty by default.
    pub name: String,
    /// Times that each image is seen in an epoch. 1 by default.
    pub repeats: u32,
    /// The text of images without a caption, when `missing` is `ClassName`. Empty by default.
    pub class: String,
    /// What each of its images counts in the loss, from 0.001 to 1000, where 1, the default, is what others count. `repeats` says
    /// how often an image is seen, and this how much is learnt of it each time.
    pub weight: f64,
    /// Whether these are regularisation images: pictures of the class that keep the model from taking everything for the new
    /// style or subject. They count `prior_loss_weight` of the training. `false` by default. They are seen as often as `repeats`
    /// says; sd-scripts repeats or leaves out some of them until they are as many as the others.
    pub regularisation: bool,
    /// Which parts of an image are learnt. None by default: all of it.
    pub masks: Option<Masks>,
    /// Whether each image is encoded a second time, mirrored left to right, of which training takes one at each step, each as
    /// often. `false` by default: writing and faces do not stand being mirrored.
    pub flip: bool,
    /// A word that calls what is learnt. It takes the place of `[trigger]` in captions, and comes first, as a tag that is never
    /// shuffled, in those that do not have it. Empty by default.
    pub trigger: String,
    /// Written before its captions in place of the stage's `prefix`, which is the default.
    pub prefix: Option<String>,
    /// Written after its captions in place of the stage's `suffix`, which is the default.
    pub suffix: Option<String>,
}

impl Default for Dataset {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            name: String::new(),
            repeats: 1,
            class: String::new(),
            weight: 1.0,
            regularisation: false,
            masks: None,
            flip: false,
            trigger: String::new(),
            prefix: None,
            suffix: None,
        }
    }
}

/// Where it is written which parts of an image are learnt.
///
/// A mask is made as large as the latents, each cell the mean of the pixels that it stands for. The loss of a cell is multiplied
/// by it and divided by the mean of the image's mask: what is learnt of a small part counts as much as a whole picture.
/// (sd-scripts does not divide, so that small parts count little.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Masks {
    /// In its alpha channel: what is transparent is not learnt. White stands there, as in images without a mask. Of an image
    /// without an alpha channel all is learnt.
    Alpha,
    /// In an image of the same name, but for the ending, in this folder or, for images in folders, in the folder of that name in
    /// it: white is learnt and black is not, by the red channel. It has the image's shape; its size may be another. Relative
    /// paths start from the folder of the pipeline file.
    Folder(PathBuf),
}

/// More repeats than that are no data set but a slip of the hand: every turn of an epoch is listed.
const MOST_REPEATS: u32 = 10_000;

impl Dataset {
    /// Those of its settings, beside repeats and class, that its items depend on and that are not at their defaults, as one text; none
    /// if all are. Paths are not in it: the same pictures in another folder are the same data.
    pub fn settings(&self) -> Result<Option<String>, serde_json::Error> {
        let fields = |dataset: &Self| match serde_json::to_value(dataset)? {
            Value::Object(fields) => Ok(fields),
            _ => Ok(Map::new()),
        };
        let (mut own, default) = (fields(self)?, fields(&Self::default())?);
        own.retain(|name, value| {
            !["path", "name", "repeats", "class"].contains(&name.as_str()) && default.get(name) != Some(value)
        });
        if let Some(Masks::Folder(_)) = self.masks {
            own.insert("masks".to_owned(), "Folder".into());
        }
        Ok((!own.is_empty()).then(|| Value::Object(own).to_string()))
    }

    /// Values out of range, at this path in the stage's parameters, without a look at any file.
    pub(super) fn problems(&self, path: &str, missing: Missing, problems: &mut Vec<Problem>) {
        if self.path.as_os_str().is_empty() {
            problems.push(Problem::new(format!("{path}.path"), "no folder is named").hint("path: \"photos\""));
        }
        if self.name.contains(|symbol: char| matches!(symbol, '/' | '\\') || symbol.is_control()) {
            let message = format!("{:?} is not a plain word", self.name);
            problems.push(Problem::new(format!("{path}.name"), message).hint("letters, digits, spaces, `-` and `_`"));
        }
        if self.repeats == 0 {
            let problem = Problem::new(format!("{path}.repeats"), "with 0 repeats no image of it is ever seen");
            problems.push(problem.hint("1 or more, or leave the folder out"));
        }
        if self.repeats > MOST_REPEATS {
            let message = format!("{} repeats are more than {MOST_REPEATS}", self.repeats);
            problems
                .push(Problem::new(format!("{path}.repeats"), message).hint("see the data more often with `epochs`"));
        }
        if !(0.001..=1000.0).contains(&self.weight) {
            let message = format!("{} is not from 0.001 to 1000", self.weight);
            let problem = Problem::new(format!("{path}.weight"), message);
            problems.push(problem.hint("1 is what others count; leave out what is to count nothing"));
        }
        if self.masks == Some(Masks::Folder(PathBuf::new())) {
            problems.push(Problem::new(format!("{path}.masks"), "no folder is named").hint("masks: Folder(\"masks\")"));
        }
        if !self.class.is_empty() && missing != Missing::ClassName {
            let problem = Problem::new(format!("{path}.class"), "has no effect unless `missing` is `ClassName`");
            problems.push(problem.hint("leave it out, or add missing: ClassName"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_only_where_they_are_used_and_never_by_a_path() {
        let of = |settings: &str| ron::from_str::<Dataset>(settings).unwrap().settings().unwrap();
        assert_eq!(of("(path: \"a\", name: \"b\", repeats: 3, class: \"c\", weight: 1.0, flip: false)"), None);
        assert_eq!(of("(weight: 0.5, flip: true)").unwrap(), r#"{"flip":true,"weight":0.5}"#);
        assert_eq!(of("(masks: Some(Folder(\"a\")))"), of("(masks: Some(Folder(\"b\")))"));
        assert_ne!(of("(masks: Some(Folder(\"a\")))"), of("(masks: Some(Alpha))"));
        assert_eq!(of("(prefix: Some(\"\"))").unwrap(), r#"{"prefix":""}"#);
    }
}
