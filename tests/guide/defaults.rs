//! What stands in a stage that says nothing: found by reading it and writing it out again.

use sd3pipe::pipeline::options;
use sd3pipe_stages::stage::Stage;

/// The fields of `text`, a value that some stage's field can have or a stage itself, with the values that are filled in; nothing when
/// it can't be read alone, because something has no default.
///
/// `wrap` puts the value where it belongs: `|value| format!("Train(optimizer: {value})")`.
pub fn of(value: &str, field: Option<&str>, wrap: impl Fn(&str) -> String) -> Option<Vec<(String, String)>> {
    let stage: Stage = options().from_str(&wrap(value)).ok()?;
    let config = ron::ser::PrettyConfig::new().depth_limit(0).extensions(ron::extensions::Extensions::IMPLICIT_SOME);
    let written = options().to_string_pretty(&stage, config).ok()?;
    let whole = inside(&written)?;
    match field {
        None => Some(split(whole)),
        Some(field) => {
            let (_, value) = split(whole).into_iter().find(|(name, _)| name == field)?;
            Some(split(inside(&value)?))
        }
    }
}

/// What stands in the outermost brackets.
fn inside(text: &str) -> Option<&str> {
    let open = text.find('(')?;
    text[open + 1..].trim_end().strip_suffix(')')
}

/// `a: 1, b: (2, 3)` to names and values, at the outermost level.
fn split(text: &str) -> Vec<(String, String)> {
    let (mut depth, mut quoted, mut start, mut parts) = (0, false, 0, Vec::new());
    for (at, symbol) in text.char_indices() {
        match symbol {
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    let pair = |part: &str| {
        let (name, value) = part.split_once(':')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    parts.into_iter().filter_map(pair).collect()
}
