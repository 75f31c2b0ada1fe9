//! A caption, from the bytes of its file.

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
    /// Every line is a caption, and these are more than anybody writes for an image.
    #[error("has more than {MOST_LINES} lines, each of which would be a caption of its own")]
    TooManyLines,
}

/// Lines at most of a file each of whose lines is a caption.
pub const MOST_LINES: usize = 256;

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

/// Every line that is not blank, without white space around it: each a caption, as [`normalise`] gives the first.
///
/// # Errors
/// As [`normalise`], and if there are more than [`MOST_LINES`].
pub fn all_lines(bytes: &[u8]) -> Result<Vec<String>, CaptionFault> {
    let all: Vec<String> = lines(decode(bytes)?).map(str::to_owned).collect();
    if all.len() > MOST_LINES { Err(CaptionFault::TooManyLines) } else { Ok(all) }
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
    fn every_line_that_is_not_blank_can_be_a_caption() {
        assert_eq!(all_lines(b"\n a dog\r\n\n\t\na cat \rboth").unwrap(), ["a dog", "a cat", "both"]);
        assert!(all_lines(b" \n").unwrap().is_empty());
        assert_eq!(all_lines(&b"a\n".repeat(MOST_LINES)).unwrap().len(), MOST_LINES);
        assert_eq!(all_lines(&b"a\n".repeat(MOST_LINES + 1)), Err(CaptionFault::TooManyLines));
        assert_eq!(all_lines(b"a\n\xff"), Err(CaptionFault::NotUtf8 { line: 2, offset: 2 }));
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
}
