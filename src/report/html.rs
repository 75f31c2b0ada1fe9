//! Text that stands in a page and can't be anything but text there.

use base64::{Engine, engine::general_purpose::STANDARD};
use std::fmt::Write;

/// The text with every character spelt out that HTML would read as something else, in an element and in an attribute alike.
/// Characters that no page may have, and those that turn the direction of writing around, are shown as what they are.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                // Writing to a `String` can't fail.
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// The same of at most so many characters, and `…` for the rest.
pub fn excerpt(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => escape(&text[..end]) + "…",
        None => escape(text),
    }
}

/// A JPEG as an address that holds it (RFC 2397).
pub fn data_uri(jpeg: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_caption_is_read_as_markup() {
        let text = "a \"cat\" <script>alert('x')</script> & co\u{202e}\u{0}\r";
        let escaped = escape(text);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\u{202e}', '\u{0}', '\r']), "{escaped}");
        assert!(escaped.contains("&lt;script&gt;") && escaped.contains("&amp; co\\u202e\\u0000"), "{escaped}");
    }

    #[test]
    fn excerpts_are_cut_between_characters() {
        assert_eq!(excerpt("äöü<", 3), "äöü…");
        assert_eq!(excerpt("äö<", 3), "äö&lt;");
    }
}
