//! The sizes of a training: resolution and buckets, as the stage that encodes images.

use super::{
    data::Data,
    reader::Reader,
    scope::{Said, Scope},
    text::{Bracket, Value},
};

/// The sizes of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    resolution: Said<(u32, u32)>,
    further: Vec<Said<(u32, u32)>>,
    buckets: Option<Buckets>,
}

#[derive(Clone, Debug, PartialEq)]
struct Buckets {
    enabled: String,
    step: Option<Said<u32>>,
    min: Option<Said<u32>>,
    max: Option<Said<u32>>,
    no_upscale: Said<bool>,
}

impl Sizes {
    pub fn read(reader: &mut Reader<'_>, scope: &Scope<'_>) -> Self {
        let said = scope.text(reader, "resolution");
        let sides: Vec<Option<u32>> = said.value.split(',').map(|side| side.trim().parse().ok()).collect();
        let value = match sides.as_slice() {
            [Some(side)] => (*side, *side),
            [Some(width), Some(height)] => (*width, *height),
            _ => {
                let message = if said.value.is_empty() {
                    "--resolution is missing".to_owned()
                } else {
                    format!("{} is no size", said.source)
                };
                reader.refuse(message, "--resolution 1024 or --resolution 1152,896");
                (1024, 1024)
            }
        };
        let enabled = scope.flag(reader, "enable_bucket");
        let buckets = Buckets {
            enabled: enabled.source,
            step: scope.number(reader, "bucket_reso_steps"),
            min: scope.number(reader, "min_bucket_reso"),
            max: scope.number(reader, "max_bucket_reso"),
            no_upscale: scope.flag(reader, "bucket_no_upscale"),
        };
        if !enabled.value {
            for name in ["bucket_reso_steps", "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale"] {
                reader.no_effect(name, "there is no --enable_bucket");
            }
        } else if buckets.no_upscale.value {
            for name in ["min_bucket_reso", "max_bucket_reso"] {
                reader.no_effect(name, "--bucket_no_upscale leaves pictures at their sizes");
            }
        }
        let resolution = Said { value, source: said.source };
        Self { resolution, further: Vec::new(), buckets: enabled.value.then_some(buckets) }
    }

    /// How many sizes there are.
    pub fn count(&self) -> u64 {
        1 + self.further.len() as u64
    }

    /// Adds the size of a dataset that has the same folders.
    pub fn add(&mut self, reader: &mut Reader<'_>, other: Self) {
        if self.resolution == other.resolution {
            let message = "two datasets have the same folders at the same resolution";
            return reader.refuse(message, "leave one out, and double its num_repeats");
        }
        if self.buckets.is_some() != other.buckets.is_some() {
            reader.refuse("enable_bucket is another in some of the datasets", "the same in all of them");
        }
        self.further.push(other.resolution);
    }

    /// Refuses another size for other folders.
    pub fn must_be(&self, reader: &mut Reader<'_>, other: &Self) {
        if self.resolution != other.resolution || self.buckets != other.buckets {
            let message = "the datasets have other folders at other sizes, and a training has one size or several for all of them";
            reader.refuse(message, "the same resolution and buckets in all of them, or one pipeline for each");
        }
    }
}

fn written((width, height): (u32, u32)) -> String {
    if width == height { width.to_string() } else { format!("({width}, {height})") }
}

/// The stage that encodes images.
pub fn stage(reader: &mut Reader<'_>, data: &Data) -> Bracket {
    let sizes = &data.sizes;
    let mut stage = Bracket::new("EncodeImages");
    stage.field("resolution", &written(sizes.resolution.value)).from(&*sizes.resolution.source);
    if !sizes.further.is_empty() {
        let list: Vec<String> = sizes.further.iter().map(|said| written(said.value)).collect();
        let source = "the other datasets, which have the same folders";
        stage.field("further_resolutions", &format!("[{}]", list.join(", "))).from(source);
    }
    match &sizes.buckets {
        None => {
            stage.field("buckets", &"None").from("without --enable_bucket").note(
                "Each picture is scaled to cover the size and cut at its centre. Leave `buckets` out to keep the aspect ratios.",
            );
        }
        Some(buckets) => {
            let several = sizes.count() > 1;
            if several {
                for said in [&buckets.min, &buckets.max].into_iter().flatten() {
                    reader.remark(format!(
                        "{}: left out: each of the sizes has its own shortest and longest side here.",
                        said.source
                    ));
                }
            }
            let bracket = buckets.bracket(sizes.resolution.value, several);
            stage.field("buckets", bracket).from(&*buckets.enabled);
        }
    }
    if let Some(batch) = reader.number::<u32>("vae_batch_size") {
        stage.field("batch", &batch).from(reader.written("vae_batch_size"));
    }
    stage
}

impl Buckets {
    fn bracket(&self, (width, height): (u32, u32), several: bool) -> Value {
        let mut bracket = Bracket::new("");
        if let Some(step) = &self.step {
            bracket.field("step", &step.value).from(&*step.source);
        }
        if self.no_upscale.value {
            bracket.field("upscale", &false).from(&*self.no_upscale.source);
        } else if !several {
            let or = |said: &Option<Said<u32>>, value, name: &str| {
                said.clone().unwrap_or_else(|| Said { value, source: format!("sd-scripts' default of --{name}") })
            };
            let (min, max) = (or(&self.min, 256, "min_bucket_reso"), or(&self.max, 1024, "max_bucket_reso"));
            bracket.field("min", &min.value).from(&*min.source);
            let longer = width.max(height);
            let added = bracket.field("max", &max.value).from(&*max.source);
            if max.value < 2 * longer {
                added.note(format!(
                    "No side is longer than that, so that pictures that are not square lose area. Without `max` it is {}.",
                    2 * longer
                ));
            }
        }
        bracket.into()
    }
}
