//! What a data set is like, and what in it may surprise: for people, before anything is trained.

use super::error::some_of;
use super::items::{Items, Made};
use super::scan::Scan;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Tokens that CLIP reads at most, with those for start and end.
pub const CLIP_TOKENS: usize = 77;

/// How long a text is to the encoders' tokenizers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCount {
    /// CLIP's tokens before anything is cut off, with those for start and end.
    pub clip: usize,
    /// T5's tokens before anything is cut off, with that for the end.
    pub t5: usize,
    /// T5's tokens that stand for something that it has no token for.
    pub unknown_t5: usize,
}

/// What [`DataReport::count_tokens`] finds. Names are ids, sorted, each with the highest count of its texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenReport {
    /// T5's tokens that are used.
    pub t5_limit: usize,
    /// Items with a text beyond [`CLIP_TOKENS`]; what is beyond, CLIP never sees.
    pub over_clip: Vec<(String, usize)>,
    /// Items with a text beyond `t5_limit`; what is beyond, T5 never sees.
    pub over_t5: Vec<(String, usize)>,
    /// Items with a text in which T5 has no token for something.
    pub unknown_t5: Vec<(String, usize)>,
}

/// Three images' sizes, (width, height) in pixels, chosen by their areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The smallest.
    pub min: (u32, u32),
    /// The one in the middle; of an even number, the larger of the two.
    pub median: (u32, u32),
    /// The largest.
    pub max: (u32, u32),
}

/// What a data set is like. Names are ids, sorted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataReport {
    /// Images.
    pub images: usize,
    /// Different texts.
    pub texts: usize,
    /// Images that are seen in an epoch, with their repeats.
    pub repeats: u64,
    /// The most repeats that an image has.
    pub most_repeats: u32,
    /// Regularisation images.
    pub regularisation: usize,
    /// How often these are seen in an epoch, with their repeats.
    pub regularisation_repeats: u64,
    /// The smallest and the largest weight that images have, if they differ or are not 1.
    pub weights: Option<(f64, f64)>,
    /// Images with a mask.
    pub masks: usize,
    /// Images that are trained mirrored too.
    pub flipped: usize,
    /// None without images.
    pub sizes: Option<Sizes>,
    /// Items without a caption file.
    pub no_caption: Vec<String>,
    /// Items whose caption file has no text.
    pub empty_caption: Vec<String>,
    /// Items whose caption file has text after the line that is used.
    pub further_lines: Vec<String>,
    /// Items whose image files are equal byte for byte, in groups of two and more.
    pub duplicates: Vec<Vec<String>>,
    /// Files that nothing is made of.
    pub unused: Vec<String>,
    /// Lengths of texts, if they were counted.
    pub tokens: Option<TokenReport>,
}

impl DataReport {
    /// All but the lengths of texts.
    pub fn new(made: &Made, scan: &Scan) -> Self {
        let items = made.items.as_slice();
        let mut texts: HashSet<&String> = HashSet::with_capacity(items.len());
        texts.extend(items.iter().flat_map(|item| &item.texts));
        let mut sizes: Vec<(u32, u32)> = items.iter().map(|item| (item.width, item.height)).collect();
        sizes.sort_unstable_by_key(|(width, height)| (u64::from(*width) * u64::from(*height), *width));
        // Nearly all are different: only of those that are not there is a list.
        let (mut first, mut equal) = (HashMap::with_capacity(items.len()), BTreeMap::<&str, Vec<String>>::new());
        for item in items {
            if let Some(first) = first.insert(item.image.as_str(), item.id.as_str()) {
                let ids = equal.entry(&item.image).or_insert_with(|| vec![first.to_owned()]);
                ids.push(item.id.clone());
            }
        }
        let mut duplicates: Vec<Vec<String>> = equal.into_values().collect();
        duplicates.sort_unstable();
        let regularisation = || items.iter().filter(|item| item.regularisation);
        let weights = items.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), item| {
            (least.min(item.weight), most.max(item.weight))
        });
        Self {
            images: items.len(),
            texts: texts.len(),
            repeats: items.iter().map(|item| u64::from(item.repeats)).sum(),
            most_repeats: items.iter().map(|item| item.repeats).max().unwrap_or(0),
            regularisation: regularisation().count(),
            regularisation_repeats: regularisation().map(|item| u64::from(item.repeats)).sum(),
            weights: (!items.is_empty() && weights != (1.0, 1.0)).then_some(weights),
            masks: items.iter().filter(|item| item.mask.is_some()).count(),
            flipped: items.iter().filter(|item| item.flip).count(),
            sizes: match (sizes.first(), sizes.get(sizes.len() / 2), sizes.last()) {
                (Some(min), Some(median), Some(max)) => Some(Sizes { min: *min, median: *median, max: *max }),
                _ => None,
            },
            no_caption: made.no_caption.clone(),
            empty_caption: made.empty_caption.clone(),
            further_lines: made.further_lines.clone(),
            duplicates,
            unused: scan.unused.clone(),
            tokens: None,
        }
    }

    /// Adds the lengths of texts. `count` tells the length of one; T5's texts are cut to `t5_limit` tokens.
    pub fn count_tokens(&mut self, items: &Items, t5_limit: usize, mut count: impl FnMut(&str) -> TokenCount) {
        let mut report = TokenReport { t5_limit, over_clip: Vec::new(), over_t5: Vec::new(), unknown_t5: Vec::new() };
        for item in items.as_slice() {
            let worst = item.texts.iter().fold(TokenCount::default(), |worst, text| {
                let TokenCount { clip, t5, unknown_t5 } = count(text);
                TokenCount {
                    clip: worst.clip.max(clip),
                    t5: worst.t5.max(t5),
                    unknown_t5: worst.unknown_t5.max(unknown_t5),
                }
            });
            let TokenReport { over_clip, over_t5, unknown_t5, .. } = &mut report;
            for (list, tokens, limit) in
                [(over_clip, worst.clip, CLIP_TOKENS), (over_t5, worst.t5, t5_limit), (unknown_t5, worst.unknown_t5, 0)]
            {
                if tokens > limit {
                    list.push((item.id.clone(), tokens));
                }
            }
        }
        self.tokens = Some(report);
    }

    /// What there is to say, as labels and values.
    pub fn lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            ("images".to_owned(), thousands(self.images as u64)),
            ("texts".to_owned(), format!("{} different", thousands(self.texts as u64))),
        ];
        let most = if self.most_repeats > 1 {
            format!(", one image up to {} times", self.most_repeats)
        } else {
            String::new()
        };
        lines.push(("an epoch".to_owned(), format!("{} images{most}", thousands(self.repeats))));
        if self.regularisation > 0 {
            let (images, turns) = (thousands(self.regularisation as u64), thousands(self.regularisation_repeats));
            lines.push(("regularisation".to_owned(), format!("{images} of the images, {turns} of an epoch")));
        }
        if let Some((least, most)) = self.weights {
            lines.push(("weights in the loss".to_owned(), format!("{least} to {most}")));
        }
        for (label, count) in [("with a mask", self.masks), ("mirrored too", self.flipped)] {
            if count > 0 {
                lines.push((label.to_owned(), format!("{} of the images", thousands(count as u64))));
            }
        }
        if let Some(Sizes { min, median, max }) = self.sizes {
            lines.push(("sizes".to_owned(), format!("{} to {}, median {}", size(min), size(max), size(median))));
        }
        let mut list = |label: &str, names: &[String]| {
            if !names.is_empty() {
                lines.push((label.to_owned(), format!("{}: {}", thousands(names.len() as u64), some_of(names))));
            }
        };
        list("no caption", &self.no_caption);
        list("empty captions", &self.empty_caption);
        list("only the first line used", &self.further_lines);
        let groups: Vec<String> = self.duplicates.iter().map(|ids| format!("({})", some_of(ids))).collect();
        list("equal images", &groups);
        list("unused files", &self.unused);
        if let Some(tokens) = &self.tokens {
            let counted = |names: &[(String, usize)]| -> Vec<String> {
                names.iter().map(|(id, tokens)| format!("{id} ({tokens})")).collect()
            };
            list(&format!("over {CLIP_TOKENS} CLIP tokens"), &counted(&tokens.over_clip));
            list(&format!("over {} T5 tokens", tokens.t5_limit), &counted(&tokens.over_t5));
            list("unknown to T5", &counted(&tokens.unknown_t5));
        }
        lines
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        for (index, (label, value)) in lines.iter().enumerate() {
            let end = if index + 1 < lines.len() { "\n" } else { "" };
            write!(formatter, "{label:width$}  {value}{end}")?;
        }
        Ok(())
    }
}

fn size((width, height): (u32, u32)) -> String {
    format!("{width} × {height} ({:.2} MP)", f64::from(width) * f64::from(height) / 1e6)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::super::items::{Item, Mask};
    use super::*;

    fn item(id: &str, image: &str, size: (u32, u32), repeats: u32, texts: &[&str]) -> Item {
        Item {
            id: id.to_owned(),
            image: image.to_owned(),
            width: size.0,
            height: size.1,
            repeats,
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..Item::default()
        }
    }

    fn report() -> (DataReport, Items) {
        let items = Items::from(vec![
            item("a.png", "01", (640, 480), 1, &["a dog", "dog, a"]),
            item("b.png", "02", (4000, 3000), 1000, &["a dog"]),
            item("c.png", "01", (640, 480), 10, &["a very long text"]),
            item("d.png", "03", (1024, 1024), 10, &["灯台"]),
        ]);
        let made = Made { items: items.clone(), no_caption: vec!["b.png".to_owned()], ..Made::default() };
        let unused = (0..12).map(|index| format!("{index:02}.md")).collect();
        (DataReport::new(&made, &Scan { unused, ..Scan::default() }), items)
    }

    fn count(text: &str) -> TokenCount {
        TokenCount { clip: text.len() * 6, t5: text.len() * 2, unknown_t5: usize::from(!text.is_ascii()) }
    }

    #[test]
    fn everything_is_counted_once() {
        let (mut report, items) = report();
        report.count_tokens(&items, 20, count);
        assert_eq!((report.images, report.texts, report.repeats, report.most_repeats), (4, 4, 1021, 1000));
        assert_eq!(report.sizes, Some(Sizes { min: (640, 480), median: (1024, 1024), max: (4000, 3000) }));
        assert_eq!(report.duplicates, [["a.png", "c.png"]]);
        let tokens = report.tokens.unwrap();
        assert_eq!(tokens.over_clip, [("c.png".to_owned(), 96)]);
        assert_eq!(tokens.over_t5, [("c.png".to_owned(), 32)]);
        assert_eq!(tokens.unknown_t5, [("d.png".to_owned(), 1)]);
    }

    #[test]
    fn the_text_is_aligned_and_short() {
        let (mut report, items) = report();
        report.count_tokens(&items, 20, count);
        let expected = "\
images               4
texts                4 different
an epoch             1,021 images, one image up to 1000 times
sizes                640 × 480 (0.31 MP) to 4000 × 3000 (12.00 MP), median 1024 × 1024 (1.05 MP)
no caption           1: b.png
equal images         1: (a.png, c.png)
unused files         12: 00.md, 01.md, 02.md, 03.md, 04.md and 7 more
over 77 CLIP tokens  1: c.png (96)
over 20 T5 tokens    1: c.png (32)
unknown to T5        1: d.png (1)";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn what_is_special_about_images_is_counted() {
        let plain = item("a.png", "01", (640, 480), 4, &["a dog"]);
        let class = Item { regularisation: true, weight: 0.5, ..item("b.png", "02", (640, 480), 3, &["a dog"]) };
        let items = Items::from(vec![plain, Item { flip: true, mask: Some(Mask::Alpha), ..class }]);
        let report = DataReport::new(&Made { items, ..Made::default() }, &Scan::default());
        let expected = "\
images               2
texts                1 different
an epoch             7 images, one image up to 4 times
regularisation       1 of the images, 3 of an epoch
weights in the loss  0.5 to 1
with a mask          1 of the images
mirrored too         1 of the images
sizes                640 × 480 (0.31 MP) to 640 × 480 (0.31 MP), median 640 × 480 (0.31 MP)";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn nothing_at_all_is_reported_too() {
        let report = DataReport::new(&Made::default(), &Scan::default());
        assert_eq!(report.sizes, None);
        assert!(report.to_string().starts_with("images    0\n"));
    }

    #[test]
    fn numbers_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
