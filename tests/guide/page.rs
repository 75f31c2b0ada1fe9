//! The parts of the guide that are written from the sources, as Markdown.

use crate::{
    definitions::{Choice, Definitions, Field, Kind, Shape},
    values::{Place, shortest},
};
use sd3pipe::pipeline::options;
use sd3pipe_stages::stage::Stage;
use std::{collections::BTreeMap, fmt::Write};

/// A part of the guide whose place a person has chosen, by a mark; all others follow where they are first needed.
pub struct Chapter {
    /// The path of its type.
    pub path: String,
    /// The heading above it.
    pub title: String,
    /// How many `#` that has.
    pub level: usize,
}

/// The type of a field, or of several.
struct Section {
    /// Which chapter it's in.
    chapter: usize,
    path: String,
    /// The field in that chapter, `schedule.warmup`; nothing for what the chapter itself is about.
    field: String,
    place: Place,
}

/// All parts, in the order of the page.
pub struct Page<'p> {
    definitions: &'p Definitions,
    chapters: &'p [Chapter],
    sections: Vec<Section>,
    /// What is told with the choices that it belongs to, by the first of them.
    inside: BTreeMap<String, String>,
    /// What the doc comments lack.
    pub faults: Vec<String>,
}

impl<'p> Page<'p> {
    /// Goes through everything that can stand in the type at `root`.
    pub fn new(definitions: &'p Definitions, root: &str, chapters: &'p [Chapter]) -> Self {
        let mut page =
            Self { definitions, chapters, sections: Vec::new(), inside: BTreeMap::new(), faults: Vec::new() };
        page.find(&Kind::Named(root.to_owned()), 0, String::new(), Place::default());
        page
    }

    fn find(&mut self, kind: &Kind, chapter: usize, field: String, place: Place) {
        let path = match kind {
            Kind::Named(path) => path,
            Kind::Optional(inner) => return self.find(inner, chapter, field, place),
            Kind::List(inner) => return self.find(inner, chapter, field, place.item()),
            Kind::Map(key, value) => {
                let entry = place.entry(&shortest(self.definitions, key));
                self.find(key, chapter, field.clone(), place);
                return self.find(value, chapter, field, entry);
            }
            Kind::Tuple(parts) => {
                assert!(!parts.iter().any(|part| matches!(part, Kind::Named(_))), "`{field}`: tuples of numbers only");
                return;
            }
            _ => return,
        };
        if self.section(path).is_some() || self.inside.contains_key(path) {
            return;
        }
        let definition = self.definitions.get(path);
        assert!(definition.unknown.is_empty(), "{path}: the guide knows no serde({})", definition.unknown.join(", "));
        let own = self.chapters.iter().position(|chapter| chapter.path == *path);
        let (chapter, field) = own.map_or((chapter, field), |own| (own, String::new()));
        let joined = |name: &str| if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
        self.sections.push(Section { chapter, path: path.clone(), field: field.clone(), place: place.clone() });
        match &definition.shape {
            Shape::Struct(fields) => self.find_in(fields, "", chapter, joined, &place),
            Shape::Enum(choices) => {
                for Choice { name, fields, values, .. } in choices {
                    self.find_in(fields, name, chapter, joined, &place);
                    for value in values {
                        match self.bracket(value) {
                            Some((path, fields)) => {
                                self.inside.entry(path.to_owned()).or_insert(name.clone());
                                self.find_in(fields, "", chapter, joined, &place.choice(name, true));
                            }
                            None => {
                                let place =
                                    place.choice(name, matches!(value, Kind::Named(path) if self.is_struct(path)));
                                self.find(value, chapter, field.clone(), place);
                            }
                        }
                    }
                }
            }
            Shape::ByHand => {}
        }
    }

    fn find_in(
        &mut self,
        fields: &[Field],
        name: &str,
        chapter: usize,
        joined: impl Fn(&str) -> String,
        place: &Place,
    ) {
        for field in fields {
            let place = place.field(self.definitions, name, fields, &field.name);
            self.find(&field.kind, chapter, joined(&field.name), place);
        }
    }

    fn is_struct(&self, path: &str) -> bool {
        matches!(self.definitions.get(path).shape, Shape::Struct(_))
    }

    /// The fields of a struct that shares a choice's brackets and is told there.
    fn bracket<'k>(&self, value: &'k Kind) -> Option<(&'k str, &'p [Field])> {
        let Kind::Named(path) = value else { return None };
        match &self.definitions.get(path).shape {
            Shape::Struct(fields) if !self.chapters.iter().any(|chapter| chapter.path == *path) => Some((path, fields)),
            _ => None,
        }
    }

    fn section(&self, path: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.path == path)
    }

    fn heading(&self, section: &Section) -> String {
        let title = &self.chapters[section.chapter].title;
        if section.field.is_empty() { title.clone() } else { format!("`{}` of {title}", section.field) }
    }

    /// What stands below a chapter's mark.
    pub fn chapter(&mut self, chapter: usize) -> String {
        let mut text = String::new();
        for index in (0..self.sections.len()).filter(|index| self.sections[*index].chapter == chapter) {
            let section = &self.sections[index];
            let (path, place, field) = (section.path.clone(), section.place.clone(), section.field.clone());
            let heading = self.heading(section);
            if !field.is_empty() {
                write!(text, "\n{} {heading}\n", "#".repeat(self.chapters[chapter].level + 1)).unwrap();
            }
            let definition = self.definitions.get(&path);
            self.check(&heading, &definition.docs);
            write!(text, "\n{}\n", definition.docs).unwrap();
            match &definition.shape {
                Shape::Struct(fields) => self.table(&mut text, &heading, fields, &place),
                Shape::Enum(choices) => self.choices(&mut text, &heading, choices, &place),
                Shape::ByHand => {}
            }
        }
        text
    }

    fn table(&mut self, text: &mut String, heading: &str, fields: &[Field], place: &Place) {
        text.push_str("\n| field | value | default | meaning |\n|---|---|---|---|\n");
        let written = place.fields(self.definitions, "", fields);
        for field in fields {
            let (default, docs) = self.default(heading, "", field, fields, &written, place);
            let docs = docs.replace("\n\n", "<br>").replace('|', "\\|");
            writeln!(text, "| `{}` | {} | {default} | {docs} |", field.name, self.words(&field.kind, &default))
                .unwrap();
        }
    }

    fn choices(&mut self, text: &mut String, heading: &str, choices: &[Choice], place: &Place) {
        text.push('\n');
        for Choice { name, docs, fields, values } in choices {
            self.check(&format!("{heading}: {name}"), docs);
            let docs = docs.replace("\n\n", " ");
            match values.first() {
                None if fields.is_empty() => writeln!(text, "- `{name}`: {docs}").unwrap(),
                None => {
                    writeln!(text, "- `{name}(…)`: {docs}").unwrap();
                    self.list(text, heading, name, fields, place);
                }
                Some(value) => match self.bracket(value) {
                    Some((path, _)) if self.inside[path] != *name => {
                        writeln!(text, "- `{name}(…)`: {docs} Its fields are those of `{}`.", self.inside[path])
                            .unwrap();
                    }
                    Some((path, fields)) => {
                        let more = self.definitions.get(path).docs.replace("\n\n", " ");
                        self.check(&format!("{heading}: {name}"), &more);
                        writeln!(text, "- `{name}(…)`: {docs} {more}").unwrap();
                        self.list(text, heading, "", fields, &place.choice(name, true));
                    }
                    None if matches!(value, Kind::Named(path) if self.is_struct(path)) => {
                        let Kind::Named(path) = value else { unreachable!() };
                        let section = self.section(path).expect("a chapter");
                        writeln!(text, "- [`{name}(…)`](#{}): {docs}", anchor(&self.heading(section))).unwrap();
                    }
                    None => {
                        let values: Vec<_> = values.iter().map(|value| self.words(value, "")).collect();
                        writeln!(text, "- `{name}(…)` with a {}: {docs}", values.join(" and a ")).unwrap();
                    }
                },
            }
        }
    }

    fn list(&mut self, text: &mut String, heading: &str, name: &str, fields: &[Field], place: &Place) {
        let written = place.fields(self.definitions, name, fields);
        for field in fields {
            let (default, docs) = self.default(heading, name, field, fields, &written, place);
            let (words, docs) = (self.words(&field.kind, &default), docs.replace("\n\n", " "));
            let default = if default.starts_with('`') { format!("default {default}") } else { default };
            writeln!(text, "  - `{}` ({words}; {default}): {docs}", field.name).unwrap();
        }
    }

    /// The default of a field as a cell of a table, and the doc comment less a sentence that says just that.
    fn default(
        &mut self,
        heading: &str,
        name: &str,
        field: &Field,
        fields: &[Field],
        written: &[(String, String)],
        place: &Place,
    ) -> (String, String) {
        let of = format!("{heading}: {}", field.name);
        self.check(&of, &field.docs);
        let value = written.iter().find(|(name, _)| *name == field.name).map_or("None", |(_, value)| value);
        if field.required || refused_when_left_out(heading, &field.name) {
            return ("**needed**".to_owned(), field.docs.clone());
        }
        if value == "None" && matches!(field.kind, Kind::Optional(_)) {
            if !["absent", "left out", "unless", "default", "without"].iter().any(|word| field.docs.contains(word)) {
                self.faults.push(format!("{of}: what holds when it's absent?"));
            }
            return ("absent".to_owned(), field.docs.clone());
        }
        let mut docs = field.docs.clone();
        if let Some(stated) = stated(&docs) {
            if !agree(stated, value) {
                self.faults.push(format!("{of}: the comment says that the default is {stated}, and it is {value}"));
            }
            docs = docs.replace(&format!(" Default {stated}."), "").replace(&format!("Default {stated}."), "");
        }
        // Long ones are written as short as may be: `Cosine()` is `Cosine(warmup: 0)`.
        let short = value.split_once('(').map(|(name, _)| format!("{name}()")).filter(|_| value.len() > 24);
        let here = || place.field(self.definitions, name, fields, &field.name);
        let value = match (value.parse::<f64>(), short) {
            (Ok(number), _) if number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
            (_, Some(short)) if self.is_named(&field.kind) && here().read(&short) == value => short,
            _ => value.to_owned(),
        };
        (format!("`{value}`"), docs)
    }

    fn is_named(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Named(path) => !matches!(self.definitions.get(path).shape, Shape::ByHand),
            Kind::Optional(inner) => self.is_named(inner),
            _ => false,
        }
    }

    fn check(&mut self, of: &str, docs: &str) {
        if docs.is_empty() {
            self.faults.push(format!("{of}: no doc comment"));
        }
    }

    fn words(&self, kind: &Kind, default: &str) -> String {
        match kind {
            Kind::Number => "number".to_owned(),
            Kind::Whole => "whole number".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Path => "path".to_owned(),
            Kind::Flag => "`true` or `false`".to_owned(),
            Kind::Tuple(parts) => format!("({})", self.all(parts)),
            Kind::List(inner) => format!("list of {}", self.plural(inner)),
            Kind::Map(key, value) => format!("`{{…}}`: {} by {}", self.plural(value), self.words(key, "")),
            Kind::Optional(inner) if default == "absent" => self.words(inner, ""),
            Kind::Optional(inner) => format!("{}, or `None`", self.words(inner, "")),
            Kind::Named(path) => {
                let section = self.section(path).unwrap_or_else(|| panic!("{path} is told nowhere"));
                format!("[{}](#{})", self.label(path), anchor(&self.heading(section)))
            }
        }
    }

    fn all(&self, parts: &[Kind]) -> String {
        parts.iter().map(|part| self.words(part, "")).collect::<Vec<_>>().join(", ")
    }

    fn plural(&self, kind: &Kind) -> String {
        match kind {
            Kind::Number | Kind::Whole | Kind::Text | Kind::Path => self.words(kind, "") + "s",
            _ => self.words(kind, ""),
        }
    }

    fn label(&self, path: &str) -> String {
        match &self.definitions.get(path).shape {
            Shape::Struct(_) => "`(…)`".to_owned(),
            Shape::ByHand => path.rsplit("::").next().unwrap_or(path).to_lowercase(),
            Shape::Enum(choices) => {
                let names = choices.iter().map(|choice| match choice.fields.is_empty() && choice.values.is_empty() {
                    true => format!("`{}`", choice.name),
                    false => format!("`{}(…)`", choice.name),
                });
                let names: Vec<_> = names.collect();
                match names.split_last() {
                    Some((last, [])) => last.clone(),
                    Some((last, others)) if others.len() < 4 => format!("{} or {last}", others.join(", ")),
                    _ => format!("one of {}", names.len()),
                }
            }
        }
    }
}

/// Whether a stage that does not say this is refused, although it can be read.
fn refused_when_left_out(stage: &str, field: &str) -> bool {
    let stage = options().from_str::<Stage>(&format!("{stage}()"));
    stage.is_ok_and(|stage| stage.problems().iter().any(|problem| problem.path == field))
}

/// What a doc comment says that the default is: `Default 8.`, `8 by default`, `8 unless given`.
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
        _ if stated == "none" => ["[]", "{}", "\"\"", "None"].contains(&value),
        _ => value.contains(stated),
    }
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|symbol| symbol.is_alphanumeric() || " -_".contains(*symbol));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
