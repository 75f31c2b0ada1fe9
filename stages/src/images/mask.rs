//! Which parts of an image are learnt: its mask, as large as its latents.

use super::{
    bucket::Placement,
    decode::{decode_alpha, decode_red},
    fault::ImageFault,
};
use crate::{error::StageError, precision::Precision, tensors, tensors::Array};
use image::{GrayImage, imageops::flip_horizontal_in_place};
use sd3pipe_cache::{Digest, Store};

/// Pixels that a cell of the latents stands for, in each direction.
const CELL: u32 = 8;

/// The name of the only tensor of a mask's file.
pub const TENSOR: &str = "mask";

/// How much each cell of an image's latents is learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// From 0, not at all, to 1: `[height / 8, width / 8]`.
    pub cells: Array,
}

impl Mask {
    /// Reads a mask from the alpha channel of an image file, or from the red channel of a file of its own: upright, mirrored if `flip`
    /// says so, and placed as its image is. Each cell is the mean of the pixels that it stands for, where pixels that lie in it in part
    /// count in part; it is computed from the file's own pixels, however large these are beside the image's.
    ///
    /// # Errors
    /// As [`decode_alpha`], and if no cell is learnt at all.
    pub fn read(bytes: &[u8], alpha: bool, placement: &Placement, flip: bool) -> Result<Self, ImageFault> {
        let mut mask = if alpha { decode_alpha(bytes)? } else { decode_red(bytes)? };
        if flip {
            flip_horizontal_in_place(&mut mask);
        }
        let cells = cells(&mask, placement);
        if cells.values.iter().all(|value| *value == 0.0) { Err(ImageFault::AllMasked) } else { Ok(Self { cells }) }
    }

    /// What each cell counts: the mask divided by its mean, so that the mean over an image is 1 however little of it is learnt. Of
    /// a mask that masks nothing each is exactly 1.
    pub fn shares(&self) -> Vec<f32> {
        let sum: f64 = self.cells.values.iter().copied().map(f64::from).sum();
        let mean = sum / self.cells.values.len().max(1) as f64;
        self.cells.values.iter().map(|value| (f64::from(*value) / mean) as f32).collect()
    }

    /// The object that the store keeps.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StageError> {
        tensors::to_bytes(&[(TENSOR, &self.cells)], Precision::F32, None)
    }

    /// Reads it from the store.
    pub fn from_store(store: &Store, digest: &Digest) -> Result<Self, StageError> {
        let bytes = store.read(digest)?;
        let unreadable = |reason: String| StageError::Unreadable { what: format!("mask {digest}"), reason };
        let cells = tensors::from_bytes(&bytes).map_err(unreadable)?.remove(TENSOR);
        cells.map(|cells| Self { cells }).ok_or_else(|| unreadable("there is no mask in it".to_owned()))
    }
}

fn cells(mask: &GrayImage, placement: &Placement) -> Array {
    let (width, height) = (placement.bucket.0 / CELL, placement.bucket.1 / CELL);
    let columns = spans(mask.width(), placement.resized.0, placement.crop.0, width);
    let rows = spans(mask.height(), placement.resized.1, placement.crop.1, height);
    // Numerators and denominators are sums of the same terms for a white mask, so that it gives exactly 1.
    let white = 255.0;
    let mean = |span: &Span, value: &dyn Fn(u32) -> f64, most: f64| {
        let sum = |value: &dyn Fn(u32) -> f64| span.terms().map(|(pixel, part)| part * value(pixel)).sum::<f64>();
        sum(value) / sum(&|_| most)
    };
    let lines: Vec<Vec<f64>> = (0..mask.height())
        .map(|y| columns.iter().map(|span| mean(span, &|x| f64::from(mask.get_pixel(x, y).0[0]), white)).collect())
        .collect();
    let cells = rows.iter().flat_map(|row| {
        let lines = &lines;
        (0..columns.len()).map(move |column| mean(row, &|y| lines[y as usize][column], 1.0) as f32)
    });
    Array { shape: vec![height as usize, width as usize], values: cells.collect() }
}

/// The pixels that a cell stands for in one direction, from here to there.
struct Span {
    start: f64,
    end: f64,
    side: u32,
}

impl Span {
    /// Its pixels, each with the part of it that lies inside.
    fn terms(&self) -> impl Iterator<Item = (u32, f64)> {
        let (first, last) = (self.start as u32, (self.end.ceil() as u32).min(self.side));
        (first..last.max(first + 1)).map(|pixel| {
            let (low, high) = (f64::from(pixel).max(self.start), f64::from(pixel + 1).min(self.end));
            (pixel, (high - low).max(f64::MIN_POSITIVE))
        })
    }
}

/// Where the cells lie on a side of the mask that is scaled to `resized`, and of which `crop` are cut off in front.
fn spans(side: u32, resized: u32, crop: u32, cells: u32) -> Vec<Span> {
    let scale = f64::from(side) / f64::from(resized.max(1));
    // Rounding may not push a cell over the edge.
    let place = |pixels: u32| (f64::from(crop + pixels) * scale).min(f64::from(side));
    let start = |cell: u32| place(cell * CELL).min(f64::from(side - 1));
    (0..cells).map(|cell| Span { start: start(cell), end: place((cell + 1) * CELL), side }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{
        bucket::place,
        decode::tests::encoded,
        parameters::{Buckets, Resolution},
    };
    use super::*;
    use image::{ImageFormat, Luma, Rgba, RgbaImage};

    fn square(side: u32) -> Resolution {
        Resolution { width: side, height: side }
    }

    fn file(mask: GrayImage) -> Vec<u8> {
        encoded(mask, ImageFormat::Png)
    }

    #[test]
    fn a_cell_is_the_mean_of_its_pixels() {
        let placement = place(32, 16, Resolution { width: 32, height: 16 }, None).unwrap();
        // One column white, of four columns of cells; half of the last one grey.
        let mask = GrayImage::from_fn(32, 16, |x, y| match (x, y) {
            (8..16, _) => Luma([255]),
            (16, 0..8) => Luma([255]),
            (24.., 8..12) => Luma([51]),
            _ => Luma([0]),
        });
        let mask = Mask::read(&file(mask), false, &placement, false).unwrap();
        assert_eq!(mask.cells.shape, [2, 4]);
        assert_eq!(mask.cells.values, [0.0, 1.0, 0.125, 0.0, 0.0, 1.0, 0.0, 0.1]);
        let shares = mask.shares();
        let mean = (2.0 + 0.125 + 0.1_f32) / 8.0;
        assert!((shares[1] - 1.0 / mean).abs() < 1e-6 && shares[0] == 0.0);
        assert!((shares.iter().sum::<f32>() / 8.0 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_white_mask_is_exactly_one_everywhere_and_a_black_one_refused() {
        for (width, height) in [(333, 200), (41, 34), (64, 64), (1000, 71)] {
            let placement =
                place(width, height, square(64), Some(&Buckets { step: 16, ..Buckets::default() })).unwrap();
            for size in [(width, height), (width * 3, height * 3), (width / 2, height / 2)] {
                let of = |shade| file(GrayImage::from_pixel(size.0, size.1, Luma([shade])));
                let white = Mask::read(&of(255), false, &placement, false).unwrap();
                assert!(white.shares().iter().chain(&white.cells.values).all(|value| *value == 1.0));
                // As a plain mask of another shade, but for rounding: it is only the shape that counts.
                let grey = Mask::read(&of(51), false, &placement, false).unwrap();
                assert!(grey.cells.values.iter().all(|value| (value - 0.2).abs() < 1e-6));
                assert!(grey.shares().iter().all(|value| (value - 1.0).abs() < 1e-6));
                let black = Mask::read(&of(0), false, &placement, false);
                assert_eq!(black, Err(ImageFault::AllMasked));
            }
        }
    }

    #[test]
    fn a_mask_is_cropped_as_its_image_is() {
        // Of 128 × 64 pixels the middle 64 × 64 are kept.
        let placement = place(128, 64, square(64), None).unwrap();
        assert_eq!(placement.crop, (32, 0));
        let half = |from: u32, to: u32| {
            GrayImage::from_fn(128, 64, |x, _| Luma([if (from..to).contains(&x) { 255 } else { 0 }]))
        };
        let left = Mask::read(&file(half(32, 64)), false, &placement, false).unwrap();
        let row = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        assert!(left.cells.values.chunks(8).all(|values| values == row));
        assert_eq!(Mask::read(&file(half(0, 32)), false, &placement, false), Err(ImageFault::AllMasked));
        // The same at half and at three times the size.
        for (width, height) in [(64, 32), (384, 192)] {
            let scaled = image::imageops::resize(&half(32, 64), width, height, image::imageops::FilterType::Nearest);
            assert_eq!(Mask::read(&file(scaled), false, &placement, false).unwrap(), left);
        }
        let flipped = Mask::read(&file(half(32, 64)), false, &placement, true).unwrap();
        assert!(flipped.cells.values.chunks(8).all(|values| values.iter().eq(row.iter().rev())));
    }

    #[test]
    fn transparent_parts_are_not_learnt() {
        let placement = place(64, 64, square(64), None).unwrap();
        let image = RgbaImage::from_fn(64, 64, |_, y| Rgba([255, 255, 255, if y < 32 { 0 } else { 255 }]));
        let mask = Mask::read(&encoded(image, ImageFormat::Png), true, &placement, false).unwrap();
        assert!(mask.cells.values[..32].iter().all(|value| *value == 0.0));
        assert!(mask.cells.values[32..].iter().all(|value| *value == 1.0));
    }
}
