//! What stands in fields that are left out: found by reading a pipeline without them, and writing it out again.

use crate::definitions::{Choice, Definitions, Field, Kind, Shape};
use sd3pipe::pipeline::{Pipeline, options};

/// A place in a pipeline where a value of some type can stand.
#[derive(Clone, Default)]
pub struct Place {
    /// The shortest pipeline with such a value, up to it and from it on.
    before: String,
    after: String,
    /// The way from the outermost bracket to the value.
    steps: Vec<Step>,
}

#[derive(Clone)]
enum Step {
    Field(String),
    /// The first of a list.
    Item,
    /// The first of a map.
    Entry,
}

impl Place {
    fn within(&self, before: &str, after: &str, step: Option<Step>) -> Self {
        Self {
            before: format!("{}{before}", self.before),
            after: format!("{after}{}", self.after),
            steps: self.steps.iter().cloned().chain(step).collect(),
        }
    }

    /// The place of an item of a list that stands here.
    pub fn item(&self) -> Self {
        self.within("[", "]", Some(Step::Item))
    }

    /// The place of a value of a map that stands here.
    pub fn entry(&self, key: &str) -> Self {
        self.within(&format!("{{{key}: "), "}", Some(Step::Entry))
    }

    /// The place of what a choice that stands here has in its brackets without a name; a struct shares these brackets.
    pub fn choice(&self, name: &str, is_struct: bool) -> Self {
        if is_struct { self.within(name, "", None) } else { self.within(&format!("{name}("), ")", Some(Step::Item)) }
    }

    /// The place of one of the fields of a struct, or of a choice of this name, that stands here.
    pub fn field(&self, definitions: &Definitions, name: &str, fields: &[Field], field: &str) -> Self {
        let needed = fields.iter().filter(|other| other.required && other.name != field);
        let needed: String =
            needed.map(|other| format!("{}: {}, ", other.name, shortest(definitions, &other.kind))).collect();
        self.within(&format!("{name}({needed}{field}: "), ")", Some(Step::Field(field.to_owned())))
    }

    /// The fields of a struct, or of a choice of this name, that stands here and says no more than it must.
    pub fn fields(&self, definitions: &Definitions, name: &str, fields: &[Field]) -> Vec<(String, String)> {
        let written = self.read(&bracket(definitions, name, fields));
        named(inside(&written)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// What is read when `value` stands here, written out.
    pub fn read(&self, value: &str) -> String {
        let text = format!("{}{value}{}", self.before, self.after);
        let pipeline: Pipeline = options().from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        // With spaces and on one line.
        let config = ron::ser::PrettyConfig::new().depth_limit(0);
        let written = options().to_string_pretty(&pipeline, config).expect("RON");
        let value = self.steps.iter().try_fold(written.as_str(), |text, step| match step {
            Step::Item => parts(inside(text)).first().copied(),
            Step::Entry => Some(parts(inside(text)).first()?.split_once(": ")?.1),
            Step::Field(field) => named(inside(text)).find(|(name, _)| name == field).map(|(_, value)| value),
        });
        value.unwrap_or_else(|| panic!("what was read of {text} is not in {written}")).to_owned()
    }
}

/// The shortest value that serde reads.
pub fn shortest(definitions: &Definitions, kind: &Kind) -> String {
    match kind {
        Kind::Number | Kind::Whole => "1".to_owned(),
        Kind::Text | Kind::Path => "\"x\"".to_owned(),
        Kind::Flag => "true".to_owned(),
        Kind::Tuple(parts) => {
            format!("({})", parts.iter().map(|part| shortest(definitions, part)).collect::<Vec<_>>().join(", "))
        }
        Kind::List(_) => "[]".to_owned(),
        Kind::Map(..) => "{}".to_owned(),
        Kind::Optional(_) => "None".to_owned(),
        Kind::Named(path) => match &definitions.get(path).shape {
            Shape::Struct(fields) => bracket(definitions, "", fields),
            Shape::Enum(choices) => match &choices[0] {
                Choice { name, fields, values, .. } if values.is_empty() && fields.is_empty() => name.clone(),
                Choice { name, fields, values, .. } if values.is_empty() => bracket(definitions, name, fields),
                Choice { name, values, .. } => {
                    let values: Vec<_> = values.iter().map(|value| shortest(definitions, value)).collect();
                    if values[0].starts_with('(') {
                        format!("{name}{}", values[0])
                    } else {
                        format!("{name}({})", values.join(", "))
                    }
                }
            },
            Shape::ByHand => panic!("{path} is read by hand and has no default: nothing is known that it could be"),
        },
    }
}

fn bracket(definitions: &Definitions, name: &str, fields: &[Field]) -> String {
    let needed = fields.iter().filter(|field| field.required);
    let needed: Vec<_> =
        needed.map(|field| format!("{}: {}", field.name, shortest(definitions, &field.kind))).collect();
    format!("{name}({})", needed.join(", "))
}

/// What stands in the outermost brackets.
fn inside(text: &str) -> &str {
    let open = text.find(['(', '[', '{']).unwrap_or_else(|| panic!("no bracket in {text}"));
    &text[open + 1..text.trim_end().len() - 1]
}

/// `a: 1, b: (2, 3)` to its parts at the outermost level.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut escaped, mut start, mut parts) = (0, false, false, 0, Vec::new());
    for (at, symbol) in text.char_indices() {
        match symbol {
            '"' if !escaped => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        escaped = symbol == '\\' && !escaped;
    }
    parts.push(text[start..].trim());
    parts
}

fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    parts(text).into_iter().filter_map(|part| part.split_once(": "))
}
