//! What can be measured of one picture's pixels, and small copies of it for people to look at.

use crate::images::{decode, fault::ImageFault};
use image::{RgbImage, codecs::jpeg::JpegEncoder, imageops::thumbnail};
use rayon::prelude::*;
use std::f64::consts::PI;

/// What a picture looks like, in numbers from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Look {
    /// The mean of 0.2126 R + 0.7152 G + 0.0722 B of sRGB values as they are (ITU-R BT.709).
    pub luminance: f64,
    /// The mean distance between a pixel's highest and lowest channel: 0 for greys.
    pub saturation: f64,
    /// The share of pixels whose channels are all at least [`NEAR_WHITE`].
    pub white: f64,
    /// The root of the mean square of luminance's Laplacian: edges and texture, and noise too.
    pub detail: f64,
}

/// From here on a channel's byte counts as white.
pub const NEAR_WHITE: u8 = 245;

/// Luminances from 0 to 1, row by row.
fn luminances(image: &RgbImage) -> Vec<f64> {
    let luminance = |[red, green, blue]: [u8; 3]| {
        (0.2126 * f64::from(red) + 0.7152 * f64::from(green) + 0.0722 * f64::from(blue)) / 255.0
    };
    image.pixels().map(|pixel| luminance(pixel.0)).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

/// Measures a picture. Pictures are comparable in `detail` at one size: see [`at_most`].
pub fn look(image: &RgbImage) -> Look {
    let luminances = luminances(image);
    let saturation = |pixel: &image::Rgb<u8>| {
        let (least, most) = (pixel.0.iter().min(), pixel.0.iter().max());
        f64::from(most.copied().unwrap_or_default() - least.copied().unwrap_or_default()) / 255.0
    };
    let white = |pixel: &image::Rgb<u8>| f64::from(u8::from(pixel.0.iter().all(|channel| *channel >= NEAR_WHITE)));
    Look {
        luminance: mean(luminances.iter().copied()),
        saturation: mean(image.pixels().map(saturation)),
        white: mean(image.pixels().map(white)),
        detail: detail(&luminances, image.width() as usize),
    }
}

/// Of every pixel inside, four times itself less its neighbours.
fn detail(luminances: &[f64], width: usize) -> f64 {
    let height = luminances.len() / width.max(1);
    if width < 3 || height < 3 {
        return 0.0;
    }
    let mut sum = 0.0;
    for row in 1..height - 1 {
        let [above, here, below] = [row - 1, row, row + 1].map(|row| &luminances[row * width..(row + 1) * width]);
        for column in 1..width - 1 {
            let around = above[column] + below[column] + here[column - 1] + here[column + 1];
            sum += (4.0 * here[column] - around).powi(2);
        }
    }
    (sum / ((width - 2) * (height - 2)) as f64).sqrt()
}

/// The picture, shrunk to `pixels` if it has more: width and height by one factor.
pub fn at_most(image: RgbImage, pixels: u64) -> RgbImage {
    let (width, height) = image.dimensions();
    let has = u64::from(width) * u64::from(height);
    if has <= pixels || has == 0 {
        return image;
    }
    let factor = (pixels as f64 / has as f64).sqrt();
    let side = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
    thumbnail(&image, side(width), side(height))
}

/// Cells of a picture's side that [`perceptual_hash`] looks at, and waves of them that it keeps.
const CELLS: usize = 32;
const WAVES: usize = 8;

/// 63 bits that stay mostly the same when a picture is scaled, compressed or toned: whether each of the lowest 8 × 8 waves of
/// the luminance, its mean left out, is above their median (the "pHash" of Zauner, 2010).
pub fn perceptual_hash(image: &RgbImage) -> u64 {
    let small = luminances(&thumbnail(image, CELLS as u32, CELLS as u32));
    let wave = |frequency: usize, cell: usize| {
        libm::cos(PI * frequency as f64 * (2.0 * cell as f64 + 1.0) / (2.0 * CELLS as f64))
    };
    let mut waves = Vec::with_capacity(WAVES * WAVES - 1);
    for (vertical, horizontal) in (1..WAVES * WAVES).map(|index| (index / WAVES, index % WAVES)) {
        let cells = (0..CELLS * CELLS).map(|cell| (cell / CELLS, cell % CELLS));
        waves.push(cells.map(|(y, x)| small[y * CELLS + x] * wave(vertical, y) * wave(horizontal, x)).sum::<f64>());
    }
    let mut sorted = waves.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    waves.iter().fold(0, |hash, wave| hash << 1 | u64::from(*wave > median))
}

/// A small copy of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Small {
    /// The file.
    pub jpeg: Vec<u8>,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

/// A copy of a picture that fits into a square. Small pictures stay as they are.
///
/// # Errors
/// See [`decode`](decode::decode).
pub fn small_copy(bytes: &[u8], side: u32) -> Result<Small, ImageFault> {
    let image = decode::decode(bytes)?;
    let (width, height) = image.dimensions();
    let longest = width.max(height).max(1);
    let image = if longest <= side {
        image
    } else {
        let of = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longest)).max(1) as u32;
        thumbnail(&image, of(width), of(height))
    };
    let mut jpeg = Vec::new();
    let encoded = JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&image);
    encoded.map_err(|error| ImageFault::Broken { what: error.to_string() })?;
    Ok(Small { jpeg, size: image.dimensions() })
}

/// Of the JPEGs: differences between checkpoints must not drown in those of compression.
const QUALITY: u8 = 85;

/// Copies of several pictures, each given by its bytes; nothing of what can't be read or decoded.
pub fn small_copies(count: usize, side: u32, read: &(dyn Fn(usize) -> Option<Vec<u8>> + Sync)) -> Vec<Option<Small>> {
    (0..count).into_par_iter().map(|index| small_copy(&read(index)?, side).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;
    use image::{ImageFormat, Rgb};
    use std::io::Cursor;

    fn checks(width: u32, height: u32, cell: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            if (x / cell + y / cell).is_multiple_of(2) { Rgb([200, 40, 40]) } else { Rgb([20, 20, 160]) }
        })
    }

    #[test]
    fn white_is_bright_grey_has_no_colour_and_fine_checks_have_more_detail_than_coarse_ones() {
        let white = look(&RgbImage::from_pixel(16, 16, Rgb([255, 250, 246])));
        assert!(white.luminance > 0.97 && white.white == 1.0 && white.saturation < 0.04 && white.detail == 0.0);
        let grey = look(&RgbImage::from_pixel(16, 16, Rgb([128; 3])));
        assert_eq!((grey.saturation, grey.white), (0.0, 0.0));
        let (fine, coarse) = (look(&checks(64, 64, 2)), look(&checks(64, 64, 16)));
        assert!(fine.detail > 2.0 * coarse.detail, "{fine:?} {coarse:?}");
        assert!((fine.saturation - coarse.saturation).abs() < 1e-9);
    }

    #[test]
    fn a_hash_survives_scaling_and_toning_and_tells_pictures_apart() {
        let noise = Draws::new(0, "test", 0, "").normals_f32(200);
        let picture = |shift: u32| {
            RgbImage::from_fn(120, 90, |x, y| {
                Rgb([(110.0 + 30.0 * noise[(shift + y / 15 * 8 + x / 15) as usize]) as u8; 3])
            })
        };
        let toned = RgbImage::from_fn(240, 180, |x, y| {
            Rgb(picture(0).get_pixel(x / 2, y / 2).0.map(|channel| (f64::from(channel) * 0.7 + 30.0) as u8))
        });
        let distance = |one: &RgbImage, other: &RgbImage| (perceptual_hash(one) ^ perceptual_hash(other)).count_ones();
        assert!(distance(&picture(0), &toned) <= 6, "{}", distance(&picture(0), &toned));
        assert!(distance(&picture(0), &picture(40)) > 12, "{}", distance(&picture(0), &picture(40)));
    }

    #[test]
    fn small_copies_keep_their_shape_and_small_pictures_their_size() {
        let png = |image: RgbImage| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        let Small { jpeg, size } = small_copy(&png(checks(400, 100, 10)), 96).unwrap();
        assert_eq!(size, (96, 24));
        assert_eq!(image::load_from_memory(&jpeg).unwrap().to_rgb8().dimensions(), (96, 24));
        assert_eq!(small_copy(&png(checks(40, 30, 10)), 96).unwrap().size, (40, 30));
        assert!(small_copy(b"no picture", 96).is_err());
        assert_eq!(at_most(checks(400, 100, 10), 10_000).dimensions(), (200, 50));
        assert_eq!(at_most(checks(40, 10, 10), 10_000).dimensions(), (40, 10));
    }
}
