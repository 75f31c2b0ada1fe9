//! The types that a pipeline file is read into, as the sources write them: doc comments, fields and choices in their order.

use std::collections::BTreeMap;
use std::path::Path;
use syn::{Attribute, Expr, ExprLit, Fields, GenericArgument, Item, Lit, LitStr, Meta, PathArguments, Type};

/// A struct or an enum that serde reads.
pub struct Definition {
    pub docs: String,
    pub shape: Shape,
    /// What is said to serde that this test can't tell a reader.
    pub unknown: Vec<String>,
}

pub enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<Choice>),
    /// It's read by hand, so its doc comment says how it's written.
    ByHand,
}

pub struct Field {
    pub name: String,
    pub docs: String,
    pub kind: Kind,
    /// Whether serde has no value for it when it's left out.
    pub required: bool,
}

/// A variant of an enum.
pub struct Choice {
    pub name: String,
    pub docs: String,
    pub fields: Vec<Field>,
    /// What stands in its brackets without a name.
    pub values: Vec<Kind>,
}

/// A type as a reader needs it.
pub enum Kind {
    /// A number, a text and the like, by what a reader calls one.
    Plain(&'static str),
    Tuple(Vec<Kind>),
    List(Box<Kind>),
    Map(Box<Kind>, Box<Kind>),
    Optional(Box<Kind>),
    /// A type of the sources, or one that can't be in a pipeline.
    Named(String),
}

/// What the sources define, by names; some names are those of several types, of which no pipeline can have one.
pub struct Definitions(BTreeMap<String, Vec<Definition>>);

impl Definitions {
    /// All structs and enums below these folders.
    pub fn read(folders: &[&Path]) -> Self {
        let mut found = BTreeMap::<String, Vec<Definition>>::new();
        for entry in folders.iter().flat_map(walkdir::WalkDir::new) {
            let path = entry.expect("an entry").into_path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                for (name, definition) in file.items.iter().filter_map(|item| definition(item, &text)) {
                    found.entry(name).or_default().push(definition);
                }
            }
        }
        Self(found)
    }

    /// What is called so.
    pub fn get(&self, name: &str) -> &Definition {
        match self.0.get(name).map(Vec::as_slice) {
            Some([one]) if one.unknown.is_empty() => one,
            Some([one]) => panic!("{name}: the guide can't tell what serde({}) means", one.unknown.join(", ")),
            Some(_) => panic!("several types are called {name}: give one of them a name of its own"),
            None => panic!("{name} is not found in the sources"),
        }
    }
}

/// A type that serde reads, of a source with this text.
fn definition(item: &Item, text: &str) -> Option<(String, Definition)> {
    let mut unknown = Vec::new();
    let (name, attributes, shape) = match item {
        Item::Struct(item) if derives_reading(&item.attrs) && matches!(item.fields, Fields::Named(_)) => {
            let all_default = serde(&item.attrs, &mut unknown).contains_key("default");
            (&item.ident, &item.attrs, Shape::Struct(fields(&item.fields, all_default, &mut unknown)))
        }
        Item::Enum(item) if derives_reading(&item.attrs) => {
            serde(&item.attrs, &mut unknown);
            let choices = item.variants.iter().map(|variant| Choice {
                name: name(&variant.ident, &serde(&variant.attrs, &mut unknown)),
                docs: docs(&variant.attrs),
                fields: fields(&variant.fields, false, &mut unknown),
                values: match &variant.fields {
                    Fields::Unnamed(values) => values.unnamed.iter().map(|value| kind(&value.ty)).collect(),
                    _ => Vec::new(),
                },
            });
            (&item.ident, &item.attrs, Shape::Enum(choices.collect()))
        }
        Item::Struct(item) if text.contains(&format!("Deserialize<'de> for {} ", item.ident)) => {
            (&item.ident, &item.attrs, Shape::ByHand)
        }
        _ => return None,
    };
    Some((name.to_string(), Definition { docs: docs(attributes), shape, unknown }))
}

fn derives_reading(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("derive") && list.tokens.to_string().contains("Deserialize"),
        _ => false,
    })
}

fn fields(fields: &Fields, all_default: bool, unknown: &mut Vec<String>) -> Vec<Field> {
    let Fields::Named(fields) = fields else { return Vec::new() };
    let field = |field: &syn::Field| {
        let (told, kind) = (serde(&field.attrs, unknown), kind(&field.ty));
        let required = !all_default && !told.contains_key("default") && !matches!(kind, Kind::Optional(_));
        Field { name: name(field.ident.as_ref().expect("a name"), &told), docs: docs(&field.attrs), kind, required }
    };
    fields.named.iter().map(field).collect()
}

fn kind(of: &Type) -> Kind {
    let last = match of {
        Type::Tuple(tuple) => return Kind::Tuple(tuple.elems.iter().map(kind).collect()),
        Type::Path(path) => path.path.segments.last().expect("a type's name"),
        // No value in a pipeline has another kind of type.
        _ => return Kind::Named(String::new()),
    };
    let mut inner = Vec::new();
    if let PathArguments::AngleBracketed(arguments) = &last.arguments {
        inner.extend(arguments.args.iter().filter_map(|argument| match argument {
            GenericArgument::Type(inner) => Some(Box::new(kind(inner))),
            _ => None,
        }));
    }
    let mut inner = inner.into_iter();
    let mut next = || inner.next().expect("what is inside");
    match last.ident.to_string().as_str() {
        "f32" | "f64" => Kind::Plain("number"),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => Kind::Plain("whole number"),
        "String" => Kind::Plain("text"),
        "PathBuf" => Kind::Plain("path"),
        "bool" => Kind::Plain("`true` or `false`"),
        "Vec" | "BTreeSet" => Kind::List(next()),
        "Option" => Kind::Optional(next()),
        "IndexMap" | "BTreeMap" => Kind::Map(next(), next()),
        name => Kind::Named(name.to_owned()),
    }
}

/// What serde is told of something.
fn serde(attributes: &[Attribute], unknown: &mut Vec<String>) -> BTreeMap<String, String> {
    const KNOWN: [&str; 7] =
        ["default", "deny_unknown_fields", "skip_serializing_if", "rename", "from", "into", "expecting"];
    let mut told = BTreeMap::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let read = attribute.parse_nested_meta(|meta| {
            let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            let value = meta.value().and_then(|value| value.parse::<LitStr>()).map(|text| text.value());
            unknown.extend(Some(key.clone()).filter(|key| !KNOWN.contains(&key.as_str())));
            told.insert(key, value.unwrap_or_default());
            Ok(())
        });
        unknown.extend(read.err().map(|error| error.to_string()));
    }
    told
}

fn name(ident: &syn::Ident, told: &BTreeMap<String, String>) -> String {
    told.get("rename").cloned().unwrap_or_else(|| ident.to_string())
}

/// The doc comment on one line; of a link to another type the last name.
fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    let text = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let mut parts = text.split("[`");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match part.split_once("`]") {
        Some((name, rest)) => format!("{text}`{}`{rest}", name.rsplit("::").next().unwrap_or(name)),
        None => format!("{text}[`{part}"),
    })
}
