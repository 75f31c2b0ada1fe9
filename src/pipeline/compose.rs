//! Folds a pipeline's base (`extends`) and the settings of the command line (`--set`) into one text with a map of its origins.

use super::{
    diagnostic::{Diagnostic, suggestion},
    outline::{Body, Entry, Node, outline},
    source::{Place, Source, Sources},
};
use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The pipeline as one RON text, which `ron` reads, and where each piece of it was written.
pub struct Composed {
    /// The text.
    pub text: String,
    /// Its outline, with places in the original texts.
    pub root: Node,
    /// The pieces of `text` that were copied, in order.
    pieces: Vec<Piece>,
}

struct Piece {
    start: usize,
    length: usize,
    origin: Place,
}

impl Composed {
    /// Where a byte of the composed text was written, to the end of its piece.
    pub fn origin(&self, offset: usize) -> Option<Place> {
        let index = self.pieces.partition_point(|piece| piece.start <= offset).checked_sub(1)?;
        let piece = &self.pieces[index];
        if offset < piece.start + piece.length {
            let start = piece.origin.range.start + (offset - piece.start);
            return Some(Place { source: piece.origin.source, range: start..piece.origin.range.end });
        }
        Some(piece.origin.clone())
    }

    /// Where the value at a path, or the nearest that is written, stands.
    pub fn place(&self, path: &str) -> Place {
        self.root.nearest(path).place.clone()
    }
}

/// How many files may extend each other in a row.
const LONGEST_CHAIN: usize = 8;

/// Bytes of a pipeline file at most: a hundred times those of a long one, and few enough to be shown, line by line, in messages.
const LONGEST_FILE: u64 = 1 << 20;

/// Reads the file, its bases and the settings, folded into one.
pub fn fold(path: &Path, settings: &[String], sources: &mut Sources) -> Result<Node, Vec<Diagnostic>> {
    let mut root = read_with_bases(path, &path.display().to_string(), None, &mut Vec::new(), sources)
        .map_err(|error| vec![error])?;
    let mut faults = Vec::new();
    for setting in settings {
        if let Err(fault) = apply(setting, &mut root, sources) {
            faults.push(fault);
        }
    }
    find_doubles(&root, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(root)
}

/// The text of what was folded.
pub fn compose(root: Node, sources: &Sources) -> Composed {
    let mut composed = Composed { text: String::new(), root: root.clone(), pieces: Vec::new() };
    write(&root, sources, &mut composed);
    composed
}

fn read_with_bases(
    path: &Path,
    name: &str,
    asked_at: Option<Place>,
    chain: &mut Vec<PathBuf>,
    sources: &mut Sources,
) -> Result<Node, Diagnostic> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if chain.contains(&absolute) || chain.len() >= LONGEST_CHAIN {
        return Err(Diagnostic::new(format!("`{name}` extends itself"), asked_at)
            .hint("take the `extends` out of one of the files".to_owned()));
    }
    let text = read_text(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "`sd3pipe init NAME --data FOLDER` writes a pipeline for a folder of images",
            io::ErrorKind::InvalidData => "a pipeline file is UTF-8 text",
            io::ErrorKind::FileTooLarge => {
                "name the pipeline and not the data or the model; more than that is no pipeline"
            }
            _ => "the file must be readable",
        };
        Diagnostic::new(format!("cannot read the pipeline `{name}`: {error}"), asked_at.clone()).hint(hint.to_owned())
    })?;
    let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let number = sources.add(Source { name: name.to_owned(), folder: folder.clone(), text });
    let mut node = parse(number, sources)?;
    let Some(base) = take(&mut node, "extends") else { return Ok(node) };
    let written = sources.get(number).text[base.place.range.clone()].to_owned();
    let base_path: PathBuf = ron::from_str(&written).map_err(|_| {
        Diagnostic::new("`extends` is not the path of a file", Some(base.place.clone()))
            .hint("extends: \"base.ron\"".to_owned())
    })?;
    chain.push(absolute);
    let base_name = Path::new(name).parent().unwrap_or(Path::new("")).join(&base_path);
    let below =
        read_with_bases(&folder.join(&base_path), &base_name.display().to_string(), Some(base.place), chain, sources)?;
    Ok(overlay(below, node))
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {LONGEST_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Checks the syntax with `ron` itself, then takes the outline.
pub fn parse(number: usize, sources: &Sources) -> Result<Node, Diagnostic> {
    let text = &sources.get(number).text;
    if let Err(error) = super::options().from_str::<serde::de::IgnoredAny>(text) {
        let offset = offset_of(text, error.span.start.line, error.span.start.col);
        let place = Place { source: number, range: offset..text.len().min(offset + 1) };
        return Err(Diagnostic::new(format!("{}", error.code), Some(place)));
    }
    let whole = Place { source: number, range: 0..text.len() };
    outline(text, number)
        .ok_or_else(|| Diagnostic::new("this is not a pipeline: its brackets do not match", Some(whole)))
}

/// The byte offset of a line and a column, both counted from 1.
pub fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = &text[start.min(text.len())..];
    start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(offset, _)| offset)
}

fn entries_mut(node: &mut Node) -> Option<&mut Vec<Entry>> {
    match &mut node.body {
        Body::Fields(entries) | Body::Map(entries) => Some(entries),
        Body::Leaf | Body::List(_) => None,
    }
}

/// Takes the value of a key out, if it is there.
pub fn take(node: &mut Node, key: &str) -> Option<Node> {
    let entries = entries_mut(node)?;
    let index = entries.iter().position(|entry| entry.key == key)?;
    Some(entries.remove(index).value)
}

/// What `above` says wins; where both have keys and the same name, key by key.
fn overlay(mut below: Node, above: Node) -> Node {
    let mergeable = match (&below.body, &above.body) {
        (Body::Fields(_), Body::Fields(_)) => below.name == above.name || above.name.is_none(),
        (Body::Map(_), Body::Map(_)) => true,
        _ => false,
    };
    let (Body::Fields(entries) | Body::Map(entries), true) = (above.body.clone(), mergeable) else { return above };
    below.place = above.place;
    if let Some(kept) = entries_mut(&mut below) {
        let mut places: HashMap<String, usize> = HashMap::new();
        for (index, entry) in kept.iter().enumerate() {
            places.entry(entry.key.clone()).or_insert(index);
        }
        for entry in entries {
            match places.get(&entry.key) {
                Some(&index) => {
                    let old = kept[index].value.clone();
                    kept[index] = Entry { value: overlay(old, entry.value), ..entry };
                }
                None => {
                    places.insert(entry.key.clone(), kept.len());
                    kept.push(entry);
                }
            }
        }
    }
    below
}

/// Carries out one `--set path=value`. The path starts with a stage's name, or with a field of the pipeline.
fn apply(setting: &str, root: &mut Node, sources: &mut Sources) -> Result<(), Diagnostic> {
    let Some((path, value)) = setting.split_once('=') else {
        return Err(Diagnostic::new(format!("`--set {setting}` has no value"), None)
            .hint("--set train.learning_rate=5e-5".to_owned()));
    };
    let folder = std::env::current_dir().unwrap_or_default();
    let number = sources.add(Source { name: format!("--set {setting}"), folder, text: value.to_owned() });
    let value = parse(number, sources)?;
    let whole = value.place.clone();
    let mut steps: Vec<&str> = path.trim().split('.').collect();
    let is_stage = |node: &Node, step: &str| node.get("stages").is_some_and(|stages| stages.get(step).is_some());
    if is_stage(root, steps[0]) {
        steps.insert(0, "stages");
    } else if !["name", "model", "device", "devices", "store", "grid", "report", "stages"].contains(&steps[0]) {
        let stages = root.get("stages").map(Node::entries).unwrap_or_default();
        let known =
            stages.iter().map(|entry| entry.key.as_str()).chain(["name", "model", "device", "store", "grid", "report"]);
        return Err(
            Diagnostic::new(format!("there is no stage `{}`", steps[0]), Some(whole)).hint(suggestion(steps[0], known))
        );
    }
    set(root, &steps, value, &whole).map_err(|step| no_fields(path, &step, whole.clone()))
}

/// Puts a value in the place of the one that stands, or would stand, at the end of these steps.
///
/// # Errors
/// The step before which there is nothing with fields.
pub fn set(root: &mut Node, steps: &[&str], value: Node, key_place: &Place) -> Result<(), String> {
    let mut node = root;
    let (last, parents) = steps.split_last().unwrap_or((&"", &[]));
    for step in parents {
        let entries = entries_mut(node).ok_or(*step)?;
        let index = entries.iter().position(|entry| entry.key == *step).unwrap_or_else(|| {
            // A field that is at its default so far, such as `encoder_dropout`: it gets written out.
            let value = Node { place: value.place.clone(), name: None, body: Body::Fields(Vec::new()) };
            entries.push(Entry { key: (*step).to_owned(), key_place: key_place.clone(), value });
            entries.len() - 1
        });
        node = &mut entries[index].value;
    }
    let entries = entries_mut(node).ok_or(*last)?;
    let new = Entry { key: (*last).to_owned(), key_place: key_place.clone(), value };
    match entries.iter_mut().find(|entry| entry.key == *last) {
        Some(entry) => *entry = new,
        None => entries.push(new),
    }
    Ok(())
}

/// What there is to say when [`set`] comes to nothing that has fields.
pub fn no_fields(path: &str, step: &str, place: Place) -> Diagnostic {
    Diagnostic::new(format!("`{path}`: what stands before `{step}` has no fields"), Some(place))
}

/// A key that stands twice in one bracket: `ron` would take the last one in silence when it's a map.
fn find_doubles(node: &Node, faults: &mut Vec<Diagnostic>) {
    let mut seen = HashSet::new();
    for entry in node.entries() {
        if !seen.insert(&entry.key) {
            faults.push(Diagnostic::new(format!("`{}` stands here twice", entry.key), Some(entry.key_place.clone())));
        }
        find_doubles(&entry.value, faults);
    }
    if let Body::List(nodes) = &node.body {
        nodes.iter().for_each(|node| find_doubles(node, faults));
    }
}

fn write(node: &Node, sources: &Sources, composed: &mut Composed) {
    let (open, close, entries) = match &node.body {
        Body::Leaf => return copy(&node.place, sources, composed),
        Body::Fields(entries) => ('(', ')', entries),
        Body::Map(entries) => ('{', '}', entries),
        Body::List(nodes) => {
            let round = sources.get(node.place.source).text[node.place.range.clone()].ends_with(')');
            composed.text.push_str(node.name.as_deref().unwrap_or_default());
            composed.text.push(if round { '(' } else { '[' });
            for node in nodes {
                write(node, sources, composed);
                composed.text.push_str(", ");
            }
            composed.text.push(if round { ')' } else { ']' });
            return;
        }
    };
    if let Some(name) = &node.name {
        // Not copied: after a merge the name may be the base's and the place the heir's.
        let start = node.place.range.start;
        let origin = Place { source: node.place.source, range: start..start + name.len() };
        composed.pieces.push(Piece { start: composed.text.len(), length: name.len(), origin });
        composed.text.push_str(name);
    }
    composed.text.push(open);
    for entry in entries {
        // A key that `--set` brought stands nowhere as text; its value's place serves for messages.
        let there = &sources.get(entry.key_place.source).text[entry.key_place.range.clone()];
        if there == entry.key || close == '}' && there.trim_matches('"') == entry.key {
            copy(&entry.key_place, sources, composed);
        } else {
            composed.pieces.push(Piece {
                start: composed.text.len(),
                length: entry.key.len(),
                origin: entry.key_place.clone(),
            });
            let key = if close == '}' { format!("{:?}", entry.key) } else { entry.key.clone() };
            composed.text.push_str(&key);
        }
        composed.text.push_str(": ");
        write(&entry.value, sources, composed);
        composed.text.push_str(", ");
    }
    composed.text.push(close);
}

fn copy(place: &Place, sources: &Sources, composed: &mut Composed) {
    let text = &sources.get(place.source).text[place.range.clone()];
    composed.pieces.push(Piece { start: composed.text.len(), length: text.len(), origin: place.clone() });
    composed.text.push_str(text);
}
