//! Reads what there is of samples and training pictures, and measures it.

use super::{
    job::{Sources, VerdictsJob},
    likeness::{Common, Likeness, channel_spreads, distance},
    picture::{Look, at_most, look, perceptual_hash},
};
use crate::{
    action::Entry,
    captions::Item,
    images::{FLIPPED, LATENTS, bucket::place, decode, prepare::prepare},
    sample::{SAMPLE_LATENTS, ShotName},
    tensors,
};
use image::RgbImage;
use rayon::prelude::*;
use sd3pipe_cache::Digest;
use std::collections::{HashMap, HashSet};

/// So many training pictures at most are decoded, chosen by the hash of their bytes.
const MOST_DECODED: usize = 96;

/// So many training pictures' latents at most are compared with samples.
const MOST_COMPARED: usize = 4000;

/// Of so many of them at most the nearest neighbour is looked for, to know what is usual.
const MOST_NEIGHBOURS: usize = 1000;

/// Pixels of a picture at most that are measured.
const MOST_PIXELS: u64 = 1 << 20;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// What was drawn, by row, in the order of the sheet.
    pub rows: Vec<Row>,
    /// What the training pictures look like.
    pub looks: Vec<Look>,
    /// The spread of each channel over the training pictures' layouts.
    pub spreads: Vec<f64>,
    /// How the training pictures are drawn.
    pub manner: Option<Common>,
    /// What is usual between a training picture and its nearest neighbour: the median, in units of the channels' spreads.
    pub usual: Option<f64>,
    /// The same in bits of their perceptual hashes.
    pub usual_bits: Option<f64>,
    /// What could not be measured.
    pub notes: Vec<String>,
    /// Whether everything could be read.
    pub whole: bool,
}

/// The samples of one checkpoint.
#[derive(Debug)]
pub(super) struct Row {
    pub name: String,
    pub epoch: Option<u32>,
    pub samples: Vec<Drawn>,
}

/// One sample.
#[derive(Debug)]
pub(super) struct Drawn {
    pub file: String,
    /// Its prompt and seed.
    pub shot: (usize, u64),
    pub look: Look,
    pub hash: u64,
    pub likeness: Option<Likeness>,
    pub nearest: Option<Nearest>,
}

/// The training picture nearest to a sample.
#[derive(Clone, Debug)]
pub(super) struct Nearest {
    pub item: String,
    /// In units of the channels' spreads.
    pub distance: f64,
    pub bits: Option<u32>,
}

/// A training picture's latents.
struct Known<'j> {
    item: &'j Item,
    likeness: Likeness,
    /// Whether they are of the picture as it is, not mirrored.
    upright: bool,
}

impl VerdictsJob {
    /// Measures everything that can be read. What can't leaves a note.
    pub(super) fn measure(&self, sources: &Sources<'_>) -> Measured {
        let mut measured = Measured { whole: true, ..Measured::default() };
        let known = self.known(sources, &mut measured);
        let originals: Vec<&Known<'_>> = known.iter().filter(|known| known.upright).collect();
        let spreads = channel_spreads(originals.iter().map(|known| &known.likeness.layout[..]));
        if originals.len() > 1 {
            measured.manner = Some(Common::of(originals.iter().map(|known| &known.likeness.manner[..])));
        }

        let pixels = self.pixels();
        let mut hashes: HashMap<&str, u64> = HashMap::new();
        for (item, image) in self.decoded(&self.learnt(), pixels, sources) {
            measured.looks.push(look(&image));
            hashes.insert(&item.id, perceptual_hash(&image));
        }
        if measured.looks.is_empty() {
            measured.whole = false;
            measured.notes.push("no training picture could be read: the files were changed or moved since".to_owned());
        }

        self.draw_rows(pixels, sources, &mut measured);
        let samples = || measured.rows.iter().flat_map(|row| &row.samples);
        let without = samples().filter(|sample| sample.likeness.is_none()).count();
        let found: Vec<Option<(&Known<'_>, f64)>> = samples()
            .collect::<Vec<_>>()
            .par_iter()
            .map(|sample| nearest(&sample.likeness.as_ref()?.layout, known.iter(), &spreads))
            .collect();
        let unknown: HashSet<&str> = found.iter().flatten().map(|(known, _)| known.item.id.as_str()).collect();
        let unknown: Vec<&Item> = self
            .items
            .iter()
            .filter(|item| unknown.contains(item.id.as_str()) && !hashes.contains_key(item.id.as_str()))
            .collect();
        for (item, image) in self.decoded(&unknown, pixels, sources) {
            hashes.insert(&item.id, perceptual_hash(&image));
        }
        for (sample, found) in measured.rows.iter_mut().flat_map(|row| &mut row.samples).zip(found) {
            sample.nearest = found.map(|(known, distance)| Nearest {
                item: known.item.id.clone(),
                distance,
                bits: hashes.get(known.item.id.as_str()).map(|hash| (hash ^ sample.hash).count_ones()),
            });
        }
        if without > 0 {
            let note =
                format!("{without} of the samples have no latents that can be compared with the training pictures'");
            measured.notes.push(note);
        }
        let every = originals.len().div_ceil(MOST_NEIGHBOURS).max(1);
        let neighbours: Vec<(f64, Option<u32>)> = originals
            .par_iter()
            .step_by(every)
            .filter_map(|one| {
                let others = originals.iter().copied().filter(|other| other.item.image != one.item.image);
                let (other, distance) = nearest(&one.likeness.layout, others, &spreads)?;
                let [one, other] = [one, other].map(|known| hashes.get(known.item.id.as_str()).copied());
                Some((distance, one.zip(other).map(|(one, other)| (one ^ other).count_ones())))
            })
            .collect();
        measured.spreads = spreads.clone();
        measured.usual = median(neighbours.iter().map(|(distance, _)| *distance).collect());
        measured.usual_bits = median(neighbours.iter().filter_map(|(_, bits)| Some(f64::from((*bits)?))).collect());
        measured
    }

    /// The latents of what is trained on, each distinct picture once, and mirrored where it is trained so.
    fn known<'j>(&'j self, sources: &Sources<'_>, measured: &mut Measured) -> Vec<Known<'j>> {
        let items: HashMap<&str, &Item> = self.learnt().into_iter().map(|item| (item.id.as_str(), item)).collect();
        let mut seen: HashSet<Digest> = HashSet::new();
        let entries = self.latents.entries.iter().filter(|entry| [LATENTS, FLIPPED].contains(&entry.role.as_str()));
        let mut entries: Vec<_> = entries
            .filter_map(|entry| Some((entry, *items.get(entry.item.as_str())?)))
            .filter(|(entry, _)| seen.insert(entry.digest))
            .collect();
        let all = entries.len();
        if all > MOST_COMPARED {
            entries.sort_by_key(|(entry, _)| entry.digest);
            entries.truncate(MOST_COMPARED);
            measured
                .notes
                .push(format!("samples are compared with {MOST_COMPARED} of the {all} training pictures' latents"));
        }
        let read = |(entry, item): &(&Entry, &'j Item)| {
            let mut arrays = tensors::from_bytes(&sources.store.read(&entry.digest).ok()?).ok()?;
            let likeness = Likeness::of(&arrays.remove("mean")?)?;
            Some(Known { item, likeness, upright: entry.role == LATENTS })
        };
        let known: Vec<Known<'j>> = entries.par_iter().filter_map(read).collect();
        if known.len() < entries.len() {
            let lost = entries.len() - known.len();
            measured.whole = false;
            measured.notes.push(format!("the latents of {lost} training pictures are not in the store any more"));
        }
        known
    }

    /// What the style is learnt from: not regularisation images.
    fn learnt(&self) -> Vec<&Item> {
        self.items.iter().filter(|item| !item.regularisation).collect()
    }

    /// Some of the pictures as they are trained on, shrunk to `pixels`: those whose files are what they were.
    fn decoded<'j>(&self, items: &[&'j Item], pixels: u64, sources: &Sources<'_>) -> Vec<(&'j Item, RgbImage)> {
        let mut chosen = items.to_vec();
        // By chance, and the same ones each time.
        chosen.sort_by(|one, other| (&one.image, &one.id).cmp(&(&other.image, &other.id)));
        chosen.dedup_by(|one, other| one.image == other.image);
        chosen.truncate(MOST_DECODED);
        let decode = |item: &&'j Item| {
            let bytes = (sources.picture)(item)?;
            let (resolution, buckets) = (self.images.resolution, self.images.buckets.as_ref());
            let placement = place(item.width, item.height, resolution, buckets).ok()?;
            let rgb = prepare(&bytes, &placement, false).ok()?;
            let image = RgbImage::from_raw(placement.bucket.0, placement.bucket.1, rgb)?;
            Some((*item, at_most(image, pixels)))
        };
        chosen.par_iter().filter_map(decode).collect()
    }

    /// What samples and training pictures are shrunk to if they are larger, so that they compare: the smaller of both.
    fn pixels(&self) -> u64 {
        let samples = self.samples.entries.iter().filter_map(|entry| entry.size);
        let trained = self.latents.entries.iter().filter_map(|entry| entry.size);
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        let mean = |sizes: Vec<u64>| sizes.iter().sum::<u64>() / (sizes.len() as u64).max(1);
        let [samples, trained] = [samples.map(pixels).collect(), trained.map(pixels).collect()].map(mean);
        samples.min(trained).clamp(1, MOST_PIXELS)
    }

    /// Measures the samples, row by row.
    fn draw_rows(&self, pixels: u64, sources: &Sources<'_>, measured: &mut Measured) {
        let latents: HashMap<&str, Digest> =
            self.samples.of(SAMPLE_LATENTS).map(|entry| (entry.item.as_str(), entry.digest)).collect();
        let images: Vec<_> = self.samples.of("image").collect();
        let drawn = images.par_iter().map(|entry| {
            let name = ShotName::parse(&entry.item)?;
            let image = decode::decode(&sources.store.read(&entry.digest).ok()?).ok()?;
            let image = at_most(image, pixels);
            let likeness = latents.get(entry.item.as_str()).and_then(|digest| {
                Likeness::of(&tensors::from_bytes(&sources.store.read(digest).ok()?).ok()?.remove("latents")?)
            });
            let (look, hash) = (look(&image), perceptual_hash(&image));
            let shot = (name.prompt, name.seed);
            Some((name, Drawn { file: entry.item.clone(), shot, look, hash, likeness, nearest: None }))
        });
        let drawn: Vec<_> = drawn.collect();
        let lost = drawn.iter().filter(|drawn| drawn.is_none()).count();
        if lost > 0 {
            measured.whole = false;
            measured.notes.push(format!("{lost} of the samples can't be read any more"));
        }
        for (name, sample) in drawn.into_iter().flatten() {
            match measured.rows.last_mut() {
                Some(row) if row.name == name.row => row.samples.push(sample),
                _ => measured.rows.push(Row { epoch: name.epoch(), name: name.row, samples: vec![sample] }),
            }
        }
    }
}

/// The picture whose layout is nearest.
fn nearest<'k, 'j>(
    layout: &[f32],
    known: impl Iterator<Item = &'k Known<'j>>,
    spreads: &[f64],
) -> Option<(&'k Known<'j>, f64)> {
    let distances = known.map(|known| (known, distance(layout, &known.likeness.layout, spreads)));
    distances.min_by(|(_, one), (_, other)| one.total_cmp(other))
}

/// The value in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
