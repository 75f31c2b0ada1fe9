//! The text of a pipeline with its comments: fields in brackets, each with the option that it came from and what there is to say of it.

/// A bracket with fields.
#[derive(Clone, Debug, Default)]
pub struct Bracket {
    /// What stands in front of it: `Train`, or nothing.
    name: String,
    fields: Vec<Field>,
}

/// What stands behind a field's name.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text as it is.
    Plain(String),
    /// A bracket.
    Bracket(Bracket),
    /// A list of brackets.
    List(Vec<Bracket>),
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    value: Value,
    source: String,
    notes: Vec<String>,
}

/// A field that was just added.
pub struct Added<'b>(&'b mut Field);

/// The longest line.
const WIDTH: usize = 120;

impl Bracket {
    /// An empty one with this in front.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), fields: Vec::new() }
    }

    /// An empty map: a bracket of entries of which each is told on lines of its own.
    pub fn map() -> Self {
        Self { name: "{".to_owned(), fields: Vec::new() }
    }

    /// Adds a field.
    pub fn field(&mut self, name: &str, value: impl Into<Value>) -> Added<'_> {
        let field = Field { name: name.to_owned(), value: value.into(), source: String::new(), notes: Vec::new() };
        Added(self.fields.push_mut(field))
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// On one line, if it has no comments and is short.
    fn inline(&self) -> Option<String> {
        if self.name == "{" {
            return None;
        }
        let fields: Option<Vec<String>> = self.fields.iter().map(Field::inline).collect();
        Some(format!("{}({})", self.name, fields?.join(", "))).filter(|text| text.len() <= 90)
    }

    /// The text, whose lines but the first are indented so deep.
    pub fn write(&self, depth: usize) -> String {
        let (open, close) = if self.name == "{" { ("{", "}") } else { ("(", ")") };
        if let Some(text) = self.inline() {
            return text;
        }
        let indent = "    ".repeat(depth);
        let fields: String = self.fields.iter().map(|field| field.write(depth + 1)).collect();
        let name = self.name.trim_end_matches('{');
        format!("{name}{open}\n{fields}{indent}{close}")
    }
}

impl Field {
    fn inline(&self) -> Option<String> {
        let bare = self.source.is_empty() && self.notes.is_empty();
        let value = match &self.value {
            Value::Plain(text) => Some(text.clone()),
            Value::Bracket(bracket) => bracket.inline(),
            Value::List(list) if list.len() < 2 => {
                let items: Option<Vec<String>> = list.iter().map(Bracket::inline).collect();
                items.map(|items| format!("[{}]", items.join(", ")))
            }
            Value::List(_) => None,
        };
        value.filter(|_| bare).map(|value| format!("{}: {value}", self.name))
    }

    fn write(&self, depth: usize) -> String {
        let indent = "    ".repeat(depth);
        let value = match &self.value {
            Value::Plain(text) => text.clone(),
            Value::Bracket(bracket) => bracket.write(depth),
            Value::List(list) if list.len() < 2 && list.iter().all(|bracket| bracket.inline().is_some()) => {
                format!("[{}]", list.iter().map(|bracket| bracket.write(depth)).collect::<String>())
            }
            Value::List(list) => {
                let item = |bracket: &Bracket| format!("{indent}    {},\n", bracket.write(depth + 1));
                format!("[\n{}{indent}]", list.iter().map(item).collect::<String>())
            }
        };
        let name = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
        let mut notes = self.notes.clone();
        let mut lines = format!("{indent}{name}{value},");
        // Behind a bracket of several lines nobody looks for its source.
        let first = lines.find('\n');
        let room = first.unwrap_or(lines.len()) + self.source.len() + 4 <= WIDTH;
        match (self.source.is_empty(), room, first) {
            (true, ..) => {}
            (_, true, None) => lines += &format!(" // {}", self.source),
            (_, true, Some(end)) => lines.insert_str(end, &format!(" // {}", self.source)),
            (_, false, _) => notes.insert(0, self.source.clone()),
        }
        notes.iter().map(|note| comment(note, depth)).collect::<String>() + &lines + "\n"
    }
}

impl Added<'_> {
    /// Which options it came from, as they were written.
    pub fn from(self, source: impl Into<String>) -> Self {
        self.0.source = source.into().replace(['\n', '\r'], " ");
        self
    }

    /// What else there is to say of it.
    pub fn note(self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }
}

impl From<Bracket> for Value {
    fn from(bracket: Bracket) -> Self {
        Self::Bracket(bracket)
    }
}

impl From<Vec<Bracket>> for Value {
    fn from(list: Vec<Bracket>) -> Self {
        Self::List(list)
    }
}

impl<T: ToString> From<&T> for Value {
    fn from(text: &T) -> Self {
        Self::Plain(text.to_string())
    }
}

/// A comment of lines that are not too long.
pub fn comment(text: &str, depth: usize) -> String {
    let indent = "    ".repeat(depth);
    let mut written = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent.len() + 3 + line.chars().count() + 1 + word.chars().count() > WIDTH {
            written += &format!("{indent}// {line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    written + &format!("{indent}// {line}\n")
}

/// A text as RON writes it.
pub fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A number as people write it: `5e-5`, `0.01`, `3.0`.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0.0".to_owned(),
        value if value.abs() < 1e-3 || value.abs() >= 1e6 => format!("{value:e}"),
        value => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_short_where_they_can_be_and_commented_where_they_must() {
        let mut inner = Bracket::new("");
        inner.field("path", &quoted("photos"));
        let mut bracket = Bracket::new("Captions");
        bracket.field("data", vec![inner.clone()]);
        assert_eq!(bracket.write(2), "Captions(data: [(path: \"photos\")])");
        bracket.field("lines", &"All").from("--enable_wildcard").note("why so");
        inner.field("repeats", &10).from("10_cat");
        bracket.field("data", vec![inner]);
        let expected = "\
Captions(
    data: [(path: \"photos\")],
    // why so
    lines: All, // --enable_wildcard
    data: [
        (
            path: \"photos\",
            repeats: 10, // 10_cat
        ),
    ],
)";
        assert_eq!(bracket.write(0), expected);
    }

    #[test]
    fn comments_are_broken_at_words() {
        let text = comment(&"word ".repeat(60), 2);
        assert!(
            text.lines().count() == 3
                && text.lines().all(|line| line.len() <= WIDTH && line.starts_with("        // "))
        );
    }

    #[test]
    fn numbers_are_short() {
        let short = [(1e-4, "1e-4"), (5e-5, "5e-5"), (0.01, "0.01"), (3.0, "3.0"), (0.0, "0.0"), (1e-30, "1e-30")];
        assert_eq!(short.map(|(value, _)| number(value)), short.map(|(_, text)| text.to_owned()));
    }
}
