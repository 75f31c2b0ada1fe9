//! A caption: from the bytes of its file to the texts that are encoded.

use super::parameters::Shuffle;
use crate::random::Draws;
use std::collections::HashSet;
use thiserror::Error;

/// Why the bytes of a caption file are not a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CaptionFault {
    /// The bytes are not UTF-8.
    #[error("line {line} is not UTF-8, at byte {offset}")]
    NotUtf8 {
        /// The line with the first wrong byte, counted from 1.
        line: usize,
        /// The first wrong byte, counted from 0 at the start of the file.
        offset: usize,
    },
    /// The file is longer than any caption.
    #[error("has more than {LONGEST} bytes, of which the encoders read a few hundred words")]
    TooLong,
}

/// Bytes of a caption file at most: twenty times what T5 reads of a text at its longest.
pub const LONGEST: usize = 1 << 16;

/// The caption in the bytes of a caption file: its first line that is not blank, without white space around it, and
/// without a byte order mark; empty if there is none. Lines end in LF, CR LF or CR.
///
/// sd-scripts takes the first line even if it is blank, and so trains on nothing where a caption begins with an empty line.
///
/// # Errors
/// If there are more than [`LONGEST`] bytes, or any of them, on whichever line, are not UTF-8: half of such a file is garbage, and
/// which half is not known.
pub fn normalise(bytes: &[u8]) -> Result<String, CaptionFault> {
    let text = decode(bytes)?;
    Ok(lines(text).next().unwrap_or_default().to_owned())
}

/// Lines after the caption's that are not blank, and that no text is made of.
///
/// # Errors
/// As [`normalise`].
pub fn further_lines(bytes: &[u8]) -> Result<usize, CaptionFault> {
    Ok(lines(decode(bytes)?).skip(1).count())
}

fn decode(bytes: &[u8]) -> Result<&str, CaptionFault> {
    if bytes.len() > LONGEST {
        return Err(CaptionFault::TooLong);
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().enumerate().filter(|(at, byte)| ends_line(before, *at, **byte)).count();
        CaptionFault::NotUtf8 { line, offset: error.valid_up_to() }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn ends_line(bytes: &[u8], at: usize, byte: u8) -> bool {
    byte == b'\r' || (byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r'))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty())
}

/// `prefix + " " + caption + " " + suffix`, of the parts that are not empty (sd-scripts' `process_caption`, its first step).
pub fn compose(caption: &str, prefix: &str, suffix: &str) -> String {
    let parts: Vec<&str> = [prefix, caption, suffix].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

/// The captions that are made of one: itself without `shuffle`; with it, as many shuffles of its tags as `variants` says,
/// in the order in which they were drawn, equal ones once.
///
/// Tags are what stands between separators, trimmed; empty ones are left out. The first `keep_tokens` stay in front. The
/// tags are joined by `", "` if the separator is `","`, and by the separator as it is if it is another one.
///
/// Variant `i` is a function of the caption and `i` alone, so that asking for more variants keeps those that there are, and
/// neither an item's name nor other captions have a say in it.
pub fn variants(caption: &str, separator: &str, shuffle: Option<&Shuffle>) -> Vec<String> {
    let Some(shuffle) = shuffle else {
        return vec![caption.to_owned()];
    };
    let tags: Vec<&str> = caption.split(separator).map(str::trim).filter(|tag| !tag.is_empty()).collect();
    let kept = tags.len().min(shuffle.keep_tokens as usize);
    let joint = if separator == "," { ", " } else { separator };
    let mut seen = HashSet::new();
    let mut texts = Vec::new();
    for variant in 0..shuffle.variants {
        let mut order = tags.clone();
        Draws::new(0, "caption variants", u64::from(variant), caption).shuffle(&mut order[kept..]);
        let text = order.join(joint);
        if seen.insert(text.clone()) {
            texts.push(text);
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_with_text_is_the_caption() {
        for bytes in [
            "a dog",
            "a dog\n",
            " a dog \r\nsecond",
            "\u{feff}a dog\rsecond",
            "\n\r\n  \n\ta dog\n",
            "\u{3000}a dog\u{a0}",
        ] {
            assert_eq!(normalise(bytes.as_bytes()).unwrap(), "a dog", "{bytes:?}");
        }
        for bytes in ["", "\n", "\u{feff}", " \r\n \t"] {
            assert_eq!(normalise(bytes.as_bytes()).unwrap(), "", "{bytes:?}");
        }
        assert_eq!(normalise("灯台, été\n".as_bytes()).unwrap(), "灯台, été");
    }

    #[test]
    fn lines_that_are_not_used_are_counted() {
        assert_eq!(further_lines(b"\na\n\nb\r\nc\n").unwrap(), 2);
        assert_eq!(further_lines(b"a\n\n").unwrap(), 0);
    }

    #[test]
    fn a_wrong_byte_is_named_by_line_and_offset() {
        assert_eq!(normalise(b"caf\xe9"), Err(CaptionFault::NotUtf8 { line: 1, offset: 3 }));
        assert_eq!(normalise(b"a\r\nb\nc\rd \xff"), Err(CaptionFault::NotUtf8 { line: 4, offset: 9 }));
        // "Unicode" in old editors: UTF-16 with its byte order mark.
        assert_eq!(normalise(b"\xff\xfea\0"), Err(CaptionFault::NotUtf8 { line: 1, offset: 0 }));
        assert_eq!(further_lines(b"\xff"), Err(CaptionFault::NotUtf8 { line: 1, offset: 0 }));
    }

    #[test]
    fn a_file_that_is_no_caption_by_its_length_is_refused() {
        assert_eq!(normalise(&[b'a'; LONGEST]).unwrap().len(), LONGEST);
        assert_eq!(normalise(&[b'a'; LONGEST + 1]), Err(CaptionFault::TooLong));
    }

    #[test]
    fn prefix_and_suffix_have_a_space_only_beside_something() {
        assert_eq!(compose("a dog", "photo of", "at dusk"), "photo of a dog at dusk");
        assert_eq!(compose("a dog", "", ""), "a dog");
        assert_eq!(compose("", "photo", ""), "photo");
        assert_eq!(compose("", "", ""), "");
    }

    #[test]
    fn without_shuffle_a_caption_is_left_alone() {
        assert_eq!(variants("a,  b,,c", ",", None), ["a,  b,,c"]);
    }

    #[test]
    fn variants_are_pinned_for_ever() {
        let shuffle = Shuffle { variants: 3, keep_tokens: 1 };
        let texts = variants("sks style, lighthouse, dusk, sea, rocks", ",", Some(&shuffle));
        let expected = [
            "sks style, lighthouse, sea, dusk, rocks",
            "sks style, rocks, lighthouse, dusk, sea",
            "sks style, sea, lighthouse, rocks, dusk",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn kept_tags_stay_in_front_and_no_tag_is_lost() {
        let shuffle = Shuffle { variants: 20, keep_tokens: 2 };
        let texts = variants("one,two , a,b,,c,d", ",", Some(&shuffle));
        assert!(texts.len() > 10);
        for text in &texts {
            assert!(text.starts_with("one, two, "), "{text}");
            let mut tags: Vec<&str> = text.split(", ").collect();
            tags.sort_unstable();
            assert_eq!(tags, ["a", "b", "c", "d", "one", "two"]);
        }
    }

    #[test]
    fn more_variants_begin_with_the_fewer() {
        let texts = |count| variants("a,b,c,d,e", ",", Some(&Shuffle { variants: count, keep_tokens: 0 }));
        assert_eq!(texts(16)[..4], texts(4));
    }

    #[test]
    fn equal_variants_appear_once() {
        let shuffle = Shuffle { variants: 50, keep_tokens: 0 };
        assert_eq!(variants("a,b", ",", Some(&shuffle)).len(), 2);
        assert_eq!(variants("a sentence", ",", Some(&shuffle)), ["a sentence"]);
        assert_eq!(variants("", ",", Some(&shuffle)), [""]);
        assert_eq!(variants("a,b,c", ",", Some(&Shuffle { variants: 50, keep_tokens: 9 })), ["a, b, c"]);
    }

    #[test]
    fn another_separator_joins_as_it_is_written() {
        let shuffle = Shuffle { variants: 9, keep_tokens: 1 };
        assert_eq!(variants("a|b", "|", Some(&shuffle)), ["a|b"]);
        assert_eq!(variants("a ; b", " ; ", Some(&shuffle)), ["a ; b"]);
    }
}
