//! The types that a pipeline file is read into, as the sources write them: doc comments, fields and choices in their order.

use std::collections::BTreeMap;
use std::path::Path;
use syn::{Attribute, Expr, ExprLit, Fields, GenericArgument, Item, Lit, LitStr, Meta, PathArguments, Type, UseTree};

/// A struct or an enum.
pub struct Definition {
    pub docs: String,
    pub shape: Shape,
    /// What is said to serde that this test does not know how to tell a reader.
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
#[derive(Clone)]
pub enum Kind {
    Number,
    Whole,
    Text,
    Path,
    Flag,
    Tuple(Vec<Kind>),
    List(Box<Kind>),
    Map(Box<Kind>, Box<Kind>),
    Optional(Box<Kind>),
    /// A type of the sources, by its whole path.
    Named(String),
}

/// What the sources define, by whole paths: `sd3pipe_stages::train::schedule::Schedule`.
pub struct Definitions(BTreeMap<String, Definition>);

/// For each module the names in it, and what they stand for as seen from it.
type Names = BTreeMap<String, BTreeMap<String, Vec<String>>>;

impl Definitions {
    /// All structs and enums of the crates, given by their names and the folders of their sources.
    pub fn read(crates: &[(&str, &Path)]) -> Self {
        let (mut files, mut names) = (Vec::new(), Names::new());
        for (name, folder) in crates {
            for entry in walkdir::WalkDir::new(folder) {
                let path = entry.expect("an entry").into_path();
                if path.extension().is_some_and(|extension| extension == "rs") {
                    let inside = path.strip_prefix(folder).expect("inside").with_extension("");
                    let steps = std::iter::once(*name).chain(inside.iter().map(|step| step.to_str().expect("UTF-8")));
                    let steps: Vec<&str> = steps.filter(|step| !["lib", "main", "mod"].contains(step)).collect();
                    let text = std::fs::read_to_string(&path).expect("a source");
                    let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    files.push((steps.join("::"), file.items));
                }
            }
        }
        for (module, items) in &files {
            if let Some((parent, name)) = module.rsplit_once("::") {
                names.entry(parent.to_owned()).or_default().insert(name.to_owned(), split(module));
            }
            let known = names.entry(module.clone()).or_default();
            for item in items {
                match item {
                    Item::Struct(syn::ItemStruct { ident, .. }) | Item::Enum(syn::ItemEnum { ident, .. }) => {
                        known.insert(ident.to_string(), split(&format!("{module}::{ident}")));
                    }
                    Item::Use(item) => imports(&item.tree, &mut Vec::new(), known),
                    _ => {}
                }
            }
        }
        let mut found = BTreeMap::new();
        for (module, items) in &files {
            let reader = Reader { names: &names, module };
            found.extend(items.iter().filter_map(|item| reader.definition(item)));
        }
        Self(found)
    }

    /// What is defined at a path.
    pub fn get(&self, path: &str) -> &Definition {
        self.0.get(path).unwrap_or_else(|| panic!("{path} is not found in the sources"))
    }
}

fn split(path: &str) -> Vec<String> {
    path.split("::").map(str::to_owned).collect()
}

fn imports(tree: &UseTree, before: &mut Vec<String>, known: &mut BTreeMap<String, Vec<String>>) {
    let (name, stands_for) = match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            imports(&path.tree, before, known);
            before.pop();
            return;
        }
        UseTree::Group(group) => return group.items.iter().for_each(|tree| imports(tree, before, known)),
        // `use serde;` says nothing.
        UseTree::Name(_) if before.is_empty() => return,
        UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
        UseTree::Rename(name) => (name.rename.to_string(), name.ident.to_string()),
        UseTree::Glob(_) => return,
    };
    known.entry(name).or_insert_with(|| before.iter().cloned().chain([stands_for]).collect());
}

/// Reads the items of one module.
struct Reader<'r> {
    names: &'r Names,
    module: &'r str,
}

impl Reader<'_> {
    fn definition(&self, item: &Item) -> Option<(String, Definition)> {
        let (ident, attributes) = match item {
            Item::Struct(item) => (&item.ident, &item.attrs),
            Item::Enum(item) => (&item.ident, &item.attrs),
            _ => return None,
        };
        let mut unknown = Vec::new();
        let all_default = serde(attributes, &mut unknown).contains_key("default");
        let shape = match item {
            _ if !derives(attributes, "Deserialize") => Shape::ByHand,
            Item::Struct(item) if matches!(item.fields, Fields::Named(_)) => {
                Shape::Struct(self.fields(&item.fields, all_default, &mut unknown))
            }
            Item::Enum(item) => {
                let choices = item.variants.iter().map(|variant| Choice {
                    name: name(&variant.ident, &serde(&variant.attrs, &mut unknown)),
                    docs: docs(&variant.attrs),
                    fields: self.fields(&variant.fields, false, &mut unknown),
                    values: match &variant.fields {
                        Fields::Unnamed(values) => values.unnamed.iter().map(|value| self.kind(&value.ty)).collect(),
                        _ => Vec::new(),
                    },
                });
                Shape::Enum(choices.collect())
            }
            _ => Shape::ByHand,
        };
        Some((format!("{}::{ident}", self.module), Definition { docs: docs(attributes), shape, unknown }))
    }

    fn fields(&self, fields: &Fields, all_default: bool, unknown: &mut Vec<String>) -> Vec<Field> {
        let Fields::Named(fields) = fields else { return Vec::new() };
        let field = |field: &syn::Field| {
            let (told, kind) = (serde(&field.attrs, unknown), self.kind(&field.ty));
            let required = !all_default && !told.contains_key("default") && !matches!(kind, Kind::Optional(_));
            Field { name: name(field.ident.as_ref().expect("a name"), &told), docs: docs(&field.attrs), kind, required }
        };
        fields.named.iter().map(field).collect()
    }

    fn kind(&self, of: &Type) -> Kind {
        let path = match of {
            Type::Tuple(tuple) => return Kind::Tuple(tuple.elems.iter().map(|part| self.kind(part)).collect()),
            Type::Path(path) => &path.path,
            // Nothing that is read from a file has another kind of type; of what isn't, this is never asked.
            _ => return Kind::Named(String::new()),
        };
        let last = path.segments.last().expect("a type's name");
        let mut inner = Vec::new();
        if let PathArguments::AngleBracketed(arguments) = &last.arguments {
            inner.extend(arguments.args.iter().filter_map(|argument| match argument {
                GenericArgument::Type(inner) => Some(Box::new(self.kind(inner))),
                _ => None,
            }));
        }
        let mut inner = inner.into_iter();
        let mut next = || inner.next().expect("what is inside");
        match last.ident.to_string().as_str() {
            "f32" | "f64" => Kind::Number,
            "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" | "NonZeroU32" | "NonZeroU64" => Kind::Whole,
            "String" => Kind::Text,
            "PathBuf" | "Utf8PathBuf" => Kind::Path,
            "bool" => Kind::Flag,
            "Vec" | "BTreeSet" => Kind::List(next()),
            "Option" => Kind::Optional(next()),
            "IndexMap" | "BTreeMap" => Kind::Map(next(), next()),
            "Box" => *next(),
            _ => {
                let path: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                Kind::Named(resolve(self.names, self.module, &path))
            }
        }
    }
}

/// The whole path of what is called `path` in a module.
fn resolve(names: &Names, module: &str, path: &[String]) -> String {
    let (first, rest) = path.split_first().expect("a path");
    let base = match first.as_str() {
        "crate" => module.split("::").next().expect("a crate").to_owned(),
        "self" => module.to_owned(),
        "super" => module.rsplit_once("::").expect("a module above").0.to_owned(),
        name => match names.get(module).and_then(|known| known.get(name)) {
            // What is defined here is known by its whole path, what is taken over by the path that is written.
            Some(path) if path.join("::") == format!("{module}::{name}") => path.join("::"),
            Some(path) => resolve(names, module, path),
            None if names.contains_key(first) => first.clone(),
            None => return path.join("::"),
        },
    };
    if rest.is_empty() { base } else { resolve(names, &base, rest) }
}

fn derives(attributes: &[Attribute], what: &str) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("derive") && list.tokens.to_string().contains(what),
        _ => false,
    })
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
            if !KNOWN.contains(&key.as_str()) {
                unknown.push(key.clone());
            }
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

/// The doc comment, its lines joined to paragraphs; of links to other types the last name.
fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    let text: String = lines.map(|line| if line.is_empty() { "\n\n".to_owned() } else { line + " " }).collect();
    let mut parts = text.split("[`");
    let first = parts.next().unwrap_or_default().to_owned();
    let text = parts.fold(first, |text, part| match part.split_once("`]") {
        Some((name, rest)) => format!("{text}`{}`{rest}", name.rsplit("::").next().unwrap_or(name)),
        None => format!("{text}[`{part}"),
    });
    text.replace(" \n\n", "\n\n").trim().to_owned()
}
