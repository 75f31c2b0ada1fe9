//! From the bytes of an image file to the pixels that the VAE encodes.

use super::bucket::Placement;
use super::decode::decode;
use super::fault::ImageFault;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{Filter, FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{RgbImage, imageops::flip_horizontal_in_place};
use std::f64::consts::PI;

/// Decodes an image, turns it upright, mirrors it left to right if `flip` says so, scales it to cover its bucket, and crops it to the
/// bucket: height × width × 3 bytes, row by row, red, green and blue of the bucket's pixels, 0 to 255.
///
/// It is scaled with a Lanczos filter of three lobes, widened when shrinking so that nothing aliases, on sRGB values as they
/// are (as Pillow, torchvision and sd-scripts do). Weights are 16-bit integers computed without the system's sine, and sums are
/// integers, so that the bytes are the same with and without vector instructions and on every machine.
///
/// # Errors
/// See [`decode`]; and if the image has not the size that it is placed by.
pub fn prepare(bytes: &[u8], placement: &Placement, flip: bool) -> Result<Vec<u8>, ImageFault> {
    let mut image = decode(bytes)?;
    if image.dimensions() != placement.image {
        return Err(ImageFault::Broken { what: "it has not the size that its header says".to_owned() });
    }
    if flip {
        flip_horizontal_in_place(&mut image);
    }
    scale(&image, placement, &mut Resizer::new())
}

/// Computes the bucket's part of the scaled image and nothing else: of a strip 10,000 × 16 the rest would be gigabytes.
fn scale(image: &RgbImage, placement: &Placement, resizer: &mut Resizer) -> Result<Vec<u8>, ImageFault> {
    let (left, width) = source_span(image.width(), placement.resized.0, placement.crop.0, placement.bucket.0);
    let (top, height) = source_span(image.height(), placement.resized.1, placement.crop.1, placement.bucket.1);
    let filter = Filter::new("Lanczos3", lanczos3, 3.0).map_err(broken)?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Custom(filter)))
        .crop(left, top, width, height);
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3).map_err(broken)?;
    let mut target = Image::new(placement.bucket.0, placement.bucket.1, PixelType::U8x3);
    resizer.resize(&source, &mut target, &options).map_err(broken)?;
    Ok(target.into_vec())
}

/// Where the `kept` pixels after `cropped` ones of a side scaled to `resized` come from in the image: start and length.
fn source_span(side: u32, resized: u32, cropped: u32, kept: u32) -> (f64, f64) {
    let scale = f64::from(side) / f64::from(resized.max(1));
    let start = f64::from(cropped) * scale;
    // Rounding may not push the end over the edge.
    (start, (f64::from(kept) * scale).min(f64::from(side) - start))
}

/// `sinc(x) · sinc(x / 3)` for |x| < 3, with the sine of the `libm` crate.
fn lanczos3(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { libm::sin(PI * x) / (PI * x) };
    if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn broken(error: impl std::error::Error) -> ImageFault {
    ImageFault::Broken { what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::place;
    use super::super::decode::{
        probe,
        tests::{encoded, two_halves, with_orientation},
    };
    use super::super::parameters::{Buckets, EncodeImages, Resolution};
    use super::*;
    use crate::random::Draws;
    use fast_image_resize::CpuExtensions;
    use image::{ImageFormat, Rgb};

    #[derive(Debug)]
    struct Prepared {
        rgb: Vec<u8>,
        placement: Placement,
    }

    fn prepare(bytes: &[u8], parameters: &EncodeImages) -> Result<Prepared, ImageFault> {
        prepare_as(bytes, parameters, false)
    }

    fn prepare_as(bytes: &[u8], parameters: &EncodeImages, flip: bool) -> Result<Prepared, ImageFault> {
        let (width, height) = probe(bytes)?;
        let placement = place(width, height, parameters.resolution, parameters.buckets.as_ref())?;
        Ok(Prepared { rgb: super::prepare(bytes, &placement, flip)?, placement })
    }

    fn small() -> EncodeImages {
        let resolution = Resolution { width: 64, height: 64 };
        EncodeImages {
            resolution,
            buckets: Some(Buckets { step: 16, ..Buckets::default() }),
            ..EncodeImages::default()
        }
    }

    fn noise(width: u32, height: u32) -> RgbImage {
        let mut draws = Draws::new(0, "test image", 0, "");
        let pixels = draws.normals_f32((width * height * 3) as usize);
        let bytes = pixels.into_iter().map(|value| (128.0 + 60.0 * value).clamp(0.0, 255.0) as u8).collect();
        RgbImage::from_raw(width, height, bytes).unwrap()
    }

    fn pixel(prepared: &Prepared, x: u32, y: u32) -> &[u8] {
        let at = 3 * (y * prepared.placement.bucket.0 + x) as usize;
        &prepared.rgb[at..at + 3]
    }

    #[test]
    fn an_image_fills_its_bucket() {
        let prepared = prepare(&encoded(two_halves(), ImageFormat::Png), &small()).unwrap();
        let (width, height) = prepared.placement.bucket;
        assert_eq!((width, height), (80, 48));
        assert_eq!(prepared.rgb.len(), (width * height * 3) as usize);
        assert_eq!(pixel(&prepared, 2, 20), [250, 10, 10]);
        assert_eq!(pixel(&prepared, 77, 20), [10, 10, 250]);
    }

    #[test]
    fn a_turned_photo_gets_an_upright_bucket() {
        let bytes = with_orientation(&encoded(two_halves(), ImageFormat::Jpeg), 6);
        let prepared = prepare(&bytes, &small()).unwrap();
        assert_eq!(prepared.placement.bucket, (48, 80));
        assert!(pixel(&prepared, 24, 3)[0] > 200 && pixel(&prepared, 24, 76)[2] > 200);
    }

    #[test]
    fn an_image_of_its_bucket_s_size_is_left_alone() {
        let image = noise(64, 64);
        assert_eq!(prepare(&encoded(image.clone(), ImageFormat::Png), &small()).unwrap().rgb, image.into_raw());
    }

    #[test]
    fn an_image_that_is_only_cropped_keeps_its_values() {
        let mut parameters = small();
        parameters.buckets = Some(Buckets { step: 16, upscale: false, ..Buckets::default() });
        let image = noise(45, 37);
        let prepared = prepare(&encoded(image.clone(), ImageFormat::Png), &parameters).unwrap();
        assert_eq!((prepared.placement.crop, prepared.placement.bucket), ((6, 2), (32, 32)));
        assert_eq!(pixel(&prepared, 0, 0), image.get_pixel(6, 2).0);
        assert_eq!(pixel(&prepared, 31, 31), image.get_pixel(37, 33).0);
    }

    #[test]
    fn scaling_a_part_is_scaling_the_whole_and_cropping() {
        for (width, height) in [(300, 200), (40, 31), (20, 90)] {
            let image = noise(width, height);
            let placement = place(width, height, small().resolution, small().buckets.as_ref()).unwrap();
            let part = scale(&image, &placement, &mut Resizer::new()).unwrap();
            let whole = Placement { crop: (0, 0), bucket: placement.resized, ..placement };
            let whole = scale(&image, &whole, &mut Resizer::new()).unwrap();
            for y in 0..placement.bucket.1 {
                for x in 0..placement.bucket.0 * 3 {
                    let here = part[(y * placement.bucket.0 * 3 + x) as usize];
                    let there =
                        whole[((y + placement.crop.1) * placement.resized.0 * 3 + placement.crop.0 * 3 + x) as usize];
                    // The weights' precision follows the largest of them, and the two passes each round to 8 bits.
                    assert!(here.abs_diff(there) <= 2, "{width} × {height} at {x}, {y}: {here}, {there}");
                }
            }
        }
    }

    #[test]
    fn the_bytes_do_not_depend_on_vector_instructions() {
        for (width, height) in [(333, 200), (41, 30), (700, 71)] {
            let image = noise(width, height);
            let placement = place(width, height, small().resolution, small().buckets.as_ref()).unwrap();
            let mut plain = Resizer::new();
            // SAFETY: no extension is one that every processor has.
            unsafe { plain.set_cpu_extensions(CpuExtensions::None) };
            let expected = scale(&image, &placement, &mut plain).unwrap();
            assert_eq!(scale(&image, &placement, &mut Resizer::new()).unwrap(), expected, "{width} × {height}");
        }
    }

    #[test]
    fn the_bytes_are_pinned() {
        // Raise `REVISION` when these change.
        let digest = |width, height| {
            let prepared = prepare(&encoded(noise(width, height), ImageFormat::Png), &small()).unwrap();
            blake3::hash(&prepared.rgb).to_hex()[..16].to_owned()
        };
        assert_eq!([digest(333, 200), digest(41, 30)], ["4a2fe3a9a607566a", "6390b6b2c8334a14"]);
    }

    #[test]
    fn a_plain_image_stays_plain() {
        for (width, height) in [(500, 300), (20, 20)] {
            let image = RgbImage::from_pixel(width, height, Rgb([255, 128, 3]));
            let prepared = prepare(&encoded(image, ImageFormat::Png), &small()).unwrap();
            assert!(prepared.rgb.chunks_exact(3).all(|pixel| pixel == [255, 128, 3]));
        }
    }

    #[test]
    fn a_long_strip_takes_no_more_memory_than_its_bucket() {
        let parameters = EncodeImages::default();
        let bytes = encoded(RgbImage::from_pixel(20_000, 16, Rgb([9, 9, 9])), ImageFormat::Png);
        let prepared = prepare(&bytes, &parameters).unwrap();
        assert_eq!(prepared.placement.bucket, (2048, 512));
        assert_eq!(prepared.rgb.len(), 2048 * 512 * 3);
        assert!(prepared.placement.enlargement() > 30.0);
    }

    #[test]
    fn a_flipped_image_is_what_its_mirrored_file_gives() {
        for (width, height) in [(333, 200), (45, 37)] {
            let image = noise(width, height);
            let mirrored = image::imageops::flip_horizontal(&image);
            let [plain, mirrored] = [image, mirrored].map(|image| encoded(image, ImageFormat::Png));
            let flipped = prepare_as(&plain, &small(), true).unwrap();
            assert_eq!(flipped.rgb, prepare(&mirrored, &small()).unwrap().rgb);
            assert_ne!(flipped.rgb, prepare(&plain, &small()).unwrap().rgb);
        }
    }

    #[test]
    fn an_image_of_another_size_than_it_is_placed_by_is_refused() {
        let placement = place(64, 64, small().resolution, None).unwrap();
        let bytes = encoded(noise(64, 48), ImageFormat::Png);
        assert!(matches!(super::prepare(&bytes, &placement, false), Err(ImageFault::Broken { .. })));
    }

    #[test]
    fn a_broken_file_is_a_fault_with_a_remedy() {
        let bytes = encoded(noise(64, 64), ImageFormat::Jpeg);
        let fault = prepare(&bytes[..bytes.len() / 2], &small()).unwrap_err();
        assert_eq!(fault, ImageFault::CutShort { format: "JPEG" });
        assert!(!fault.remedy().is_empty());
    }
}
