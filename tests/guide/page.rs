//! The parts of the guide that are written from the sources, as Markdown.

use crate::{
    definitions::{Choice, Definitions, Field, Kind, Shape},
    values::Place,
};
use std::{collections::BTreeMap, fmt::Write};

/// Tells of types, those with chapters of their own each in its chapter, and all others where they are needed.
pub struct Page<'p> {
    definitions: &'p Definitions,
    /// The titles of chapters, by the names of their types.
    titles: &'p BTreeMap<String, String>,
    /// The chapters' texts.
    pub chapters: BTreeMap<String, String>,
    /// Types without a chapter, each told once, and by which choice or field.
    told: BTreeMap<String, String>,
    /// What the doc comments lack.
    pub faults: Vec<String>,
}

impl<'p> Page<'p> {
    /// Goes through all that can stand in a pipeline.
    pub fn new(definitions: &'p Definitions, titles: &'p BTreeMap<String, String>) -> Self {
        let (chapters, told) = (BTreeMap::new(), BTreeMap::new());
        let mut page = Self { definitions, titles, chapters, told, faults: Vec::new() };
        page.chapter("Pipeline", &Place::default());
        page
    }

    fn chapter(&mut self, name: &str, place: &Place) {
        if !self.chapters.contains_key(name) {
            self.chapters.insert(name.to_owned(), String::new());
            let mut text = self.docs(name, &self.definitions.get(name).docs) + "\n\n";
            self.shape(&mut text, name, name, place, "");
            self.chapters.insert(name.to_owned(), text);
        }
    }

    /// The fields or choices of a type, below `of`, which names what has that type.
    fn shape(&mut self, text: &mut String, name: &str, of: &str, place: &Place, indent: &str) {
        match &self.definitions.get(name).shape {
            Shape::Struct(fields) => self.fields(text, of, "", fields, place, indent),
            Shape::Enum(choices) => choices.iter().for_each(|choice| self.choice(text, of, choice, place, indent)),
            Shape::ByHand => {}
        }
    }

    fn choice(&mut self, text: &mut String, of: &str, choice: &Choice, place: &Place, indent: &str) {
        let Choice { name, docs, fields, values } = choice;
        let (of, docs, inner) =
            (format!("{of}.{name}"), self.docs(&format!("{of}.{name}"), docs), format!("{indent}  "));
        match values.as_slice() {
            [] if fields.is_empty() => writeln!(text, "{indent}- `{name}`: {docs}").unwrap(),
            [] => {
                writeln!(text, "{indent}- `{name}(…)`: {docs}").unwrap();
                self.fields(text, &of, name, fields, place, &inner);
            }
            [Kind::Named(value)] if matches!(self.definitions.get(value).shape, Shape::Struct(_)) => {
                // A struct's brackets are the choice's own.
                let place = place.choice(name, true);
                if let Some(title) = self.titles.get(value) {
                    writeln!(text, "{indent}- [`{name}(…)`](#{}): {docs}", anchor(title)).unwrap();
                    return self.chapter(value, &place);
                }
                match self.told.get(value) {
                    Some(before) => {
                        writeln!(text, "{indent}- `{name}(…)`, with the fields of `{before}`: {docs}").unwrap()
                    }
                    None => {
                        self.told.insert(value.clone(), name.clone());
                        let more = self.docs(value, &self.definitions.get(value).docs);
                        writeln!(text, "{indent}- `{name}(…)`: {docs} {more}").unwrap();
                        self.shape(text, value, &of, &place, &inner);
                    }
                }
            }
            values => {
                let words: Vec<_> = values.iter().map(|value| self.words(value)).collect();
                writeln!(text, "{indent}- `{name}(…)`, of a {}: {docs}", words.join(" and a ")).unwrap();
                let place = place.choice(name, false);
                values.iter().for_each(|value| self.below(text, value, &of, &place, &inner));
            }
        }
    }

    fn fields(&mut self, text: &mut String, of: &str, name: &str, fields: &[Field], place: &Place, indent: &str) {
        let written = place.fields(self.definitions, name, fields);
        for field in fields {
            let of = format!("{of}.{}", field.name);
            let docs = self.docs(&of, &field.docs);
            let needed = field.required || place.refuses(self.definitions, name, fields, &field.name);
            let place = place.field(self.definitions, name, fields, &field.name);
            let value =
                written.iter().find(|(name, _)| *name == field.name).map_or("None", |(_, value)| value.as_str());
            let (kind, optional) = match &field.kind {
                Kind::Optional(inner) => (&**inner, true),
                kind => (kind, false),
            };
            let default = match value {
                _ if needed => "needed".to_owned(),
                "None" if optional => "absent unless given".to_owned(),
                _ if optional => format!("or `None`; default `{}`", self.short(kind, value, &place)),
                _ => format!("default `{}`", self.short(kind, value, &place)),
            };
            if value == "None" && optional && !ABSENCE.iter().any(|word| docs.contains(word)) {
                self.faults.push(format!("{of}: what holds when it's absent?"));
            }
            let docs = match stated(&docs).filter(|_| !needed && value != "None") {
                Some(stated) if !agree(stated, value) => {
                    self.faults.push(format!("{of}: the comment says that the default is {stated}, and it is {value}"));
                    docs
                }
                // Not to say it twice.
                Some(stated) => docs
                    .replace(&format!("Default {stated}."), "")
                    .replace(&format!(" {stated} by default."), "")
                    .replace("  ", " ")
                    .trim()
                    .to_owned(),
                None => docs,
            };
            let name = if indent.is_empty() { format!("**`{}`**", field.name) } else { format!("`{}`", field.name) };
            writeln!(text, "{indent}- {name} ({}; {default}): {docs}", self.words(kind)).unwrap();
            self.below(text, kind, &of, &place, &format!("{indent}  "));
        }
    }

    /// What a value may be is told below it, unless it has a chapter.
    fn below(&mut self, text: &mut String, kind: &Kind, of: &str, place: &Place, indent: &str) {
        match kind {
            Kind::Optional(inner) => self.below(text, inner, of, place, indent),
            Kind::List(inner) => self.below(text, inner, of, &place.first(kind), indent),
            Kind::Map(key, inner) => {
                self.below(text, key, of, place, indent);
                self.below(text, inner, of, &place.first(kind), indent);
            }
            Kind::Named(name) if self.titles.contains_key(name) => self.chapter(name, place),
            Kind::Named(name) if self.told.contains_key(name) => {}
            Kind::Named(name) => {
                self.told.insert(name.clone(), of.rsplit('.').next().unwrap_or(of).to_owned());
                let definition = self.definitions.get(name);
                let docs = self.docs(name, &definition.docs);
                // A single sentence says in other words what the field's comment has said.
                if docs.contains(". ") || matches!(definition.shape, Shape::ByHand) {
                    write!(text, "\n{indent}{docs}\n\n").unwrap();
                }
                self.shape(text, name, of, place, indent);
            }
            Kind::Plain(_) | Kind::Tuple(_) => {}
        }
    }

    fn words(&self, kind: &Kind) -> String {
        match kind {
            Kind::Plain(words) => (*words).to_owned(),
            Kind::Tuple(parts) => {
                format!("({})", parts.iter().map(|part| self.words(part)).collect::<Vec<_>>().join(", "))
            }
            Kind::List(inner) => match self.words(inner) {
                words if words.ends_with(char::is_alphabetic) => format!("list of {words}s"),
                words => format!("list of {words}"),
            },
            Kind::Map(key, inner) => format!("`{{…}}`, for each {} a {}", self.words(key), self.words(inner)),
            Kind::Optional(inner) => self.words(inner),
            Kind::Named(name) => {
                match (self.titles.get(name), self.told.get(name), &self.definitions.get(name).shape) {
                    (Some(title), ..) => format!("[{title}](#{})", anchor(title)),
                    (.., Shape::ByHand) => name.to_lowercase(),
                    (_, Some(before), _) => format!("choice as in `{before}`"),
                    (.., Shape::Struct(_)) => "`(…)`".to_owned(),
                    (.., Shape::Enum(_)) => "choice".to_owned(),
                }
            }
        }
    }

    /// A default as people would write it: `1e-8`, and of `Cosine(warmup: 0)` just `Cosine()`.
    fn short(&self, kind: &Kind, value: &str, place: &Place) -> String {
        let bracket = value.split_once('(').map(|(name, _)| format!("{name}()")).filter(|_| value.len() > 24);
        match (value.parse::<f64>(), bracket) {
            (Ok(number), _) if number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
            (_, Some(bracket)) if matches!(kind, Kind::Named(_)) && place.read(&bracket) == value => bracket,
            _ => value.to_owned(),
        }
    }

    fn docs(&mut self, of: &str, docs: &str) -> String {
        if docs.is_empty() {
            self.faults.push(format!("{of}: no doc comment"));
        }
        docs.to_owned()
    }
}

/// One of these is in the comment of a field that may be absent, as it says what holds then.
const ABSENCE: [&str; 5] = ["absent", "left out", "unless", "default", "without"];

/// What a doc comment says that the default is: `Default 8.`, `8 by default`, `8 unless given`, `8 when left out`.
fn stated(docs: &str) -> Option<&str> {
    let behind = docs.split_once("Default ").map(|(_, rest)| rest.split([',', ';']).next().unwrap_or(rest));
    let behind = behind.map(|rest| rest.split(". ").next().unwrap_or(rest).trim_end_matches('.'));
    let before = [" by default", " unless given", " when left out"].iter().find_map(|phrase| {
        let (text, _) = docs.split_once(phrase)?;
        text.rsplit([' ', '(']).next()
    });
    let literal = |text: &&str| text.parse::<f64>().is_ok() || (text.starts_with('`') && text.ends_with('`'));
    behind.or(before).filter(|text| literal(text) || *text == "none")
}

fn agree(stated: &str, value: &str) -> bool {
    let stated = stated.trim_matches('`');
    match (stated.parse::<f64>(), value.parse::<f64>()) {
        (Ok(stated), Ok(value)) => stated == value,
        _ => value.contains(if stated == "none" { "[]" } else { stated }),
    }
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|symbol| symbol.is_alphanumeric() || " -_".contains(*symbol));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
