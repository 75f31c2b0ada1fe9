//! Shows what is wrong with a pipeline, with the lines that it's about.

use crate::pipeline::Diagnostics;
use ariadne::{CharSet, Color, Config, IndexType, Label, Report, ReportKind};
use std::io::IsTerminal;

/// Whether standard error takes colours.
pub fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// All of it as text, one block after another.
pub fn render(diagnostics: &Diagnostics, color: bool) -> String {
    let config = Config::default().with_color(color).with_char_set(CharSet::Unicode).with_index_type(IndexType::Byte);
    let mut bytes = Vec::new();
    for diagnostic in &diagnostics.list {
        let Some(place) = &diagnostic.place else {
            bytes.extend(format!("error: {}\n", diagnostic.message).bytes());
            bytes.extend(diagnostic.hint.iter().flat_map(|hint| format!("hint: {hint}\n").into_bytes()));
            continue;
        };
        let source = diagnostics.sources.get(place.source);
        let span = (source.name.clone(), first_line(&source.text, place.range.clone()));
        let mut report = Report::build(ReportKind::Error, span.clone())
            .with_config(config)
            .with_message(&diagnostic.message)
            // Without a message of its own a label draws no line under what it is about.
            .with_label(Label::new(span).with_color(Color::Red).with_message(" "));
        if let Some(hint) = &diagnostic.hint {
            report = report.with_help(hint);
        }
        // A `Vec` takes every byte.
        drop(report.finish().write(ariadne::sources([(source.name.clone(), source.text.clone())]), &mut bytes));
    }
    // ariadne says "Error" and "Help"; this program says "error" and "hint" everywhere.
    let text = String::from_utf8_lossy(&bytes).replace("Help: ", "hint: ");
    text.lines().map(|line| format!("{}\n", line.trim_end().replacen("Error:", "error:", 1))).collect()
}

/// A message about a whole stage points at its first line.
fn first_line(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let end = text[range.clone()].find('\n').map_or(range.end, |newline| range.start + newline);
    range.start..end.max(range.start + usize::from(range.start < text.len() && range.start == end))
}
