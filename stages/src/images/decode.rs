//! From the bytes of an image file to upright RGB pixels, or just to their size.

use super::fault::ImageFault;
use super::whole::is_whole;
use image::metadata::Orientation;
use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Luma, Pixel,
    RgbImage,
};
use std::io::Cursor;

/// Pixels that a side has at least: one patch of the network is that wide.
pub const SHORTEST_SIDE: u32 = 16;

/// Bytes that an image takes at most, as a file, decoded, and as the 8-bit RGB that is made of it: 19,000 × 19,000 pixels. More is
/// a mistake, or an attack by a small file that unpacks to a huge one.
pub const MOST_BYTES: u64 = 1 << 30;

/// Width and height of an image as it is shown, after its EXIF orientation. Reads the header and decodes no pixels.
///
/// # Errors
/// If the content is of no known format, whatever the file is called, if the file ends too early, if its header is broken,
/// or if the image is too large to decode or too small to train on.
pub fn probe(bytes: &[u8]) -> Result<(u32, u32), ImageFault> {
    let (decoder, orientation) = open(bytes)?;
    Ok(shown_size(&decoder, orientation))
}

/// The pixels of an image as it is shown: turned by its EXIF orientation, on white where it is transparent, and as 8-bit RGB
/// (16-bit values rounded, grey in all three channels). Of an animation it is the first frame. Colours are taken as sRGB:
/// embedded profiles are not applied.
///
/// White stands behind transparent pixels because cut-outs are mostly drawn for it. Leaving the alpha channel out instead, as
/// sd-scripts does, uncovers colours that nobody has seen, often black.
///
/// # Errors
/// As [`probe`], and if the pixels can't be decoded.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, ImageFault> {
    let image = decode_all(bytes)?;
    Ok(if image.color().has_alpha() { on_white(&image) } else { image.into_rgb8() })
}

/// The alpha channel of an image as it is shown, in 8 bits: 255 where it is solid, as all of it is without such a channel.
///
/// # Errors
/// As [`decode`].
pub fn decode_alpha(bytes: &[u8]) -> Result<GrayImage, ImageFault> {
    let image = decode_all(bytes)?;
    Ok(match image.color().has_alpha() {
        true => channel(image.into_rgba8(), 3),
        false => GrayImage::from_pixel(image.width(), image.height(), Luma([255])),
    })
}

/// The red channel of what [`decode`] gives.
///
/// # Errors
/// As [`decode`].
pub fn decode_red(bytes: &[u8]) -> Result<GrayImage, ImageFault> {
    Ok(channel(decode(bytes)?, 0))
}

fn channel<P: Pixel<Subpixel = u8>>(image: ImageBuffer<P, Vec<u8>>, index: usize) -> GrayImage {
    let mut channel = GrayImage::new(image.width(), image.height());
    for (source, target) in image.pixels().zip(channel.pixels_mut()) {
        target.0 = [source.channels()[index]];
    }
    channel
}

fn decode_all(bytes: &[u8]) -> Result<DynamicImage, ImageFault> {
    let (decoder, orientation) = open(bytes)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(fault)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn open(bytes: &[u8]) -> Result<(impl ImageDecoder, Orientation), ImageFault> {
    if bytes.len() as u64 > MOST_BYTES {
        return Err(ImageFault::TooLarge { what: format!("its file has more than {} MiB", MOST_BYTES >> 20) });
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes));
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|error| ImageFault::Broken { what: error.to_string() })?;
    let (format, name) = match reader.format() {
        Some(format @ ImageFormat::Png) => (format, "PNG"),
        Some(format @ ImageFormat::Jpeg) => (format, "JPEG"),
        Some(format @ ImageFormat::WebP) => (format, "WebP"),
        Some(format @ ImageFormat::Bmp) => (format, "BMP"),
        _ => return Err(ImageFault::UnknownFormat),
    };
    if !is_whole(format, bytes) {
        return Err(ImageFault::CutShort { format: name });
    }
    let mut decoder = reader.into_decoder().map_err(fault)?;
    let orientation = decoder.orientation().map_err(fault)?;
    let (width, height) = shown_size(&decoder, orientation);
    if width.min(height) < SHORTEST_SIDE {
        return Err(ImageFault::TooSmall { width, height });
    }
    // Grey pixels become three bytes each, and transparent ones pass through four.
    let each = if decoder.color_type().has_alpha() { 4 } else { 3 };
    let as_rgb = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(each);
    if decoder.total_bytes().max(as_rgb) > MOST_BYTES {
        let what = format!("{width} × {height} pixels take more than {} MiB decoded", MOST_BYTES >> 20);
        return Err(ImageFault::TooLarge { what });
    }
    Ok((decoder, orientation))
}

fn fault(error: ImageError) -> ImageFault {
    match error {
        ImageError::Limits(limit) => ImageFault::TooLarge { what: limit.to_string() },
        other => ImageFault::Broken { what: other.to_string() },
    }
}

fn shown_size(decoder: &impl ImageDecoder, orientation: Orientation) -> (u32, u32) {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let (width, height) = decoder.dimensions();
    let sideways = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    if sideways { (height, width) } else { (width, height) }
}

fn on_white(image: &DynamicImage) -> RgbImage {
    let rgba = image.to_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (source, target) in rgba.pixels().zip(rgb.pixels_mut()) {
        let [red, green, blue, alpha] = source.0.map(u32::from);
        target.0 = [red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    rgb
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use image::{LumaA, Rgb, RgbaImage};

    pub(crate) fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// 40 × 20 pixels: red left, blue right.
    pub(crate) fn two_halves() -> RgbImage {
        RgbImage::from_fn(40, 20, |x, _| if x < 20 { Rgb([250, 10, 10]) } else { Rgb([10, 10, 250]) })
    }

    /// Puts an EXIF segment with just an orientation behind the first marker of a JPEG.
    pub(crate) fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let mut segment = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".to_vec();
        segment.extend_from_slice(&[0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0]);
        let length = (segment.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, &segment, &jpeg[2..]].concat()
    }

    fn is_red(pixel: &Rgb<u8>) -> bool {
        pixel.0[0] > 200 && pixel.0[2] < 60
    }

    #[test]
    fn every_format_is_read_by_its_content() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
            let bytes = encoded(two_halves(), format);
            assert_eq!(probe(&bytes), Ok((40, 20)), "{format:?}");
            let image = decode(&bytes).unwrap();
            assert!(is_red(image.get_pixel(2, 10)) && !is_red(image.get_pixel(37, 10)), "{format:?}");
        }
    }

    #[test]
    fn exif_orientation_turns_the_image_and_its_size() {
        let jpeg = encoded(two_halves(), ImageFormat::Jpeg);
        // Where red, which is on the left of the file, must be seen.
        let cases = [(1, 40, "left"), (2, 40, "right"), (3, 40, "right"), (4, 40, "left")];
        let cases = cases.into_iter().chain([(5, 20, "top"), (6, 20, "top"), (7, 20, "bottom"), (8, 20, "bottom")]);
        for (orientation, width, red) in cases {
            let bytes = with_orientation(&jpeg, orientation);
            assert_eq!(probe(&bytes).unwrap(), (width, 60 - width), "orientation {orientation}");
            let image = decode(&bytes).unwrap();
            assert_eq!(image.dimensions(), (width, 60 - width), "orientation {orientation}");
            let (x, y) = match red {
                "left" => (2, 10),
                "right" => (37, 10),
                "top" => (10, 2),
                _ => (10, 37),
            };
            assert!(is_red(image.get_pixel(x, y)), "orientation {orientation}");
            assert!(
                !is_red(image.get_pixel(image.width() - 1 - x, image.height() - 1 - y)),
                "orientation {orientation}"
            );
        }
        for nonsense in [0, 9, 255] {
            assert_eq!(probe(&with_orientation(&jpeg, nonsense)), Ok((40, 20)));
        }
    }

    #[test]
    fn transparent_pixels_are_white() {
        let image = RgbaImage::from_fn(16, 16, |x, _| image::Rgba([0, 100, 200, [0, 128, 255][x.min(2) as usize]]));
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let decoded = decode(&encoded(image.clone(), format)).unwrap();
            assert_eq!(decoded.get_pixel(0, 0).0, [255, 255, 255]);
            assert_eq!(decoded.get_pixel(1, 0).0, [127, 177, 227]);
            assert_eq!(decoded.get_pixel(2, 0).0, [0, 100, 200]);
        }
    }

    #[test]
    fn masks_are_read_from_alpha_or_from_red() {
        let image = RgbaImage::from_fn(20, 16, |x, _| image::Rgba([x as u8, 100, 200, 10 * x as u8]));
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let alpha = decode_alpha(&encoded(image.clone(), format)).unwrap();
            assert_eq!((alpha.dimensions(), alpha.get_pixel(7, 3).0), ((20, 16), [70]));
        }
        let solid = encoded(two_halves(), ImageFormat::Jpeg);
        assert!(decode_alpha(&solid).unwrap().pixels().all(|pixel| pixel.0 == [255]));
        let grey = ImageBuffer::from_pixel(16, 16, LumaA([9_u8, 51]));
        assert_eq!(decode_alpha(&encoded(grey, ImageFormat::Png)).unwrap().get_pixel(0, 0).0, [51]);
        assert_eq!(decode_red(&encoded(two_halves(), ImageFormat::Png)).unwrap().get_pixel(2, 2).0, [250]);
        let turned = decode_alpha(&with_orientation(&solid, 6)).unwrap();
        assert_eq!(turned.dimensions(), (20, 40));
        assert!(decode_alpha(&solid[..40]).is_err() && decode_red(b"no image").is_err());
    }

    #[test]
    fn grey_and_16_bit_become_8_bit_rgb() {
        let grey = decode(&encoded(GrayImage::from_pixel(16, 16, Luma([77])), ImageFormat::Png)).unwrap();
        assert_eq!(grey.get_pixel(3, 3).0, [77; 3]);
        let grey_jpeg = decode(&encoded(GrayImage::from_pixel(16, 16, Luma([77])), ImageFormat::Jpeg)).unwrap();
        assert_eq!(grey_jpeg.get_pixel(3, 3).0, [77; 3]);
        let wide = ImageBuffer::from_pixel(16, 16, Rgb([65535_u16, 32896, 130]));
        assert_eq!(decode(&encoded(wide, ImageFormat::Png)).unwrap().get_pixel(3, 3).0, [255, 128, 1]);
        let wide_grey = ImageBuffer::from_pixel(16, 16, Luma([32896_u16]));
        assert_eq!(decode(&encoded(wide_grey, ImageFormat::Png)).unwrap().get_pixel(3, 3).0, [128; 3]);
        let clear = ImageBuffer::from_pixel(16, 16, LumaA([0_u16, 0]));
        assert_eq!(decode(&encoded(clear, ImageFormat::Png)).unwrap().get_pixel(3, 3).0, [255; 3]);
    }

    #[test]
    fn a_text_called_png_is_no_image() {
        for bytes in [&b"a dog on a beach"[..], b"", b"GIF89a, another format", b"\x89PNG"] {
            assert_eq!(probe(bytes), Err(ImageFault::UnknownFormat), "{bytes:?}");
            assert_eq!(decode(bytes), Err(ImageFault::UnknownFormat), "{bytes:?}");
        }
    }

    #[test]
    fn a_file_cut_short_is_a_fault_at_any_length() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
            let bytes = encoded(two_halves(), format);
            let tail = if format == ImageFormat::Png { 4 } else { 0 };
            for length in 0..bytes.len() - tail {
                assert!(decode(&bytes[..length]).is_err(), "{format:?} of {length} bytes");
            }
        }
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let mut draws = crate::random::Draws::new(0, "damage", 0, "");
        let photo = RgbImage::from_fn(48, 32, |_, _| Rgb([draws.below(256) as u8, draws.below(256) as u8, 9]));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
            let bytes = encoded(photo.clone(), format);
            for _ in 0..2000 {
                let mut damaged = bytes.clone();
                for _ in 0..=draws.below(3) {
                    // Half of the damage goes to the header, where it does the most.
                    let bound = if draws.below(2) == 0 { 64.min(damaged.len()) } else { damaged.len() };
                    let at = draws.below(bound as u64) as usize;
                    damaged[at] = draws.below(256) as u8;
                }
                let (probed, decoded) = (probe(&damaged), decode(&damaged));
                if let Ok(image) = decoded {
                    assert_eq!(probed, Ok(image.dimensions()));
                }
            }
        }
    }

    #[test]
    fn a_small_file_that_unpacks_to_a_huge_image_is_refused() {
        let rgb = encoded(two_halves(), ImageFormat::Png);
        let grey = encoded(GrayImage::new(40, 20), ImageFormat::Png);
        // Of the grey ones, 900 MB decoded are 2.7 GB in three channels.
        for (png, width, height) in [
            (&rgb, 100_000_u32, 100_000_u32),
            (&rgb, 2_000_000_000, 20),
            (&rgb, 20_000, 20_000),
            (&grey, 30_000, 30_000),
        ] {
            let png = with_size(png, width, height);
            assert!(matches!(probe(&png), Err(ImageFault::TooLarge { .. })), "{:?}", probe(&png));
            assert!(matches!(decode(&png), Err(ImageFault::TooLarge { .. })));
        }
        assert_eq!(probe(&with_size(&rgb, 20_000, 15_000)), Ok((20_000, 15_000)));
        let mut jpeg = encoded(two_halves(), ImageFormat::Jpeg);
        let size = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap() + 5;
        jpeg[size..size + 4].fill(0xff);
        assert!(matches!(decode(&jpeg), Err(ImageFault::TooLarge { .. })), "{:?}", decode(&jpeg));
        let mut bmp = encoded(two_halves(), ImageFormat::Bmp);
        bmp[18..26].copy_from_slice(&[60_000_i32.to_le_bytes(), 60_000_i32.to_le_bytes()].concat());
        assert!(matches!(decode(&bmp), Err(ImageFault::TooLarge { .. })), "{:?}", decode(&bmp));
    }

    /// A PNG whose header says another size.
    fn with_size(png: &[u8], width: u32, height: u32) -> Vec<u8> {
        let mut png = png.to_vec();
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        png
    }

    #[test]
    fn an_image_smaller_than_a_patch_is_refused() {
        let bytes = encoded(RgbImage::new(15, 400), ImageFormat::Png);
        assert_eq!(probe(&bytes), Err(ImageFault::TooSmall { width: 15, height: 400 }));
    }

    /// The checksum of PNG chunks (PNG specification, annex D), bit by bit.
    fn crc32(bytes: &[u8]) -> u32 {
        let bits =
            |remainder: u32| (0..8).fold(remainder, |r, _| if r & 1 == 1 { (r >> 1) ^ 0xedb8_8320 } else { r >> 1 });
        !bytes.iter().fold(!0, |remainder, byte| bits(remainder ^ u32::from(*byte)))
    }
}
