//! What stands in fields that are left out: found by reading a pipeline without them, and writing it out again.

use crate::definitions::{Definitions, Field, Kind, Shape};
use sd3pipe::pipeline::{Pipeline, options};
use sd3pipe_stages::stage::Stage;

/// A place in a pipeline where a value of some type can stand.
#[derive(Clone, Default)]
pub struct Place {
    /// The shortest pipeline with such a value, up to it and from it on.
    before: String,
    after: String,
    /// The way to the value through brackets: names of fields; nothing for what stands first.
    steps: Vec<Option<String>>,
}

impl Place {
    /// A place in brackets that stand here.
    fn within(&self, before: &str, after: &str, step: Option<Option<&str>>) -> Self {
        Self {
            before: format!("{}{before}", self.before),
            after: format!("{after}{}", self.after),
            steps: self.steps.iter().cloned().chain(step.map(|step| step.map(str::to_owned))).collect(),
        }
    }

    /// The first value in a list or a map that stands here.
    pub fn first(&self, of: &Kind) -> Self {
        match of {
            Kind::Map(..) => self.within("{\"x\": ", "}", Some(Some("\"x\""))),
            _ => self.within("[", "]", Some(None)),
        }
    }

    /// What a choice that stands here has in its brackets without a name; of a struct these are the struct's own.
    pub fn choice(&self, name: &str, is_struct: bool) -> Self {
        if is_struct { self.within(name, "", None) } else { self.within(&format!("{name}("), ")", Some(None)) }
    }

    /// A field of a struct, or of a choice of this name, that stands here.
    pub fn field(&self, definitions: &Definitions, name: &str, fields: &[Field], field: &str) -> Self {
        let others = needed(definitions, fields.iter().filter(|other| other.name != field));
        self.within(&format!("{name}({others}{field}: "), ")", Some(Some(field)))
    }

    /// The fields of a struct, or of a choice of this name, that stands here and says no more than it must.
    pub fn fields(&self, definitions: &Definitions, name: &str, fields: &[Field]) -> Vec<(String, String)> {
        let written = self.read(&format!("{name}({})", needed(definitions, fields)));
        let pair = |part: &str| part.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        parts(&written).into_iter().filter_map(pair).collect()
    }

    /// What is read when `value` stands here, written out.
    pub fn read(&self, value: &str) -> String {
        let pipeline = self.pipeline(value);
        // With spaces and on one line.
        let config = ron::ser::PrettyConfig::new().depth_limit(0);
        // `r#None` is how RON tells a choice of that name from nothing; it is read without too.
        let written = options().to_string_pretty(&pipeline, config).expect("RON").replace("r#", "");
        let found = self.steps.iter().try_fold(written.as_str(), |text, step| match step {
            None => parts(text).first().copied(),
            Some(field) => parts(text).iter().find_map(|part| part.strip_prefix(field.as_str())?.strip_prefix(": ")),
        });
        found.unwrap_or_else(|| panic!("what is read of {value} is not in {written}")).to_owned()
    }

    /// Whether a stage is refused for a field that is left out of what stands here, although it can be read: `Captions.data`.
    pub fn refuses(&self, definitions: &Definitions, name: &str, fields: &[Field], field: &str) -> bool {
        // What leads to the stage is no part of the paths that it tells.
        let steps =
            self.steps.iter().skip(2).map(|step| step.as_ref().map_or("[0]".to_owned(), |name| format!(".{name}")));
        let path: String = steps.chain([format!(".{field}")]).collect();
        let stages = self.pipeline(&format!("{name}({})", needed(definitions, fields))).stages;
        stages.values().flat_map(Stage::problems).any(|problem| problem.path == path[1..])
    }

    fn pipeline(&self, value: &str) -> Pipeline {
        let text = format!("{}{value}{}", self.before, self.after);
        options().from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }
}

/// Those fields that can't be left out, with values that serde takes.
fn needed<'f>(definitions: &Definitions, fields: impl IntoIterator<Item = &'f Field>) -> String {
    let needed = fields.into_iter().filter(|field| field.required);
    needed.map(|field| format!("{}: {}, ", field.name, any(definitions, &field.kind))).collect()
}

fn any(definitions: &Definitions, kind: &Kind) -> String {
    match kind {
        Kind::Plain("text" | "path") => "\"x\"".to_owned(),
        Kind::Plain("`true` or `false`") => "true".to_owned(),
        Kind::Plain(_) => "1".to_owned(),
        Kind::List(_) => "[]".to_owned(),
        Kind::Map(..) => "{}".to_owned(),
        Kind::Optional(_) => "None".to_owned(),
        Kind::Tuple(parts) => {
            format!("({})", parts.iter().map(|part| any(definitions, part) + ",").collect::<String>())
        }
        Kind::Named(name) => match &definitions.get(name).shape {
            Shape::Struct(fields) => format!("({})", needed(definitions, fields)),
            Shape::Enum(choices) if choices[0].values.is_empty() && choices[0].fields.is_empty() => {
                choices[0].name.clone()
            }
            _ => panic!("give {name} a default: this test can't make one up"),
        },
    }
}

/// What stands in the outermost brackets, `a: 1, b: (2, 3)`, at its commas.
fn parts(text: &str) -> Vec<&str> {
    let open = text.find(['(', '[', '{']).unwrap_or_else(|| panic!("no bracket in {text}"));
    let inside = &text[open + 1..text.len() - 1];
    let (mut depth, mut quoted, mut escaped, mut start, mut parts) = (0, false, false, 0, Vec::new());
    for (at, symbol) in inside.char_indices() {
        match symbol {
            '"' if !escaped => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(inside[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        escaped = symbol == '\\' && !escaped;
    }
    parts.push(inside[start..].trim());
    parts
}
