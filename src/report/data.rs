//! The data of a run: what there is of it, and what it looks like, bucket by bucket.

use super::{
    gather::{DataSet, picture},
    html::{data_uri, escape, excerpt},
};
use crate::cli::text::units;
use sd3pipe_stages::{
    captions::{Item, Items, items::Made, report::DataReport, scan::Scan},
    report::picture::small_copies,
};
use std::collections::HashMap;

/// Thumbnails of a data set at most.
const MOST: usize = 72;
/// Of a bucket, however few buckets there are.
const MOST_OF_BUCKET: usize = 24;
/// Pixels of their longer side.
const SIDE: u32 = 96;

/// A data set: numbers, and thumbnails by bucket.
pub(super) fn section(data: &DataSet) -> String {
    let made = Made { items: Items::from(data.items.clone()), ..Made::default() };
    let report = DataReport::new(&made, &Scan::default());
    let lines: String = report
        .lines()
        .into_iter()
        .map(|(label, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(&label), excerpt(&value, 400)))
        .collect();
    let each = (MOST / data.buckets.len().max(1)).clamp(1, MOST_OF_BUCKET);
    let items: HashMap<&str, &Item> = data.items.iter().map(|item| (item.id.as_str(), item)).collect();
    let buckets = data.buckets.iter().enumerate().map(|(index, ((width, height), ids))| {
        // Spread evenly over the names, so that folders are all seen.
        let shown: Vec<&Item> = match index < MOST {
            true => (0..each.min(ids.len()))
                .filter_map(|nth| items.get(ids[nth * ids.len() / each.min(ids.len())].as_str()).copied())
                .collect(),
            false => Vec::new(),
        };
        let more = match ids.len() - shown.len() {
            0 => String::new(),
            more => format!(" · {more} more"),
        };
        let head = format!("<h4>{width} × {height} <small>{}{more}</small></h4>", units(ids.len(), "pictures"));
        head + &format!("<div class=\"thumbs\">{}</div>", thumbnails(&shown, data))
    });
    format!("<dl>{lines}</dl>{}", buckets.collect::<String>())
}

fn thumbnails(items: &[&Item], data: &DataSet) -> String {
    let copies = small_copies(items.len(), SIDE, &|index| picture(&data.files, items[index]));
    let figure = |(item, copy): (&&Item, Option<sd3pipe_stages::report::picture::Small>)| {
        let caption = item.texts.first().map_or(String::new(), |text| excerpt(text, 300));
        let id = excerpt(&item.id, 200);
        match copy {
            Some(copy) => format!(
                "<img src=\"{}\" width=\"{}\" height=\"{}\" alt=\"{id}\" title=\"{id}: {caption}\">",
                data_uri(&copy.jpeg),
                copy.size.0,
                copy.size.1
            ),
            None => format!("<span class=\"gone\" title=\"{id}: {caption}\">changed or moved since</span>"),
        }
    };
    items.iter().zip(copies).map(figure).collect()
}
