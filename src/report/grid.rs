//! The samples of a run: checkpoints × prompts, a slider between two of them, and the pairs of samples and training pictures.

use super::{
    gather::{Gallery, Gathered, picture},
    html::{data_uri, escape, excerpt},
};
use sd3pipe_cache::Store;
use sd3pipe_stages::{
    captions::Item,
    report::{
        Checkpoint, Pair,
        picture::{Small, small_copies},
    },
};
use std::collections::{HashMap, HashSet};

/// Bytes of all galleries' pictures together, at most.
pub(super) const MOST_BYTES: usize = 9 << 20;
/// Sides that samples are shrunk to, in pixels: the largest at which they have room.
const SIDES: [u32; 7] = [768, 512, 384, 256, 192, 128, 96];
/// Bytes of a JPEG for each pixel, as a first guess.
const BYTES_OF_PIXEL: f64 = 0.25;
/// Pairs that are shown of a checkpoint and of a gallery, at most.
const PAIRS: usize = 3;
const MOST_PAIRS: usize = 36;
/// Pixels of a pair's longer side.
const PAIR_SIDE: u32 = 160;

/// Small copies of a gallery's images by row and column, and the rows that have room.
struct Copies {
    rows: Vec<usize>,
    images: HashMap<(usize, usize), Small>,
}

/// What a column shows: a prompt, from 1, and a seed.
fn columns(gallery: &Gallery) -> Vec<(usize, u64)> {
    let prompts = 1..=gallery.parameters.prompts.len();
    prompts.flat_map(|prompt| gallery.parameters.seeds.iter().map(move |seed| (prompt, *seed))).collect()
}

/// Copies of all samples, as large as have room together; where even the smallest have none, of fewer checkpoints.
fn copies(store: &Store, gallery: &Gallery, most: usize) -> Copies {
    let columns = columns(gallery);
    let place = |row: &str, prompt: usize, seed: u64| {
        let row = gallery.rows.iter().position(|name| name == row)?;
        Some((row, columns.iter().position(|column| *column == (prompt, seed))?))
    };
    let shots = || {
        let shots = gallery
            .shots
            .iter()
            .filter_map(|(name, digest)| Some((place(&name.row, name.prompt, name.seed)?, *digest)));
        shots.collect::<Vec<_>>()
    };
    let (width, height) = gallery.parameters.size;
    let shape = f64::from(width.min(height)) / f64::from(width.max(height).max(1));
    let guess = |side: u32, count: usize| count as f64 * f64::from(side).powi(2) * shape * BYTES_OF_PIXEL;
    let mut rows: Vec<usize> = (0..gallery.rows.len()).collect();
    loop {
        let shots: Vec<_> = shots().into_iter().filter(|((row, _), _)| rows.contains(row)).collect();
        for side in SIDES {
            if guess(side.min(width.max(height)), shots.len()) > most as f64 && side != SIDES[SIDES.len() - 1] {
                continue;
            }
            let read = |index: usize| store.read(&shots[index].1).ok();
            let made = small_copies(shots.len(), side, &read);
            let bytes: usize = made.iter().flatten().map(|copy| copy.jpeg.len()).sum();
            if bytes <= most {
                let images = shots.iter().zip(made).filter_map(|((place, _), copy)| Some((*place, copy?)));
                return Copies { rows, images: images.collect() };
            }
        }
        if rows.len() <= 1 {
            return Copies { rows: Vec::new(), images: HashMap::new() };
        }
        // Every other one, the first and the last among them.
        let last = rows.len() - 1;
        rows = rows
            .into_iter()
            .enumerate()
            .filter(|(index, _)| (last - index).is_multiple_of(2) || *index == 0)
            .map(|(_, row)| row)
            .collect();
    }
}

/// The grid, with the slider above it; its pictures take `most` bytes.
pub(super) fn section(store: &Store, gallery: &Gallery, most: usize) -> String {
    let Copies { rows, images } = copies(store, gallery, most);
    if images.is_empty() {
        return "<p>The samples are not in the store any more.</p>".to_owned();
    }
    let recommended = gallery.verdicts.as_ref().and_then(|verdicts| verdicts.recommended.as_deref());
    let (columns, several) = (columns(gallery), gallery.parameters.seeds.len() > 1);
    let label = |(prompt, seed): &(usize, u64)| {
        let text = gallery.parameters.prompts.get(prompt - 1).map_or("", String::as_str);
        excerpt(text, 200) + &if several { format!(" <small>seed {seed}</small>") } else { String::new() }
    };
    let heads: String = columns.iter().map(|column| format!("<th scope=\"col\">{}</th>", label(column))).collect();
    let cell = |row: usize, column: usize| match images.get(&(row, column)) {
        Some(copy) => format!(
            "<td><button type=\"button\" data-row=\"{row}\" data-shot=\"{column}\"><img src=\"{}\" width=\"{}\" height=\"{}\" \
             alt=\"{}, {}\"></button></td>",
            data_uri(&copy.jpeg),
            copy.size.0,
            copy.size.1,
            escape(&gallery.rows[row]),
            excerpt(gallery.parameters.prompts.get(columns[column].0 - 1).map_or("", String::as_str), 100),
        ),
        None => "<td><span class=\"gone\">not there any more</span></td>".to_owned(),
    };
    let line = |row: &usize| {
        let name = &gallery.rows[*row];
        let star = if recommended == Some(name) { "<small class=\"good\">recommended</small>" } else { "" };
        let cells: String = (0..columns.len()).map(|column| cell(*row, column)).collect();
        format!("<tr><th scope=\"row\">{}{star}</th>{cells}</tr>", escape(name))
    };
    let table: String = rows.iter().map(line).collect();
    let left_out = match gallery.rows.len() - rows.len() {
        0 => String::new(),
        more => format!(
            "<p class=\"aside\">{more} checkpoints have no room here; their samples lie in the folder of results.</p>"
        ),
    };
    let right =
        rows.iter().copied().find(|row| Some(gallery.rows[*row].as_str()) == recommended).or(rows.last().copied());
    let options = |chosen: Option<usize>| -> String {
        let option = |row: &usize| {
            let selected = if chosen == Some(*row) { " selected" } else { "" };
            format!("<option value=\"{row}\"{selected}>{}</option>", escape(&gallery.rows[*row]))
        };
        rows.iter().map(option).collect()
    };
    let shots: String = columns
        .iter()
        .enumerate()
        .map(|(index, (prompt, seed))| {
            let text = gallery.parameters.prompts.get(prompt - 1).map_or("", String::as_str);
            let seed = if several { format!(", seed {seed}") } else { String::new() };
            format!("<option value=\"{index}\">{}{seed}</option>", excerpt(text, 80))
        })
        .collect();
    format!(
        "<div class=\"gallery\"><div class=\"compare\"><div class=\"pick\">\
         <label>left <select class=\"left\">{}</select></label>\
         <label>right <select class=\"right\">{}</select></label>\
         <label>prompt <select class=\"shot\">{shots}</select></label></div>\
         <div class=\"frame\"><img class=\"under\" alt=\"\"><img class=\"over\" alt=\"\">\
         <i></i><b class=\"name-left\"></b><b class=\"name-right\"></b>\
         <input type=\"range\" min=\"0\" max=\"100\" value=\"50\" aria-label=\"where the left picture ends and the right one begins\"></div></div>\
         {left_out}<div class=\"wide\"><table class=\"grid\"><thead><tr><td></td>{heads}</tr></thead><tbody>{table}</tbody></table></div></div>",
        options(rows.first().copied()),
        options(right),
    )
}

/// The nearest pairs of samples and training pictures, by checkpoint.
pub(super) fn pairs(gathered: &Gathered<'_>, gallery: &Gallery) -> HashMap<String, String> {
    let (Some(verdicts), Some(data)) = (&gallery.verdicts, gallery.data.and_then(|data| gathered.data.get(data)))
    else {
        return HashMap::new();
    };
    let each = (MOST_PAIRS / verdicts.checkpoints.len().max(1)).clamp(1, PAIRS);
    let of = |checkpoint: &Checkpoint| -> Vec<Pair> { checkpoint.pairs.iter().take(each).cloned().collect() };
    let all: Vec<(String, Pair)> = verdicts
        .checkpoints
        .iter()
        .take(MOST_PAIRS)
        .flat_map(|checkpoint| of(checkpoint).into_iter().map(|pair| (checkpoint.name.clone(), pair)))
        .collect();
    let ids: HashSet<&str> = all.iter().map(|(_, pair)| pair.item.as_str()).collect();
    let items: HashMap<&str, &Item> =
        data.items.iter().filter(|item| ids.contains(item.id.as_str())).map(|item| (item.id.as_str(), item)).collect();
    let samples: HashMap<String, _> = gallery.shots.iter().map(|(shot, digest)| (shot.to_string(), *digest)).collect();
    let sample = |index: usize| gathered.store.read(samples.get(&all[index].1.sample)?).ok();
    let trained = |index: usize| picture(&data.files, items.get(all[index].1.item.as_str())?);
    let (drawn, trained) = (small_copies(all.len(), PAIR_SIDE, &sample), small_copies(all.len(), PAIR_SIDE, &trained));
    let mut shown: HashMap<String, String> = HashMap::new();
    for (((name, pair), drawn), trained) in all.iter().zip(drawn).zip(trained) {
        let image = |copy: Option<Small>, alt: &str| match copy {
            Some(Small { jpeg, size: (width, height) }) => {
                format!(
                    "<img src=\"{}\" width=\"{width}\" height=\"{height}\" alt=\"{}\">",
                    data_uri(&jpeg),
                    escape(alt)
                )
            }
            None => "<span class=\"gone\">changed or moved since</span>".to_owned(),
        };
        let bits = pair.bits.map_or(String::new(), |bits| format!(", {bits} of 63 bits"));
        let figure = format!(
            "<figure class=\"pair\">{}{}<figcaption>distance {:.2}{bits}<br>{} · {}</figcaption></figure>",
            image(drawn, &pair.sample),
            image(trained, &pair.item),
            pair.distance,
            excerpt(&pair.sample, 80),
            excerpt(&pair.item, 80),
        );
        shown.entry(name.clone()).or_default().push_str(&figure);
    }
    shown
}
