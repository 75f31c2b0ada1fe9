//! Pictures that look alike though their files differ: copies at another size, saved again, slightly cropped or retouched.

use super::{decode, fault::ImageFault};
use fast_image_resize::{PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use rayon::prelude::*;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

/// What a picture looks like from far away: whether it gets lighter from each of 8 × 8 places to the next, to the right and downwards
/// (a difference hash both ways), and its mean colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    lighter: u128,
    color: [u8; 3],
}

/// Places to a side, and one more to compare with.
const PLACES: usize = 8;
const SIDE: usize = PLACES + 1;

/// Of the 128 comparisons so many come out differently at most; of pictures that have nothing to do with each other about half do.
const MOST_BITS: u32 = 10;

/// So far apart are mean colours at most, in 255ths of each channel: flat drawings differ in little else.
const MOST_COLOR: u8 = 8;

/// A difference of lightness below this is none, so that noise in flat places decides nothing.
const LEAST: u32 = 3;

impl Look {
    /// Looks at a picture.
    ///
    /// # Errors
    /// When it can't be decoded.
    pub fn of(bytes: &[u8]) -> Result<Self, ImageFault> {
        let image = decode::decode(bytes)?;
        let (width, height) = image.dimensions();
        let broken = |error: &dyn std::fmt::Display| ImageFault::Broken { what: error.to_string() };
        let source =
            Image::from_vec_u8(width, height, image.into_raw(), PixelType::U8x3).map_err(|error| broken(&error))?;
        let mut small = Image::new(SIDE as u32, SIDE as u32, PixelType::U8x3);
        // Every pixel counts alike, so that what is not wider than a place decides nothing.
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(fast_image_resize::FilterType::Box));
        Resizer::new().resize(&source, &mut small, &options).map_err(|error| broken(&error))?;
        let (pixels, _) = small.buffer().as_chunks::<3>();
        let light =
            |row: usize, column: usize| pixels[row * SIDE + column].iter().map(|value| u32::from(*value)).sum::<u32>();
        let mut lighter = 0_u128;
        for row in 0..PLACES {
            for column in 0..PLACES {
                let here = light(row, column) + 3 * LEAST;
                for next in [light(row, column + 1), light(row + 1, column)] {
                    lighter = lighter << 1 | u128::from(next > here);
                }
            }
        }
        let mean =
            |channel: usize| pixels.iter().map(|pixel| usize::from(pixel[channel])).sum::<usize>() / pixels.len();
        Ok(Self { lighter, color: [mean(0) as u8, mean(1) as u8, mean(2) as u8] })
    }

    /// Whether people would take the two for the same picture, nearly always.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.lighter ^ other.lighter).count_ones() <= MOST_BITS
            && self.color.iter().zip(other.color).all(|(mine, other)| mine.abs_diff(other) <= MOST_COLOR)
    }
}

/// Looks at files, several at a time; `tell` hears how many are done. Those that can't be read or decoded give the reason.
pub fn look_at(paths: &[PathBuf], tell: &(dyn Fn(u64) + Sync)) -> Vec<Result<Look, String>> {
    let done = AtomicU64::new(0);
    let look = |path: &PathBuf| {
        let found = std::fs::read(path).map_err(|error| error.to_string());
        let look = found.and_then(|bytes| Look::of(&bytes).map_err(|fault| fault.to_string()));
        tell(done.fetch_add(1, Ordering::Relaxed) + 1);
        look
    };
    paths.par_iter().map(look).collect()
}

/// Groups of two and more that look alike, by index: each of a group is like another one of it.
pub fn groups(looks: &[Look]) -> Vec<Vec<usize>> {
    // Each points to an earlier one of its group, the first to itself.
    let mut first: Vec<usize> = (0..looks.len()).collect();
    let find = |first: &[usize], mut index: usize| {
        while first[index] != index {
            index = first[index];
        }
        index
    };
    for (index, look) in looks.iter().enumerate() {
        for other in (0..index).filter(|other| look.is_like(&looks[*other])) {
            let (one, two) = (find(&first, index), find(&first, other));
            first[one.max(two)] = one.min(two);
        }
    }
    let mut groups = vec![Vec::new(); looks.len()];
    for index in 0..looks.len() {
        groups[find(&first, index)].push(index);
    }
    groups.retain(|group| group.len() > 1);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, ImageFormat, RgbImage, imageops};
    use std::{fs, io::Cursor, path::Path};

    fn photos() -> Vec<RgbImage> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/photos");
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let images = paths.iter().filter(|path| {
            path.extension().is_some_and(|extension| ["jpg", "png"].iter().any(|known| extension == *known))
        });
        images.map(|path| decode::decode(&fs::read(path).unwrap()).unwrap()).collect()
    }

    fn look(image: &RgbImage, format: ImageFormat) -> Look {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(image.clone()).write_to(&mut bytes, format).unwrap();
        Look::of(bytes.get_ref()).unwrap()
    }

    #[test]
    fn a_picture_is_known_again_and_no_two_photographs_are_alike() {
        let photos = photos();
        assert!(photos.len() > 20);
        let looks: Vec<Look> = photos.iter().map(|photo| look(photo, ImageFormat::Png)).collect();
        assert_eq!(groups(&looks), [[0_usize; 0]; 0]);
        for (photo, known) in photos.iter().zip(&looks) {
            let (width, height) = photo.dimensions();
            let smaller = imageops::thumbnail(photo, width / 2, height / 2);
            let cropped = imageops::crop_imm(photo, width / 100, 0, width - width / 50, height).to_image();
            let brighter = imageops::brighten(photo, 5);
            for changed in [
                look(photo, ImageFormat::Jpeg),
                look(&smaller, ImageFormat::Png),
                look(&cropped, ImageFormat::Png),
                look(&brighter, ImageFormat::Jpeg),
            ] {
                assert!(known.is_like(&changed), "{} bits", (known.lighter ^ changed.lighter).count_ones());
            }
            let mirrored = imageops::flip_horizontal(photo);
            assert!(!known.is_like(&look(&mirrored, ImageFormat::Png)));
        }
    }

    #[test]
    fn flat_pictures_of_other_colours_are_not_alike() {
        let flat = |color: [u8; 3]| look(&RgbImage::from_pixel(64, 48, image::Rgb(color)), ImageFormat::Png);
        assert!(flat([200, 10, 10]).is_like(&flat([201, 12, 9])) && !flat([200, 10, 10]).is_like(&flat([10, 200, 10])));
        let looks = [flat([0; 3]), flat([99; 3]), flat([6; 3]), flat([12; 3])];
        assert_eq!(groups(&looks), [[0, 2, 3]], "each is like another one");
    }
}
