//! What is done to a caption before CLIP's byte-pair encoding sees it.

use std::borrow::Cow;

use tokenizers::NormalizedString;

/// Raised whenever [`clean`] gives another text for some caption; part of a CLIP tokenizer's identity.
pub(super) const REVISION: &[u8] = b"cleaning 1";

/// An entity in an entity in an entity; more than anyone writes, and a bound on the work for a hostile caption.
const MAXIMUM_PASSES: usize = 8;

/// What windows-1252 has at 0x80 to 0x9f; text read as Latin-1 shows these as control characters.
const WINDOWS_1252: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

/// Repairs the caption as CLIP's original tokenizer does, then makes each run of white space one space.
///
/// The original (`CLIPTokenizer._tokenize` of transformers, `basic_clean` of OpenAI's CLIP) calls `ftfy.fix_text`.
/// Of its steps these are done, in its order, until nothing changes: HTML entities (numeric ones and `amp`, `lt`,
/// `gt`, `quot`, `apos`, `nbsp`, and only in a text without `<`), windows-1252 characters that were read as C1
/// controls, Latin ligatures, full-width and half-width forms, curled quotes, control characters, NFC.
/// These are not: the guess at a wrong encoding ("sÃ³" stays as it is), the other 2,200 named entities, and the
/// removal of terminal colours. Lower-casing is the tokenizer's.
pub(super) fn clean(text: &str) -> String {
    let has_markup = text.contains('<');
    let mut current = Cow::Borrowed(text);
    for _ in 0..MAXIMUM_PASSES {
        let unescaped = if has_markup { Cow::Borrowed(&*current) } else { Cow::Owned(unescape_html(&current)) };
        let next = fix_characters(&unescaped);
        if next == *current {
            break;
        }
        current = Cow::Owned(next);
    }
    current.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Replaces the entities that captions have: `&amp;`, `&#39;`, `&#x27;` and the like.
fn unescape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let entity = after.split_once(';').and_then(|(name, tail)| Some((entity_character(name)?, tail)));
        match entity {
            Some((character, tail)) => {
                out.push(character);
                rest = tail;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity_character(name: &str) -> Option<char> {
    let Some(number) = name.strip_prefix('#') else {
        return match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some('\u{a0}'),
            _ => None,
        };
    };
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let is_number = (1..=8).contains(&digits.len()) && digits.chars().all(|digit| digit.is_digit(radix));
    let code = u32::from_str_radix(digits, radix).ok().filter(|_| is_number)?;
    Some(char::from_u32(code).filter(|&character| character != '\0').unwrap_or(char::REPLACEMENT_CHARACTER))
}

fn fix_characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        // One character may become one that another of the rules covers ("\u{92}" is a curled quote).
        let character = match character {
            '\u{80}'..='\u{9f}' => {
                WINDOWS_1252.chars().nth(character as usize - 0x80).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => other,
        };
        match character {
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            '\u{3000}' => out.push(' '),
            '\u{ff01}'..='\u{ffef}' => {
                let mut form = NormalizedString::from(character.to_string());
                out.push_str(form.nfkc().get());
            }
            '\0'..='\u{8}'
            | '\u{b}'
            | '\u{e}'..='\u{1f}'
            | '\u{7f}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}' => {}
            other => match ligature(other) {
                Some(letters) => out.push_str(letters),
                None => out.push(other),
            },
        }
    }
    NormalizedString::from(out).nfc().get().to_owned()
}

/// The letters of a Latin ligature or digraph.
fn ligature(character: char) -> Option<&'static str> {
    Some(match character {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn white_space_is_collapsed() {
        assert_eq!(clean("  a\tphoto \u{a0}of\r\n a\u{3000}cat "), "a photo of a cat");
        assert_eq!(clean(" \n"), "");
    }

    #[test]
    fn typographers_characters_become_plain_ones() {
        assert_eq!(clean("it’s a “ﬁne” day"), "it's a \"fine\" day");
        assert_eq!(clean("it\u{92}s Ｆｕｌｌ　ｗｉｄｔｈ，ｶﾞ"), "it's Full width,ガ");
        assert_eq!(clean("zero\u{feff}width\u{7}"), "zerowidth");
    }

    #[test]
    fn entities_are_unescaped_unless_the_text_has_markup() {
        assert_eq!(clean("Tom &amp; Jerry&#39;s &quot;house&#x22;"), "Tom & Jerry's \"house\"");
        assert_eq!(clean("&amp;amp;lt;b"), "<b");
        assert_eq!(clean("<b> &amp; </b>"), "<b> &amp; </b>");
        for kept in ["R&D; done", "&#; &#x; &#12345678901; &#+5; &unknown; &", "a & b"] {
            assert_eq!(clean(kept), kept);
        }
    }

    #[test]
    fn letters_are_composed() {
        assert_eq!(clean("cafe\u{301}"), "caf\u{e9}");
    }
}
