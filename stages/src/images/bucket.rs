//! Which size an image is trained at, and how it gets there: scaled to cover a bucket, then cropped.
//!
//! The list and the choice are those of sd-scripts (`model_util.make_bucket_resolutions`, `train_util.BucketManager`), so that
//! data sets that were sorted for it stay sorted.

use super::fault::ImageFault;
use super::parameters::{Buckets, Resolution};
use serde::Serialize;

/// How an image gets to the size that it is trained at. Sizes are (width, height) in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The image as it is.
    pub image: (u32, u32),
    /// What it is scaled to: covers the bucket and has the image's shape, but for rounding.
    pub resized: (u32, u32),
    /// Pixels that are cut off at the left and at the top of what it's scaled to; at the other sides as many, or one more.
    pub crop: (u32, u32),
    /// What is left: the size of what is encoded.
    pub bucket: (u32, u32),
}

impl Placement {
    /// How many times longer the scaled image's sides are than the image's. Above 1 it is enlarged, and above 2 visibly soft.
    pub fn enlargement(&self) -> f64 {
        let ratio = |scaled: u32, side: u32| f64::from(scaled) / f64::from(side.max(1));
        ratio(self.resized.0, self.image.0).max(ratio(self.resized.1, self.image.1))
    }

    /// The share of the image's area that the crop leaves, from 0 to 1.
    pub fn kept(&self) -> f64 {
        let area = |(width, height): (u32, u32)| f64::from(width) * f64::from(height);
        area(self.bucket) / area(self.resized).max(1.0)
    }
}

/// All buckets that enlarging is allowed for, sorted by width, then by height.
pub fn list(buckets: &Buckets, resolution: Resolution) -> Vec<(u32, u32)> {
    let step = u64::from(buckets.step.max(1));
    let down = |side: u64| side / step * step;
    let area = resolution.area();
    let min = buckets.min.unwrap_or(resolution.shorter() / 2);
    let max = buckets.max.unwrap_or(resolution.longer().saturating_mul(2));
    let (min, max) = (down(u64::from(min)).max(step), u64::from(max).div_ceil(step) * step);
    let square = down(area.isqrt()).max(step);
    let mut sizes = vec![(square as u32, square as u32)];
    for width in (min..=max).step_by(buckets.step.max(1) as usize) {
        let height = down(area / width).min(max);
        if height >= min {
            sizes.extend([(width as u32, height as u32), (height as u32, width as u32)]);
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Chooses the bucket for an image of this size, and how the image fills it.
///
/// Without buckets every image covers `resolution`. With them it covers the bucket whose shape is nearest to its own. Where
/// enlarging is forbidden the bucket is made for the image: its size or, if its area is above the resolution's, a size of
/// that area, rounded down to the step.
///
/// # Errors
/// [`ImageFault::SmallerThanStep`], and only if enlarging is forbidden.
pub fn place(
    width: u32,
    height: u32,
    resolution: Resolution,
    buckets: Option<&Buckets>,
) -> Result<Placement, ImageFault> {
    let image = (width.max(1), height.max(1));
    let (resized, bucket) = match buckets {
        None => cover(image, (resolution.width, resolution.height)),
        Some(buckets) if buckets.upscale => cover(image, nearest(image, &list(buckets, resolution))),
        Some(buckets) => shrink(image, buckets, resolution).ok_or(ImageFault::SmallerThanStep {
            width,
            height,
            step: buckets.step,
        })?,
    };
    let crop = (resized.0.saturating_sub(bucket.0) / 2, resized.1.saturating_sub(bucket.1) / 2);
    Ok(Placement { image, resized, crop, bucket })
}

fn shape((width, height): (u32, u32)) -> f64 {
    f64::from(width) / f64::from(height)
}

fn rounded(side: f64) -> u32 {
    (side + 0.5).floor() as u32
}

/// The image's own size if it is a bucket, else the first of those whose ratio of sides is nearest.
fn nearest(image: (u32, u32), sizes: &[(u32, u32)]) -> (u32, u32) {
    if sizes.contains(&image) {
        return image;
    }
    let distance = |size: &(u32, u32)| (shape(*size) - shape(image)).abs();
    sizes.iter().min_by(|one, other| distance(one).total_cmp(&distance(other))).copied().unwrap_or(image)
}

/// What the image is scaled to so that it covers the bucket, and the bucket.
fn cover(image: (u32, u32), bucket: (u32, u32)) -> ((u32, u32), (u32, u32)) {
    let scale = if shape(image) > shape(bucket) {
        f64::from(bucket.1) / f64::from(image.1)
    } else {
        f64::from(bucket.0) / f64::from(image.0)
    };
    let side = |side: u32, least: u32| rounded(f64::from(side) * scale).max(least);
    ((side(image.0, bucket.0), side(image.1, bucket.1)), bucket)
}

/// What the image is scaled to if it may only shrink, and the bucket for it; none if a side of it is shorter than a step.
fn shrink(image: (u32, u32), buckets: &Buckets, resolution: Resolution) -> Option<((u32, u32), (u32, u32))> {
    let step = buckets.step.max(1);
    let down = |side: u32| side - side % step;
    let ratio = shape(image);
    let resized = if u64::from(image.0) * u64::from(image.1) > resolution.area() {
        let width = (resolution.area() as f64 * ratio).sqrt();
        let height = resolution.area() as f64 / width;
        let to_step = |side: f64| down(rounded(side));
        // Two ways to bring both sides to a step: from the width, or from the height. The one that keeps the shape better.
        let by_width = (to_step(width), to_step(f64::from(to_step(width)) / ratio));
        let by_height = (to_step(f64::from(to_step(height)) * ratio), to_step(height));
        let error =
            |size: (u32, u32)| if size.0.min(size.1) == 0 { f64::INFINITY } else { (shape(size) - ratio).abs() };
        if error(by_width) < error(by_height) {
            (by_width.0, rounded(f64::from(by_width.0) / ratio))
        } else {
            (rounded(f64::from(by_height.1) * ratio), by_height.1)
        }
    } else {
        image
    };
    let bucket = (down(resized.0), down(resized.1));
    (bucket.0.min(bucket.1) > 0).then_some((resized, bucket))
}

#[cfg(test)]
mod tests {
    use super::super::parameters::EncodeImages;
    use super::*;

    fn place(width: u32, height: u32, parameters: &EncodeImages) -> Result<Placement, ImageFault> {
        super::place(width, height, parameters.resolution, parameters.buckets.as_ref())
    }

    fn square(side: u32) -> Resolution {
        Resolution { width: side, height: side }
    }

    fn parameters(resolution: Resolution, buckets: Option<Buckets>) -> EncodeImages {
        EncodeImages { resolution, buckets, ..EncodeImages::default() }
    }

    fn limits(min: u32, max: u32) -> Buckets {
        Buckets { min: Some(min), max: Some(max), ..Buckets::default() }
    }

    #[test]
    fn the_lists_are_those_of_sd_scripts() {
        let small = list(&limits(256, 1024), square(1024));
        assert_eq!(small.len(), 25);
        assert_eq!((small[0], small[12], small[24]), ((256, 1024), (1024, 256), (1024, 1024)));
        assert!(small.iter().all(|size| size.0 == 1024 || size.1 == 1024));
        assert_eq!(list(&limits(256, 1024), square(512)).len(), 17);

        let upright: Vec<(u32, u32)> = [
            (512, &[1856, 1920, 1984, 2048][..]),
            (576, &[1664, 1728, 1792]),
            (640, &[1536, 1600]),
            (704, &[1408, 1472]),
            (768, &[1280, 1344]),
            (832, &[1216]),
            (896, &[1152]),
            (960, &[1088]),
        ]
        .into_iter()
        .flat_map(|(width, heights)| heights.iter().map(move |height| (width, *height)))
        .collect();
        let mut all: Vec<(u32, u32)> =
            upright.iter().flat_map(|(width, height)| [(*width, *height), (*height, *width)]).collect();
        all.push((1024, 1024));
        all.sort_unstable();
        assert_eq!(all.len(), 33);
        assert_eq!(list(&limits(512, 2048), square(1024)), all);
    }

    #[test]
    fn limits_that_are_left_out_follow_the_resolution() {
        assert_eq!(list(&Buckets::default(), square(1024)), list(&limits(512, 2048), square(1024)));
        assert_eq!(list(&Buckets::default(), square(512)), list(&limits(256, 1024), square(512)));
        let wide = Resolution { width: 1536, height: 640 };
        assert_eq!(list(&Buckets::default(), wide), list(&limits(320, 3072), wide));
        // Rounded to the step: down at the lower end, up at the upper one.
        assert_eq!(list(&limits(300, 1000), square(512)), list(&limits(256, 1024), square(512)));
    }

    #[test]
    fn every_bucket_is_whole_steps_and_no_larger_than_the_area() {
        for (step, side) in [(16, 256), (32, 500), (64, 1000), (64, 64), (128, 1536)] {
            let buckets = Buckets { step, ..Buckets::default() };
            for (width, height) in list(&buckets, square(side)) {
                assert!(width > 0 && width % step == 0 && height > 0 && height % step == 0);
                assert!(width * height <= side * side, "{width} × {height} of {side}");
            }
        }
    }

    #[test]
    fn an_image_covers_the_bucket_of_the_nearest_shape() {
        let parameters = EncodeImages::default();
        let cases = [
            // A camera's 3:2 and its transpose.
            ((6000, 4000), (1248, 832), (16, 0), (1216, 832)),
            ((4000, 6000), (832, 1248), (0, 16), (832, 1216)),
            // 16:9.
            ((1920, 1080), (1365, 768), (10, 0), (1344, 768)),
            // A bucket as it is, and a square of another size.
            ((1344, 768), (1344, 768), (0, 0), (1344, 768)),
            ((500, 500), (1024, 1024), (0, 0), (1024, 1024)),
            // Beyond the last shape.
            ((10_000, 100), (51_200, 512), (24_576, 0), (2048, 512)),
        ];
        for (image, resized, crop, bucket) in cases {
            assert_eq!(
                place(image.0, image.1, &parameters),
                Ok(Placement { image, resized, crop, bucket }),
                "{image:?}"
            );
        }
    }

    #[test]
    fn of_two_shapes_equally_near_the_first_is_taken() {
        assert_eq!(nearest((768, 1024), &[(512, 1024), (1024, 1024)]), (512, 1024));
    }

    #[test]
    fn without_buckets_every_image_covers_the_resolution() {
        let parameters = parameters(Resolution { width: 512, height: 768 }, None);
        let placement = place(1000, 1001, &parameters).unwrap();
        assert_eq!((placement.resized, placement.crop, placement.bucket), ((767, 768), (127, 0), (512, 768)));
        let placement = place(100, 1000, &parameters).unwrap();
        assert_eq!((placement.resized, placement.crop, placement.bucket), ((512, 5120), (0, 2176), (512, 768)));
    }

    #[test]
    fn what_is_scaled_always_covers_its_bucket() {
        for parameters in [EncodeImages::default(), parameters(square(512), None)] {
            for width in (16..6000).step_by(37) {
                for height in (16..6000).step_by(211) {
                    let Placement { resized, crop, bucket, .. } = place(width, height, &parameters).unwrap();
                    assert!(resized.0 >= bucket.0 && resized.1 >= bucket.1, "{width} × {height}");
                    assert!(resized.0 == bucket.0 || resized.1 == bucket.1, "{width} × {height}");
                    assert_eq!(crop, ((resized.0 - bucket.0) / 2, (resized.1 - bucket.1) / 2));
                }
            }
        }
    }

    #[test]
    fn without_upscaling_a_small_image_keeps_its_size() {
        let parameters = parameters(square(1024), Some(Buckets { upscale: false, ..Buckets::default() }));
        let placement = place(700, 500, &parameters).unwrap();
        assert_eq!((placement.resized, placement.crop, placement.bucket), ((700, 500), (30, 26), (640, 448)));
        assert!(placement.enlargement() <= 1.0);
        // Exactly the area: not scaled.
        assert_eq!(place(2048, 512, &parameters).unwrap().resized, (2048, 512));
    }

    #[test]
    fn without_upscaling_a_large_image_shrinks_to_the_area() {
        let parameters = parameters(square(1024), Some(Buckets { upscale: false, ..Buckets::default() }));
        // Width sqrt(1048576 · 1.5) = 1254.2, height 836.1. From the width: 1216 × 768, ratio 1.583. From the height:
        // 832, then 1248 down to 1216, ratio 1.462, which is nearer to 1.5.
        let placement = place(6000, 4000, &parameters).unwrap();
        assert_eq!((placement.resized, placement.bucket), ((1248, 832), (1216, 832)));
        // Ratio 0.6667. From the width: 836 down to 832, 1248 down to 1216, 0.684. From the height: 1216, 811 down to 768, 0.632.
        let placement = place(4000, 6000, &parameters).unwrap();
        assert_eq!((placement.resized, placement.bucket), ((832, 1248), (832, 1216)));
        assert_eq!(place(3000, 3000, &parameters).unwrap().bucket, (1024, 1024));
    }

    #[test]
    fn an_image_shorter_than_a_step_is_named_if_it_may_not_be_enlarged() {
        let parameters = parameters(square(1024), Some(Buckets { upscale: false, ..Buckets::default() }));
        let fault = ImageFault::SmallerThanStep { width: 60, height: 900, step: 64 };
        assert_eq!(place(60, 900, &parameters), Err(fault));
        assert!(matches!(place(200_000, 64, &parameters), Err(ImageFault::SmallerThanStep { .. })));
        assert!(place(64, 64, &parameters).is_ok());
    }

    #[test]
    fn enlargement_and_loss_are_told() {
        let placement = place(400, 400, &EncodeImages::default()).unwrap();
        assert!((placement.enlargement() - 2.56).abs() < 1e-9 && placement.kept() == 1.0);
        let placement = place(10_000, 100, &EncodeImages::default()).unwrap();
        assert!((placement.kept() - 0.04).abs() < 1e-9);
    }
}
