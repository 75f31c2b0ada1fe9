//! What a pipeline may say about encoding images.

use crate::{precision::Precision, problem::Problem};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Scales every image to cover its bucket, crops what stands over, and encodes it with the VAE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeImages {
    /// The `Captions` stage whose images are encoded; may be left out when there is just one.
    pub captions: Option<String>,
    /// The size that images are trained at. With buckets only its area counts. 1024 by default, which SD3 was made for.
    pub resolution: Resolution,
    /// Sizes at which images are trained beside `resolution`: an epoch sees each image once at each of them, as if it lay in a folder
    /// for each. None by default. An image that is not enlarged and comes to lie alike at two of them is seen once for both.
    pub further_resolutions: Vec<Resolution>,
    /// Sizes of about that area in several shapes, so that little is cropped off. On by default; `None` crops every image to
    /// `resolution`.
    pub buckets: Option<Buckets>,
    /// Images that go through the VAE at once. Changes no result. 1 by default: the VAE is the largest need of memory.
    pub batch: u32,
    /// The type that the VAE computes in. `F32` by default: it costs seconds once, and its rounding would stay in the data.
    pub precision: Precision,
}

impl Default for EncodeImages {
    fn default() -> Self {
        Self {
            captions: None,
            resolution: Resolution { width: 1024, height: 1024 },
            further_resolutions: Vec::new(),
            buckets: Some(Buckets::default()),
            batch: 1,
            precision: Precision::F32,
        }
    }
}

/// Sizes in pixels that images are sorted into by their shapes. All of a training batch have one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Buckets {
    /// All sides are multiples of it. 64 by default; smaller steps crop less and make more, emptier buckets.
    pub step: u32,
    /// The shortest side, rounded down to the step. Half of the resolution's shorter side by default.
    pub min: Option<u32>,
    /// The longest side, rounded up to the step. Twice the resolution's longer side by default, which makes with `min` shapes
    /// up to 4:1. (sd-scripts' default of 1024 shrinks every image that is not square.)
    pub max: Option<u32>,
    /// Enlarges images that are smaller than their bucket. `true` by default. `false` leaves them at their size, cropped to the
    /// step, in a bucket of their own; `min` and `max` then have no meaning.
    pub upscale: bool,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { step: 64, min: None, max: None, upscale: true }
    }
}

/// A size in pixels, written as one number if it is a square, or as `(width, height)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Resolution {
    /// The shorter side.
    pub fn shorter(self) -> u32 {
        self.width.min(self.height)
    }

    /// The longer side.
    pub fn longer(self) -> u32 {
        self.width.max(self.height)
    }

    /// Width times height.
    pub fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl Serialize for Resolution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.width == self.height {
            serializer.serialize_u32(self.width)
        } else {
            (self.width, self.height).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Resolution {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Resolution;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a side in pixels, such as 1024, or (width, height)")
            }

            fn visit_u64<E: Error>(self, side: u64) -> Result<Resolution, E> {
                let side = u32::try_from(side).map_err(|_| E::custom(format_args!("{side} pixels are too many")))?;
                Ok(Resolution { width: side, height: side })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<Resolution, A::Error> {
                let width = sides.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let height = sides.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
                Ok(Resolution { width, height })
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl EncodeImages {
    /// Every size at which an image is trained, `resolution` first.
    pub fn resolutions(&self) -> impl Iterator<Item = Resolution> {
        [self.resolution].into_iter().chain(self.further_resolutions.iter().copied())
    }

    /// Values out of range, without a look at any file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, resolution) in self.resolutions().enumerate() {
            let path = match index {
                0 => "resolution".to_owned(),
                further => format!("further_resolutions[{}]", further - 1),
            };
            let Resolution { width, height } = resolution;
            if resolution.shorter() < 64 || resolution.longer() > 8192 {
                let message = format!("{width} × {height} is not from 64 to 8192");
                problems.push(Problem::new(path, message).hint("1024 is usual"));
            } else if self.resolutions().take(index).any(|other| other == resolution) {
                let message = format!("{width} × {height} is there twice");
                problems.push(Problem::new(path, message).hint("see images more often with `repeats`"));
            } else if self.buckets.is_none() && (width % 16 != 0 || height % 16 != 0) {
                let message = format!("{width} × {height} are not multiples of 16");
                problems.push(Problem::new(path, message).hint("SD3's patches are 16 pixels wide"));
            } else if let Some(buckets) = &self.buckets {
                buckets.problems(resolution, &mut problems);
            }
        }
        if self.batch == 0 {
            problems.push(Problem::new("batch", "0 images at once encode nothing").hint("1 or more"));
        }
        if self.precision == Precision::F16 {
            problems.push(Problem::new("precision", "the VAE may overflow in F16").hint("use F32 or Bf16"));
        }
        problems
    }
}

impl Buckets {
    fn problems(&self, resolution: Resolution, problems: &mut Vec<Problem>) {
        let mut add = |field: &str, message: String, hint: String| {
            problems.push(Problem::new(format!("buckets.{field}"), message).hint(hint));
        };
        let (step, shorter, longer) = (self.step, resolution.shorter(), resolution.longer());
        if step == 0 || !step.is_multiple_of(16) {
            add(
                "step",
                format!("{step} is not a multiple of 16"),
                "64 is usual; SD3's patches are 16 pixels wide".to_owned(),
            );
        } else if step > shorter {
            add("step", format!("{step} is more than the resolution, {shorter}"), "64 is usual".to_owned());
        } else if self.upscale {
            if let Some(min) = self.min
                && !(step..=shorter).contains(&min)
            {
                add(
                    "min",
                    format!("{min} is not from {step}, the step, to {shorter}, the resolution"),
                    format!("{} is usual", shorter / 2),
                );
            }
            if let Some(max) = self.max
                && !(longer..=4 * longer).contains(&max)
            {
                add(
                    "max",
                    format!("{max} is not from {longer}, the resolution, to {}", 4 * longer),
                    format!("{} is usual", 2 * longer),
                );
            }
        }
        for (field, value) in [("min", self.min), ("max", self.max)] {
            if value.is_some() && !self.upscale {
                add(field, "has no effect with upscale: false".to_owned(), "leave one of the two out".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<EncodeImages, ron::error::SpannedError> {
        ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME).from_str(text)
    }

    #[test]
    fn nothing_written_is_the_default() {
        assert_eq!(read("()").unwrap(), EncodeImages::default());
        assert_eq!(EncodeImages::default().problems(), []);
    }

    #[test]
    fn a_resolution_is_a_number_or_a_pair_and_is_written_so_that_it_reads_back() {
        for (text, width, height, written) in
            [("768", 768, 768, "768"), ("(768, 1344)", 768, 1344, "(768,1344)"), ("(768, 768)", 768, 768, "768")]
        {
            let parameters = read(&format!("(resolution: {text})")).unwrap();
            assert_eq!(parameters.resolution, Resolution { width, height });
            assert_eq!(ron::to_string(&parameters.resolution).unwrap(), written);
            let whole = ron::to_string(&parameters).unwrap();
            assert_eq!(ron::from_str::<EncodeImages>(&whole).unwrap(), parameters, "{whole}");
            let json = serde_json::to_string(&parameters).unwrap();
            assert_eq!(serde_json::from_str::<EncodeImages>(&json).unwrap(), parameters, "{json}");
        }
    }

    #[test]
    fn a_resolution_of_another_form_is_refused_with_what_is_expected() {
        for text in ["\"1024\"", "-5", "1024.0", "()", "(1)", "(1, 2, 3)", "99999999999"] {
            assert!(read(&format!("(resolution: {text})")).is_err(), "{text}");
        }
        assert!(read("(resolution: -5)").unwrap_err().to_string().contains("(width, height)"));
    }

    #[test]
    fn buckets_can_be_turned_off_and_set_in_part() {
        assert_eq!(read("(buckets: None)").unwrap().buckets, None);
        let buckets = read("(buckets: (min: 256, upscale: true))").unwrap().buckets.unwrap();
        assert_eq!(buckets, Buckets { min: Some(256), ..Buckets::default() });
        assert!(read("(buckets: (minimum: 256))").is_err());
    }

    #[test]
    fn every_value_out_of_range_is_a_problem_with_its_path() {
        let paths = |text: &str| -> Vec<String> {
            let problems = read(text).unwrap().problems();
            assert!(problems.iter().all(|problem| problem.hint.is_some()));
            problems.into_iter().map(|problem| problem.path).collect()
        };
        assert_eq!(paths("(resolution: 0, batch: 0, precision: F16)"), ["resolution", "batch", "precision"]);
        assert_eq!(paths("(resolution: (1024, 9000))"), ["resolution"]);
        let further = ["further_resolutions[1]", "further_resolutions[2]"];
        assert_eq!(paths("(resolution: 512, further_resolutions: [768, 32, 512])"), further);
        assert_eq!(paths("(resolution: 512, further_resolutions: [1024, (768, 512)])"), [""; 0]);
        assert_eq!(paths("(resolution: 512, further_resolutions: [1024], buckets: (max: 1024))"), [""; 0]);
        assert_eq!(paths("(resolution: 512, further_resolutions: [1024], buckets: (max: 1000))"), ["buckets.max"]);
        assert_eq!(paths("(resolution: 1000, buckets: None)"), ["resolution"]);
        assert_eq!(paths("(resolution: 1000)"), [""; 0]);
        assert_eq!(paths("(buckets: (step: 0))"), ["buckets.step"]);
        assert_eq!(paths("(buckets: (step: 24))"), ["buckets.step"]);
        assert_eq!(paths("(resolution: 512, buckets: (step: 1024))"), ["buckets.step"]);
        assert_eq!(paths("(buckets: (min: 32, max: 512))"), ["buckets.min", "buckets.max"]);
        assert_eq!(paths("(resolution: (512, 1024), buckets: (min: 513))"), ["buckets.min"]);
        assert_eq!(paths("(buckets: (min: 512, max: 2048, upscale: false))"), ["buckets.min", "buckets.max"]);
        assert_eq!(paths("(buckets: (min: 512, max: 2048))"), [""; 0]);
    }
}
