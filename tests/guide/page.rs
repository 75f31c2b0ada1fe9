//! The reference part of the guide, as Markdown.

use crate::{
    defaults,
    definitions::{Choice, Definition, Definitions, Field, Kind, Shape},
};
use std::fmt::Write;

/// Behind this line everything is written by the test.
pub const MARK: &str = "<!-- Written from the doc comments by tests/guide: change those. -->\n";

/// The pipeline and what it holds, outer types before inner ones, each once.
pub fn reachable(definitions: &Definitions) -> Vec<&Definition> {
    let mut found: Vec<&Definition> = Vec::new();
    let mut wanted = vec!["Pipeline".to_owned()];
    while let Some(name) = wanted.pop() {
        let Some(definition) = definitions.get(&name) else { panic!("{name} is not found in the sources") };
        if found.iter().any(|known| known.name == name) {
            continue;
        }
        found.push(definition);
        let inner: Vec<String> = definition.kinds().iter().filter_map(|kind| kind.named()).map(str::to_owned).collect();
        wanted.extend(inner.into_iter().rev());
    }
    found
}

pub fn fields(definitions: &Definitions) -> String {
    let mut page = String::new();
    let all = reachable(definitions);
    for definition in &all {
        // The list of stages is told by the stages themselves.
        if definition.name == "Stage" {
            continue;
        }
        let stage = is_stage(definitions, &definition.name);
        write!(page, "\n{} `{}`\n\n{}\n", if stage { "##" } else { "###" }, definition.name, definition.docs).unwrap();
        match &definition.shape {
            Shape::Struct(fields) => {
                let place = place(&all, definitions, &definition.name);
                let defaults = place.and_then(|place| defaults::of("()", place.field.as_deref(), |value| place.wrap(value)));
                table(&mut page, fields, defaults.as_deref());
            }
            Shape::Enum(choices) => {
                let place = place(&all, definitions, &definition.name);
                for choice in choices {
                    write!(page, "\n- `{}`: {}\n", signature(choice), choice.docs.replace("\n\n", " ")).unwrap();
                    let defaults = place.as_ref().and_then(|place| {
                        let value = format!("{}()", choice.name);
                        defaults::of(&value, place.field.as_deref(), |value| place.wrap(value))
                    });
                    list(&mut page, &choice.fields, defaults.as_deref());
                }
            }
        }
    }
    page
}

fn is_stage(definitions: &Definitions, name: &str) -> bool {
    definitions.get("Stage").is_some_and(|stage| stage.kinds().iter().any(|kind| kind.named() == Some(name)))
}

/// Where a value of a type stands in a stage, so that its defaults can be asked for.
struct Place {
    stage: String,
    field: Option<String>,
    listed: bool,
}

impl Place {
    fn wrap(&self, value: &str) -> String {
        match &self.field {
            // A stage's own brackets are not doubled.
            None => format!("{}()", self.stage),
            Some(field) if self.listed => format!("{}({field}: [{value}])", self.stage),
            Some(field) => format!("{}({field}: {value})", self.stage),
        }
    }
}

fn place(all: &[&Definition], definitions: &Definitions, name: &str) -> Option<Place> {
    if is_stage(definitions, name) {
        return Some(Place { stage: name.to_owned(), field: None, listed: false });
    }
    all.iter().filter(|outer| is_stage(definitions, &outer.name)).find_map(|outer| {
        let Shape::Struct(fields) = &outer.shape else { return None };
        let field = fields.iter().find(|field| field.kind.named() == Some(name))?;
        let listed = matches!(field.kind, Kind::List(_));
        Some(Place { stage: outer.name.clone(), field: Some(field.name.clone()), listed })
    })
}

fn table(page: &mut String, fields: &[Field], defaults: Option<&[(String, String)]>) {
    page.push_str("\n| field | what | default | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let Field { name, docs, kind } = field;
        let docs = docs.replace("\n\n", "<br>").replace('|', "\\|");
        writeln!(page, "| `{name}` | {} | {} | {docs} |", words(kind), default(field, defaults)).unwrap();
    }
}

fn list(page: &mut String, fields: &[Field], defaults: Option<&[(String, String)]>) {
    for field in fields {
        let docs = field.docs.replace("\n\n", " ");
        writeln!(page, "  - `{}` ({}, {}): {docs}", field.name, words(&field.kind), default(field, defaults)).unwrap();
    }
}

fn default(field: &Field, defaults: Option<&[(String, String)]>) -> String {
    let value = defaults.and_then(|defaults| defaults.iter().find(|(name, _)| *name == field.name));
    match value {
        // Long ones are told by their own type's table.
        Some((_, value)) if value.len() > 40 => "see below".to_owned(),
        Some((_, value)) => format!("`{value}`"),
        None if matches!(field.kind, Kind::Optional(_)) => "`None`".to_owned(),
        None => "to be given".to_owned(),
    }
}

fn signature(choice: &Choice) -> String {
    if !choice.values.is_empty() {
        let values: Vec<String> = choice.values.iter().map(words).collect();
        return format!("{}({})", choice.name, values.join(", "));
    }
    match choice.fields.is_empty() {
        true => choice.name.clone(),
        false => format!("{}(…)", choice.name),
    }
}

fn words(kind: &Kind) -> String {
    match kind {
        Kind::Number => "number".to_owned(),
        Kind::Whole => "whole number".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Pair(parts) => format!("({})", parts.iter().map(words).collect::<Vec<_>>().join(", ")),
        Kind::List(inner) => format!("list of {}", words(inner)),
        Kind::Map(inner) => format!("names of {}", words(inner)),
        Kind::Optional(inner) => words(inner),
        Kind::Named(name) => format!("[{name}](#{})", name.to_lowercase()),
    }
}
