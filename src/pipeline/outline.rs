//! The outline of a RON text: which field stands where.
//!
//! `ron` reads values and throws places away; messages about a value, `extends` and `--set` need both. So this follows the
//! text's brackets and keys and leaves every value to `ron`: on a text that `ron` refuses, the outline is never asked for.

use super::source::Place;
use std::ops::Range;

/// A value and what it is made of.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands.
    pub place: Place,
    /// The name before the bracket: a struct's or a variant's.
    pub name: Option<String>,
    /// What is in the bracket.
    pub body: Body,
}

/// What a value is made of, as far as merging and messages need to know.
#[derive(Clone, Debug)]
pub enum Body {
    /// A number, a string, a name without a bracket.
    Leaf,
    /// `(key: value, …)`.
    Fields(Vec<Entry>),
    /// `{ key: value, … }`.
    Map(Vec<Entry>),
    /// `[value, …]` and `(value, …)`.
    List(Vec<Node>),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key, without quotes.
    pub key: String,
    /// Where the key stands.
    pub key_place: Place,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// Its entries, if it has keys.
    pub fn entries(&self) -> &[Entry] {
        match &self.body {
            Body::Fields(entries) | Body::Map(entries) => entries,
            Body::Leaf | Body::List(_) => &[],
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The node at a path like `stages.captions.data[1].path`, or the nearest that is written. A key may have dots itself.
    pub fn nearest(&self, path: &str) -> &Self {
        let (mut node, mut rest) = (self, path);
        loop {
            rest = rest.trim_start_matches('.');
            let next = match (rest.strip_prefix('[').and_then(|rest| rest.split_once(']')), &node.body) {
                (Some((index, behind)), Body::List(nodes)) => {
                    index.parse().ok().and_then(|index: usize| nodes.get(index)).map(|node| (node, behind))
                }
                _ => node.leads(rest),
            };
            match next {
                Some(next) => (node, rest) = next,
                None => return node,
            }
        }
    }

    /// The value of the key that a path begins with, the longest of several, and the rest of the path.
    fn leads<'p>(&self, path: &'p str) -> Option<(&Self, &'p str)> {
        let leads = |entry: &'_ Entry| {
            let rest = path.strip_prefix(&*entry.key)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
        };
        let found = self.entries().iter().filter_map(|entry| Some((&entry.value, leads(entry)?)));
        found.min_by_key(|(_, rest)| rest.len())
    }
}

/// The outline of a text that `ron` has accepted, and of most that it has not; `None` where the brackets do not close.
pub fn outline(text: &str, source: usize) -> Option<Node> {
    let mut scanner = Scanner { text, at: 0, source };
    scanner.skip_blank();
    while scanner.rest().starts_with("#!") {
        scanner.at += scanner.rest().find(']')? + 1;
        scanner.skip_blank();
    }
    let node = scanner.value(0)?;
    scanner.skip_blank();
    scanner.rest().is_empty().then_some(node)
}

/// Deeper nesting than any pipeline has; `ron` itself stops at 128.
const DEEPEST: usize = 128;

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    source: usize,
}

impl<'t> Scanner<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn place(&self, range: Range<usize>) -> Place {
        Place { source: self.source, range }
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.skip_block_comment();
            } else {
                match rest.chars().next() {
                    Some(blank) if blank.is_whitespace() => self.at += blank.len_utf8(),
                    _ => return,
                }
            }
        }
    }

    /// Block comments nest in RON.
    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while !self.rest().is_empty() {
            let step = match self.rest() {
                rest if rest.starts_with("/*") => {
                    depth += 1;
                    2
                }
                rest if rest.starts_with("*/") => {
                    depth -= 1;
                    2
                }
                rest => rest.chars().next().map_or(0, char::len_utf8),
            };
            self.at += step;
            if depth == 0 {
                return;
            }
        }
    }

    fn word(&self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '#')).unwrap_or(rest.len());
        match rest.chars().next() {
            Some(first) if first.is_alphabetic() || first == '_' => &rest[..end],
            _ => "",
        }
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        if depth > DEEPEST {
            return None;
        }
        let start = self.at;
        if self.string()? {
            return Some(Node { place: self.place(start..self.at), name: None, body: Body::Leaf });
        }
        let name = Some(self.word().to_owned()).filter(|name| !name.is_empty());
        if let Some(name) = &name {
            self.at += name.len();
            let end = self.at;
            self.skip_blank();
            if !self.rest().starts_with('(') {
                self.at = end;
                return Some(Node { place: self.place(start..end), name: None, body: Body::Leaf });
            }
        }
        let body = match self.rest().chars().next()? {
            '(' if self.has_keys() => Body::Fields(self.entries(')', depth)?),
            '(' => Body::List(self.list(')', depth)?),
            '[' => Body::List(self.list(']', depth)?),
            '{' => Body::Map(self.entries('}', depth)?),
            ')' | ']' | '}' | ',' | ':' => return None,
            _ => {
                let rest = self.rest();
                let end = rest.find(|c: char| c.is_whitespace() || ",()[]{}:/".contains(c)).unwrap_or(rest.len());
                self.at += end.max(rest.chars().next()?.len_utf8());
                Body::Leaf
            }
        };
        Some(Node { place: self.place(start..self.at), name, body })
    }

    /// Passes a string or a character; whether there was one. `None` when it does not end.
    fn string(&mut self) -> Option<bool> {
        let rest = self.rest();
        let plain = rest.strip_prefix('b').unwrap_or(rest);
        let prefix = rest.len() - plain.len();
        if let Some(raw) = plain.strip_prefix('r').filter(|raw| raw.trim_start_matches('#').starts_with('"')) {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            let close = format!("\"{}", "#".repeat(hashes));
            let body = &raw[hashes + 1..];
            self.at += prefix + 1 + hashes + 1 + body.find(&close)? + close.len();
            return Some(true);
        }
        let Some(quote @ ('"' | '\'')) = plain.chars().next() else { return Some(false) };
        let mut escaped = false;
        for (offset, c) in plain.char_indices().skip(1) {
            if !escaped && c == quote {
                self.at += prefix + offset + 1;
                return Some(true);
            }
            escaped = !escaped && c == '\\';
        }
        None
    }

    /// Whether the bracket here opens `(key: …)` and not `(value, …)`; an empty one counts as having keys.
    fn has_keys(&self) -> bool {
        let mut ahead = Scanner { text: self.text, at: self.at + 1, source: self.source };
        ahead.skip_blank();
        if ahead.rest().starts_with(')') {
            return true;
        }
        ahead.at += ahead.word().len();
        ahead.skip_blank();
        ahead.at > self.at + 1 && ahead.rest().starts_with(':')
    }

    fn entries(&mut self, close: char, depth: usize) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        self.at += 1;
        loop {
            self.skip_blank();
            if self.rest().starts_with(close) {
                self.at += 1;
                return Some(entries);
            }
            let start = self.at;
            if !self.string()? {
                self.at += self.word().len();
            }
            let written = &self.text[start..self.at];
            if written.is_empty() {
                return None;
            }
            let key = written.trim_start_matches("r#").trim_matches('"').to_owned();
            let key_place = self.place(start..self.at);
            self.skip_blank();
            if !self.rest().starts_with(':') {
                return None;
            }
            self.at += 1;
            self.skip_blank();
            let value = self.value(depth + 1)?;
            entries.push(Entry { key, key_place, value });
            self.comma(close)?;
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        self.at += 1;
        loop {
            self.skip_blank();
            if self.rest().starts_with(close) {
                self.at += 1;
                return Some(nodes);
            }
            nodes.push(self.value(depth + 1)?);
            self.comma(close)?;
        }
    }

    fn comma(&mut self, close: char) -> Option<()> {
        self.skip_blank();
        if self.rest().starts_with(',') {
            self.at += 1;
            Some(())
        } else {
            self.rest().starts_with(close).then_some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r##"#![enable(implicit_some)]
        Pipeline( // a comment, with (brackets]
            name: "a \" b", /* one /* in */ another */
            stages: {
                "train": Train(epochs: 16, rate: 1e-4, list: [1, (x: 2)], raw: r#"a"b"#, unit: All),
            },
        )"##;

    fn text_of(path: &str) -> &'static str {
        let node = outline(TEXT, 0).expect("the text has an outline");
        &TEXT[node.nearest(path).place.range.clone()]
    }

    #[test]
    fn values_are_found_by_their_path() {
        assert_eq!(text_of("name"), r#""a \" b""#);
        assert_eq!(text_of("stages.train.rate"), "1e-4");
        assert_eq!(text_of("stages.train.list[1].x"), "2");
        assert_eq!(text_of("stages.train.raw"), "r#\"a\"b\"#");
        assert_eq!(text_of("stages.train.unit"), "All");
        let node = outline("(a: {\"t@x=1\": (c: 1), \"t@x=1.5\": (c: [2, 3])})", 0).unwrap();
        assert_eq!(
            [node.nearest("a.t@x=1.c").place.range.start, node.nearest("a.t@x=1.5.c[1]").place.range.start],
            [18, 41]
        );
    }

    #[test]
    fn a_path_that_is_not_written_gives_what_is_nearest() {
        assert_eq!(text_of("stages.train.list[7]"), "[1, (x: 2)]");
        assert!(text_of("stages.train.optimizer.beta1").starts_with("Train("));
    }

    #[test]
    fn text_that_does_not_close_has_no_outline() {
        for text in ["(a: 1", "(a 1)", "\"", "(a: [1)", "", "(((", "/*", "(a: r#\"x\")"] {
            assert!(outline(text, 0).is_none(), "{text}");
        }
    }
}
