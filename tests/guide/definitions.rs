//! The types that a pipeline file is read into, as the sources write them: names, doc comments, fields in their order.

use std::collections::BTreeMap;
use std::path::Path;
use syn::{Attribute, Expr, ExprLit, Fields, GenericArgument, Item, Lit, Meta, PathArguments, Type};

/// A struct or an enum.
#[derive(Clone, Debug)]
pub struct Definition {
    pub name: String,
    pub docs: String,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<Choice>),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub docs: String,
    pub kind: Kind,
}

/// A variant of an enum.
#[derive(Clone, Debug)]
pub struct Choice {
    pub name: String,
    pub docs: String,
    /// Named fields.
    pub fields: Vec<Field>,
    /// What stands in its brackets without a name.
    pub values: Vec<Kind>,
}

/// A type as a reader needs it.
#[derive(Clone, Debug)]
pub enum Kind {
    Number,
    Whole,
    Text,
    Path,
    Flag,
    Pair(Vec<Kind>),
    List(Box<Kind>),
    Map(Box<Kind>),
    Optional(Box<Kind>),
    Named(String),
}

/// All that are read from sources, by name.
pub struct Definitions(BTreeMap<String, Definition>);

impl Definitions {
    /// Every struct and enum below these folders.
    pub fn read(folders: &[&Path]) -> Self {
        let mut found = BTreeMap::new();
        for entry in folders.iter().flat_map(walkdir::WalkDir::new) {
            let path = entry.expect("an entry").into_path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source");
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for (derives, definition) in file.items.into_iter().filter_map(definition) {
                // Of two types of one name the one that serde derives is meant; others have a reader of their own.
                if derives || !found.contains_key(&definition.name) {
                    found.insert(definition.name.clone(), definition);
                }
            }
        }
        Self(found)
    }

    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.0.get(name)
    }
}

impl Definition {
    /// What has no doc comment: the type itself, fields, choices.
    pub fn undocumented(&self) -> Vec<String> {
        let mut lacking = Vec::new();
        let mut check = |docs: &str, name: String| {
            if docs.is_empty() {
                lacking.push(name);
            }
        };
        check(&self.docs, self.name.clone());
        match &self.shape {
            Shape::Struct(fields) => {
                fields.iter().for_each(|field| check(&field.docs, format!("{}.{}", self.name, field.name)));
            }
            Shape::Enum(choices) => {
                for choice in choices {
                    let name = format!("{}::{}", self.name, choice.name);
                    check(&choice.docs, name.clone());
                    choice.fields.iter().for_each(|field| check(&field.docs, format!("{name}.{}", field.name)));
                }
            }
        }
        lacking
    }

    /// The types of all that it holds.
    pub fn kinds(&self) -> Vec<&Kind> {
        match &self.shape {
            Shape::Struct(fields) => fields.iter().map(|field| &field.kind).collect(),
            Shape::Enum(choices) => choices
                .iter()
                .flat_map(|choice| choice.fields.iter().map(|field| &field.kind).chain(&choice.values))
                .collect(),
        }
    }
}

impl Kind {
    /// The name of the type that it comes down to, if it has one.
    pub fn named(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::List(inner) | Self::Map(inner) | Self::Optional(inner) => inner.named(),
            Self::Pair(inner) => inner.first().and_then(Self::named),
            _ => None,
        }
    }
}

/// The definition, and whether serde derives how it's read.
fn definition(item: Item) -> Option<(bool, Definition)> {
    match item {
        Item::Struct(item) => {
            let shape = Shape::Struct(fields(&item.fields));
            Some((reads(&item.attrs), Definition { name: item.ident.to_string(), docs: docs(&item.attrs), shape }))
        }
        Item::Enum(item) => {
            let choices = item.variants.iter().map(|variant| {
                let values = match &variant.fields {
                    Fields::Unnamed(values) => values.unnamed.iter().map(|value| kind(&value.ty)).collect(),
                    _ => Vec::new(),
                };
                let fields = fields(&variant.fields);
                Choice { name: variant.ident.to_string(), docs: docs(&variant.attrs), fields, values }
            });
            let shape = Shape::Enum(choices.collect());
            Some((reads(&item.attrs), Definition { name: item.ident.to_string(), docs: docs(&item.attrs), shape }))
        }
        _ => None,
    }
}

/// Whether serde makes it from text.
fn reads(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("derive")
            && matches!(&attribute.meta, Meta::List(list) if list.tokens.to_string().contains("Deserialize"))
    })
}

fn fields(fields: &Fields) -> Vec<Field> {
    let Fields::Named(named) = fields else { return Vec::new() };
    let field = |field: &syn::Field| {
        let name = field.ident.as_ref()?.to_string();
        Some(Field { name, docs: docs(&field.attrs), kind: kind(&field.ty) })
    };
    named.named.iter().filter_map(field).collect()
}

/// The doc comment, its lines joined to paragraphs, links in it to plain code.
fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    let text = lines.map(|line| if line.is_empty() { "\n\n".to_owned() } else { line + " " }).collect::<String>();
    text.replace(" \n\n", "\n\n").replace("[`", "`").replace("`]", "`").trim().to_owned()
}

fn kind(of: &Type) -> Kind {
    match of {
        Type::Tuple(tuple) => Kind::Pair(tuple.elems.iter().map(kind).collect()),
        Type::Path(path) => {
            let last = path.path.segments.last().expect("a type's name");
            let inner = || match &last.arguments {
                PathArguments::AngleBracketed(arguments) => arguments
                    .args
                    .iter()
                    .filter_map(|argument| match argument {
                        GenericArgument::Type(inner) => Some(kind(inner)),
                        _ => None,
                    })
                    .next_back()
                    .expect("what is inside"),
                _ => panic!("{} holds nothing", last.ident),
            };
            match last.ident.to_string().as_str() {
                "f32" | "f64" => Kind::Number,
                "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => Kind::Whole,
                "String" => Kind::Text,
                "PathBuf" | "Utf8PathBuf" => Kind::Path,
                "bool" => Kind::Flag,
                "Vec" => Kind::List(Box::new(inner())),
                "Option" => Kind::Optional(Box::new(inner())),
                "IndexMap" | "BTreeMap" => Kind::Map(Box::new(inner())),
                "Box" => inner(),
                name => Kind::Named(name.to_owned()),
            }
        }
        _ => panic!("a field of an unusual type"),
    }
}
