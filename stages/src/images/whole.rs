//! Whether an image file is all there, found out without decoding it.
//!
//! The JPEG decoder, like a browser, paints what is missing in grey and reports success, so a half-copied photo would be
//! trained on. For the other formats the decoder fails, but only once the image is decoded, long after it could be known.

use image::ImageFormat;

/// Whether the file goes on to the end that its format marks or announces. Formats that have no such end count as whole.
pub(super) fn is_whole(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => reaches_jpeg_end(bytes),
        ImageFormat::Png => reaches_png_end(bytes),
        ImageFormat::WebP => reaches_webp_end(bytes),
        _ => true,
    }
}

/// Follows the markers (ITU T.81, annex B) to `EOI`. Looking for its two bytes anywhere is not enough: a thumbnail in the
/// EXIF segment has an `EOI` of its own.
fn reaches_jpeg_end(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // Between segments this skips stray bytes, as decoders do, and after `SOS` the compressed data.
        let Some(at) = rest.iter().position(|byte| *byte == 0xff) else { return false };
        rest = &rest[at + 1..];
        match rest.first() {
            None => return false,
            Some(&END_OF_IMAGE) => return true,
            // A byte 0xff of the data (with 0 after it), restart markers, markers without a segment, and fill bytes.
            Some(0x00 | 0x01 | 0xd0..=0xd8 | 0xff) => {}
            Some(_) => {
                let &[_, high, low, ..] = rest else { return false };
                let length = usize::from(u16::from_be_bytes([high, low]));
                let Some(after) = rest.get(1 + length.max(2)..) else { return false };
                rest = after;
            }
        }
    }
}

/// Follows the chunks (PNG specification, section 5.3) to `IEND`.
fn reaches_png_end(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let [a, b, c, d, kind @ ..] = rest {
        if kind.starts_with(b"IEND") {
            return true;
        }
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some(after) = kind.get(4..).and_then(|data| data.get(length..)).and_then(|checksum| checksum.get(4..))
        else {
            return false;
        };
        rest = after;
    }
    false
}

/// Follows the chunks (WebP container specification) to the end that the RIFF header announces. A chunk that says that it is longer
/// would be allocated by the decoder before it is missed: 4 GiB for a file of some bytes.
fn reaches_webp_end(bytes: &[u8]) -> bool {
    let [_, _, _, _, a, b, c, d, rest @ ..] = bytes else { return false };
    let Some(whole) = rest.get(..u32::from_le_bytes([*a, *b, *c, *d]) as usize) else { return false };
    let mut rest = whole.get(4..).unwrap_or_default();
    while let [_, _, _, _, a, b, c, d, data @ ..] = rest {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        if length > data.len() {
            return false;
        }
        // Chunks of odd length are followed by a byte that is not counted, and often left out at the end.
        rest = data.get(length.next_multiple_of(2)..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;
    use std::io::Cursor;

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, (x * y) as u8]))
            .write_to(&mut bytes, format)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_shorter_file_is_noticed() {
        for (format, tail) in [(ImageFormat::Jpeg, 0), (ImageFormat::Png, 4), (ImageFormat::WebP, 0)] {
            let bytes = encoded(format);
            assert!(is_whole(format, &bytes), "{format:?}");
            // Of a PNG the checksum of its last, empty chunk may be missing.
            for length in 0..bytes.len() - tail {
                assert!(!is_whole(format, &bytes[..length]), "{format:?} of {length} bytes");
            }
        }
    }

    #[test]
    fn a_webp_chunk_longer_than_its_file_is_noticed() {
        let bytes = encoded(ImageFormat::WebP);
        let with_exif = |length: u32| {
            let exif = [&b"EXIF"[..], &length.to_le_bytes(), b"II"].concat();
            let riff = (bytes.len() + exif.len() - 8) as u32;
            [&bytes[..4], &riff.to_le_bytes(), &bytes[8..], &exif].concat()
        };
        assert!(is_whole(ImageFormat::WebP, &with_exif(2)) && is_whole(ImageFormat::WebP, &with_exif(1)));
        assert!(!is_whole(ImageFormat::WebP, &with_exif(3)) && !is_whole(ImageFormat::WebP, &with_exif(0xfcff_ffff)));
    }

    #[test]
    fn bytes_after_the_end_do_no_harm() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let bytes = [encoded(format), b"appended by some phone".to_vec()].concat();
            assert!(is_whole(format, &bytes), "{format:?}");
        }
    }

    #[test]
    fn a_thumbnail_s_end_is_not_the_image_s() {
        let thumbnail = encoded(ImageFormat::Jpeg);
        let image = encoded(ImageFormat::Jpeg);
        let length = (thumbnail.len() + 2) as u16;
        let with_thumbnail = [&image[..2], &[0xff, 0xe1], &length.to_be_bytes(), &thumbnail, &image[2..]].concat();
        assert!(is_whole(ImageFormat::Jpeg, &with_thumbnail));
        assert!(!is_whole(ImageFormat::Jpeg, &with_thumbnail[..with_thumbnail.len() - 2]));
    }

    #[test]
    fn a_tail_of_zeros_is_noticed() {
        // What a download leaves behind that reserved its space and was then cut off.
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let mut bytes = encoded(format);
            let half = bytes.len() / 2;
            bytes[half..].fill(0);
            assert!(!is_whole(format, &bytes), "{format:?}");
        }
    }
}
