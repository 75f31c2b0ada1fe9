//! From measurements to verdicts: thresholds, and what is said of them.

use super::{
    likeness::{Common, distance},
    measure::{Drawn, Measured, Row},
    recommend::recommend,
    verdict::{Checkpoint, Concern, Finding, Number, Pair, Verdict, Verdicts, mean_and_error},
};
use crate::train::validation::Report;

/// Paleness beyond the training pictures and the base: luminance less saturation goes from −1 to 1.
const PALE: f64 = 0.15;
/// The share of near-white pixels beyond theirs.
const WHITE: f64 = 0.15;
/// The share of the training pictures' detail.
const BLURRED: f64 = 0.7;
/// The share of what is usual between neighbours in the training set: a sample so near to one of its pictures is a copy.
const COPY: f64 = 0.3;
/// The same for one that is merely near.
const NEAR: f64 = 0.4;
/// The share of the way from the base's manner to the training set's.
const UNDER: f64 = 0.5;
/// By what share the held-out loss may lie above its lowest.
const RISEN: f64 = 0.03;
/// The share of samples that keep to their prompts, at least, with a good checkpoint.
const KEPT: f64 = 0.95;
/// Prompts with fewer can't be told apart by chance.
const FEWEST_PROMPTS: usize = 3;

/// Judges every checkpoint that was drawn with.
pub(super) fn judge(measured: Measured, reports: &[Report]) -> Verdicts {
    let base = measured.rows.iter().find(|row| row.epoch.is_none());
    let court = Court { measured: &measured, base, reports };
    let mut notes = measured.notes.clone();
    if base.is_none() {
        notes.push("the model as it was drew no samples to compare with; Sample(base: true) has it do so".to_owned());
    }
    let rows = measured.rows.iter().filter_map(|row| Some((row, row.epoch?)));
    let checkpoints: Vec<Checkpoint> = rows.map(|(row, epoch)| court.checkpoint(row, epoch)).collect();
    let (recommended, reasons) = recommend(&checkpoints);
    Verdicts { checkpoints, recommended, reasons, notes }
}

/// What checkpoints are judged by.
struct Court<'m> {
    measured: &'m Measured,
    base: Option<&'m Row>,
    reports: &'m [Report],
}

fn values(samples: &[Drawn], of: impl Fn(&Drawn) -> f64) -> Vec<f64> {
    samples.iter().map(of).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| mean_and_error(&values).0)
}

/// The worse of two findings: what is flagged first, what was not measured last.
fn worst(findings: impl IntoIterator<Item = Finding>) -> Finding {
    let rank = |finding: &Finding| match finding {
        Finding::Unmeasured => 0,
        Finding::Clear => 1,
        Finding::Unsure => 2,
        Finding::Flagged => 3,
    };
    findings.into_iter().max_by_key(rank).unwrap_or(Finding::Unmeasured)
}

impl Court<'_> {
    fn checkpoint(&self, row: &Row, epoch: u32) -> Checkpoint {
        let verdicts = vec![
            self.washed_out(row),
            self.blurred(row),
            self.copying(row),
            self.under_fitted(row),
            self.over_fitted(row, epoch),
        ];
        Checkpoint { name: row.name.clone(), samples: row.samples.len(), verdicts, pairs: self.pairs(row) }
    }

    fn washed_out(&self, row: &Row) -> Verdict {
        let looks = &self.measured.looks;
        let paleness = |look: &super::picture::Look| look.luminance - look.saturation;
        let base = || self.base.iter().flat_map(|base| &base.samples).map(|sample| &sample.look);
        let highest = |of: &dyn Fn(&super::picture::Look) -> f64| {
            let [trained, base] = [mean(looks.iter().map(of)), mean(base().map(of))];
            trained.into_iter().chain(base).reduce(f64::max)
        };
        let (Some(pale), Some(white)) = (highest(&paleness), highest(&|look| look.white)) else {
            return Verdict::unmeasured(Concern::WashedOut, "there is nothing to compare the samples with");
        };
        let excess = Number::mean(
            "paleness",
            &values(&row.samples, |sample| paleness(&sample.look) - pale),
            format!(
                "luminance less saturation, beyond the {pale:.2} of the training pictures or the base model, whichever is more"
            ),
        );
        let whites = Number::mean(
            "near-white",
            &values(&row.samples, |sample| sample.look.white - white),
            format!("share of near-white pixels, beyond their {:.0} %", 100.0 * white),
        );
        let plain = |name: &str, of: &dyn Fn(&super::picture::Look) -> f64| {
            let all = values(&row.samples, |sample| of(&sample.look));
            let theirs = |looks: Option<f64>| looks.map_or("not measured".to_owned(), |value| format!("{value:.2}"));
            let trained = theirs(mean(looks.iter().map(of)));
            let base = theirs(mean(base().map(of)));
            Number::mean(name, &all, format!("mean over samples; training pictures {trained}, base model {base}"))
        };
        Verdict {
            concern: Concern::WashedOut,
            finding: worst([excess.above(PALE), whites.above(WHITE)]),
            numbers: vec![
                excess,
                whites,
                plain("luminance", &|look| look.luminance),
                plain("saturation", &|look| look.saturation),
            ],
            threshold: format!(
                "paleness above {PALE} or near-white above {WHITE}: a style may be pale, so only what goes beyond the training \
                 pictures and the base model counts, and only by more than twice its standard error"
            ),
        }
    }

    /// In logarithms, as details are of very different sizes.
    fn blurred(&self, row: &Row) -> Verdict {
        let log = |detail: f64| detail.max(1e-6).ln();
        let Some(trained) = mean(self.measured.looks.iter().map(|look| log(look.detail))) else {
            return Verdict::unmeasured(Concern::Blurred, "there are no training pictures to compare the samples with");
        };
        let (value, error) = mean_and_error(&values(&row.samples, |sample| log(sample.look.detail) - trained));
        let logarithm = Number { error, ..Number::plain("", value, "") };
        let meaning = "edges and texture of the samples (root mean square of the Laplacian), as a share of the training pictures'";
        let detail =
            Number { error: error.map(|error| error * value.exp()), ..Number::plain("detail", value.exp(), meaning) };
        let mut numbers = vec![detail];
        let base = self.base.and_then(|base| mean(base.samples.iter().map(|sample| log(sample.look.detail) - trained)));
        numbers.extend(base.map(|base| Number::plain("of the base model", base.exp(), "the same of its samples")));
        Verdict {
            concern: Concern::Blurred,
            finding: logarithm.below(BLURRED.ln()),
            numbers,
            threshold: format!(
                "detail below {BLURRED}, by more than twice its standard error; it comes from too high a learning rate and from \
                 too little training alike, and prompts for plainer pictures than the training set's lower it too"
            ),
        }
    }

    fn copying(&self, row: &Row) -> Verdict {
        let Some(usual) = self.measured.usual.filter(|usual| *usual > 0.0) else {
            let reason = "it takes latents of samples and of two different training pictures";
            return Verdict::unmeasured(Concern::Copying, reason);
        };
        let distances = |row: &Row| -> Vec<f64> {
            row.samples.iter().filter_map(|sample| Some(sample.nearest.as_ref()?.distance / usual)).collect()
        };
        let found = distances(row);
        let Some(least) = found.iter().copied().reduce(f64::min) else {
            return Verdict::unmeasured(Concern::Copying, "the samples have no latents");
        };
        let copies = found.iter().filter(|distance| **distance < COPY).count();
        let near = found.iter().filter(|distance| **distance < NEAR).count();
        let mut numbers = vec![
            Number::plain("copies", copies as f64, format!("of {} samples", found.len())),
            Number::plain(
                "nearest",
                least,
                "the least distance of a sample's latents to a training picture's; 1 is what is usual between a training picture and \
                 the one nearest to it",
            ),
            Number::mean("distance", &found, "the mean of these distances"),
        ];
        if let Some(base) = self.base.map(distances).filter(|base| !base.is_empty()) {
            let mean = mean_and_error(&base).0;
            numbers.push(Number::plain("of the base model", mean, "the same of its samples, which copy nothing"));
        }
        let bits: Vec<f64> =
            row.samples.iter().filter_map(|sample| Some(f64::from(sample.nearest.as_ref()?.bits?))).collect();
        if let (Some(least), Some(usual)) = (bits.iter().copied().reduce(f64::min), self.measured.usual_bits) {
            let meaning = format!(
                "of 63 in which the perceptual hashes of a sample and its nearest picture differ at least; {usual} is usual in the training set"
            );
            numbers.push(Number::plain("bits", least, meaning));
        }
        // A single one may be chance, where training pictures are alike.
        let many = |count: usize| count > 0 && 4 * count >= found.len();
        Verdict {
            concern: Concern::Copying,
            finding: match (many(copies), many(near) || copies > 0) {
                (true, _) => Finding::Flagged,
                (false, true) => Finding::Unsure,
                (false, false) => Finding::Clear,
            },
            numbers,
            threshold: format!(
                "a quarter of the samples or more nearer than {COPY}; only prompts like the training captions bring copies to \
                 light, and a small set of very different pictures makes the usual distance large"
            ),
        }
    }

    /// How far the manner of each sample has gone from the base's for the same prompt and seed towards the training set's: the
    /// projection on the way between both. The base is at 0, the mean of the training pictures at 1.
    fn under_fitted(&self, row: &Row) -> Verdict {
        let (Some(manner), Some(base)) = (&self.measured.manner, self.base) else {
            let reason = "it takes samples of the base model and latents of two training pictures";
            return Verdict::unmeasured(Concern::UnderFitted, reason);
        };
        let starts: Vec<&[f64]> = base.samples.iter().filter_map(manner_of).collect();
        let start = Common::of(starts.into_iter());
        if start.means.len() != manner.means.len() {
            return Verdict::unmeasured(Concern::UnderFitted, "the base model's samples have no latents");
        }
        // A value in which all training pictures are equal would count for more than all others.
        let floor = manner.spreads.iter().sum::<f64>() / manner.spreads.len().max(1) as f64 * 0.05;
        let unit = |index: usize| manner.spreads[index].max(floor).max(1e-9);
        let way: Vec<f64> =
            (0..manner.means.len()).map(|index| (manner.means[index] - start.means[index]) / unit(index)).collect();
        let length: f64 = way.iter().map(|step| step * step).sum();
        let gone = |sample: &Drawn| {
            let of_base = base.samples.iter().find(|other| other.shot == sample.shot).and_then(manner_of)?;
            let steps = manner_of(sample)?.iter().zip(of_base).enumerate();
            Some(steps.map(|(index, (now, then))| (now - then) / unit(index) * way[index]).sum::<f64>() / length)
        };
        let gone: Vec<f64> = row.samples.iter().filter_map(gone).collect();
        if gone.is_empty() || length == 0.0 {
            return Verdict::unmeasured(
                Concern::UnderFitted,
                "no sample has latents and one of the base model beside it",
            );
        }
        let off = |sample: &Drawn| {
            let squares = manner_of(sample)?.iter().zip(&manner.means).enumerate();
            let sum: f64 = squares.map(|(index, (now, mean))| ((now - mean) / unit(index)).powi(2)).sum();
            Some((sum / manner.means.len() as f64).sqrt())
        };
        let off: Vec<f64> = row.samples.iter().filter_map(off).collect();
        let progress = Number::mean(
            "way to the style",
            &gone,
            "how far the samples have gone from the base model's manner, 0, to the training pictures', 1, by the covariances of \
             latents and of their differences",
        );
        Verdict {
            concern: Concern::UnderFitted,
            finding: progress.below(UNDER),
            numbers: vec![
                progress,
                Number::mean(
                    STRAY,
                    &off,
                    "how far a sample's manner is from the training pictures' mean; that of one of them is about 1",
                ),
            ],
            threshold: format!(
                "less than {UNDER} of the way, by more than twice its standard error; prompts for other things than the \
                 training set shows never go all of it"
            ),
        }
    }

    fn over_fitted(&self, row: &Row, epoch: u32) -> Verdict {
        let (mut numbers, mut findings, mut thresholds) = (Vec::new(), Vec::new(), Vec::new());
        if let Some((number, finding)) = self.held_out(epoch) {
            numbers.extend(number);
            findings.push(finding);
            thresholds.push(format!("a held-out loss more than {:.0} % above its lowest", 100.0 * RISEN));
        }
        if let Some((number, finding)) = self.kept(row) {
            numbers.push(number);
            findings.push(finding);
            let share = 100.0 * KEPT;
            thresholds.push(format!(
                "so few samples that keep to their prompts that it would come about by chance less than one time in twenty \
                 if {share:.0} % did"
            ));
        }
        if self.reports.is_empty() {
            thresholds
                .push("the loss on held-out pictures is not measured: Train(validation: ()) has it so".to_owned());
        }
        Verdict { concern: Concern::OverFitted, finding: worst(findings), numbers, threshold: thresholds.join("; ") }
    }

    /// By what share the held-out loss lies above the lowest so far.
    fn held_out(&self, epoch: u32) -> Option<(Vec<Number>, Finding)> {
        let until = || self.reports.iter().filter(|report| report.epoch <= epoch);
        let held_out = |report: &&Report| report.leading().held_out.mean;
        let now = until().max_by_key(|report| report.epoch)?;
        let best = until().min_by(|one, other| held_out(one).total_cmp(&held_out(other)))?;
        let risen = Number::plain(
            "held-out loss above its lowest",
            held_out(&now) / held_out(&best).max(f64::MIN_POSITIVE) - 1.0,
            format!(
                "as a share: {:.4} after epoch {}, {:.4} after epoch {}, on {} pictures that are not trained on",
                held_out(&now),
                now.epoch,
                held_out(&best),
                best.epoch,
                now.leading().held_out.items
            ),
        );
        let seen = now.leading().seen.mean;
        let meaning = "on as many pictures that are trained on; it falls on when they are learnt by heart";
        let finding = match risen.value {
            share if share > RISEN => Finding::Flagged,
            share if share > RISEN / 3.0 => Finding::Unsure,
            _ => Finding::Clear,
        };
        Some((vec![risen, Number::plain("trained loss", seen, meaning)], finding))
    }

    /// The share of samples that are more like what the base drew for the same prompt than like what it drew for any other, from
    /// the same noise.
    fn kept(&self, row: &Row) -> Option<(Number, Finding)> {
        let of_base = |seed: u64| {
            let samples = self.base.iter().flat_map(|base| &base.samples);
            samples.filter(move |sample| sample.shot.1 == seed && sample.likeness.is_some())
        };
        let mut kept = Vec::new();
        for sample in &row.samples {
            let Some(layout) = sample.likeness.as_ref().map(|likeness| &likeness.layout) else { continue };
            if of_base(sample.shot.1).count() < FEWEST_PROMPTS {
                continue;
            }
            let far = |other: &Drawn| {
                let theirs = other.likeness.as_ref().map_or(&[][..], |likeness| &likeness.layout);
                distance(layout, theirs, &self.measured.spreads)
            };
            let nearest = of_base(sample.shot.1).min_by(|one, other| far(one).total_cmp(&far(other)));
            kept.push(nearest.is_some_and(|nearest| nearest.shot == sample.shot));
        }
        let (count, yes) = (kept.len(), kept.iter().filter(|kept| **kept).count());
        let number = Number::plain(
            "keep to their prompts",
            yes as f64 / count as f64,
            format!(
                "share of {count} samples that are more like the base model's for the same prompt than for any other"
            ),
        );
        let chance = at_most(yes, count, KEPT);
        let finding = match chance {
            chance if chance < 0.05 => Finding::Flagged,
            chance if chance < 0.1 => Finding::Unsure,
            _ => Finding::Clear,
        };
        (count > 0).then_some((number, finding))
    }

    fn pairs(&self, row: &Row) -> Vec<Pair> {
        let usual = self.measured.usual.unwrap_or(f64::NAN);
        let pair = |sample: &Drawn| {
            let nearest = sample.nearest.as_ref()?;
            let (item, bits) = (nearest.item.clone(), nearest.bits);
            Some(Pair { sample: sample.file.clone(), item, distance: nearest.distance / usual, bits })
        };
        let mut pairs: Vec<Pair> =
            row.samples.iter().filter_map(pair).filter(|pair| pair.distance.is_finite()).collect();
        pairs.sort_by(|one, other| one.distance.total_cmp(&other.distance));
        pairs
    }
}

/// The name of the number by which checkpoints are compared.
pub(super) const STRAY: &str = "distance from the style";

fn manner_of(sample: &Drawn) -> Option<&[f64]> {
    sample.likeness.as_ref().map(|likeness| &likeness.manner[..])
}

/// The probability of at most `yes` among `count` that are each so with `probability`.
fn at_most(yes: usize, count: usize, probability: f64) -> f64 {
    let (mut term, mut sum) = ((1.0 - probability).powi(count as i32), 0.0);
    for hits in 0..=yes.min(count) {
        sum += term;
        term *= (count - hits) as f64 / (hits + 1) as f64 * probability / (1.0 - probability);
    }
    sum
}
