//! Shows what is wrong with a pipeline, with the lines that it's about.

use super::text::one_line;
use crate::pipeline::Diagnostics;
use ariadne::{CharSet, Color, Config, IndexType, Label, Report, ReportKind};
use std::io::IsTerminal;

/// Whether standard error takes colours.
pub fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// So many mistakes are shown; nobody corrects more of them at a time.
const MOST_SHOWN: usize = 100;

/// All of it as text, one block after another.
pub fn render(diagnostics: &Diagnostics, color: bool) -> String {
    let config = Config::default().with_color(color).with_char_set(CharSet::Unicode).with_index_type(IndexType::Byte);
    let mut bytes = Vec::new();
    for diagnostic in diagnostics.list.iter().take(MOST_SHOWN) {
        let (message, hint) = (one_line(&diagnostic.message), diagnostic.hint.as_deref().map(one_line));
        let Some(place) = &diagnostic.place else {
            bytes.extend(format!("error: {message}\n").bytes());
            bytes.extend(hint.iter().flat_map(|hint| format!("hint: {hint}\n").into_bytes()));
            continue;
        };
        let source = diagnostics.sources.get(place.source);
        let name = one_line(&source.name);
        let span = (name.clone(), first_line(&source.text, place.range.clone()));
        let mut report = Report::build(ReportKind::Error, span.clone())
            .with_config(config)
            .with_message(message)
            // Without a message of its own a label draws no line under what it is about.
            .with_label(Label::new(span).with_color(Color::Red).with_message(" "));
        if let Some(hint) = hint {
            report = report.with_help(hint);
        }
        // A `Vec` takes every byte.
        drop(report.finish().write(ariadne::sources([(name, visible(&source.text))]), &mut bytes));
    }
    if diagnostics.list.len() > MOST_SHOWN {
        bytes.extend(format!("error: and {} more like these\n", diagnostics.list.len() - MOST_SHOWN).bytes());
    }
    // ariadne says "Error" and "Help"; this program says "error" and "hint" everywhere.
    let text = String::from_utf8_lossy(&bytes).replace("Help: ", "hint: ");
    text.lines().map(|line| format!("{}\n", line.trim_end().replacen("Error:", "error:", 1))).collect()
}

/// The text of a source with characters that a terminal would obey replaced by others of as many bytes, so that places stay.
fn visible(text: &str) -> String {
    let shown = |c: char| match (c, c.len_utf8()) {
        ('\n' | '\t', _) => c,
        ('\r', _) => ' ',
        (_, 1) if c.is_control() => '?',
        (_, 2) if c.is_control() => '¿',
        ('\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}', _) => '\u{fffd}',
        _ => c,
    };
    text.chars().map(shown).collect()
}

/// A message about a whole stage points at its first line.
fn first_line(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    // A place may have been found by counting, and end within a character.
    let range = text.floor_char_boundary(range.start)..text.ceil_char_boundary(range.end);
    let end = text[range.clone()].find('\n').map_or(range.end, |newline| range.start + newline);
    range.start..end.max(range.start + usize::from(range.start < text.len() && range.start == end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of a pipeline that is wrong.
    fn shown(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.ron");
        std::fs::write(&path, text).unwrap();
        render(&crate::pipeline::load(&path, &[]).unwrap_err(), false)
    }

    /// It made the program panic once; fuzzing found it.
    #[test]
    fn a_mistake_beside_a_letter_of_several_bytes_is_shown() {
        assert!(shown("Captions(\u{297}").starts_with("error: "));
    }
}
