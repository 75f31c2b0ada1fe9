//! `sd3pipe data`: what the data is like, before anything is done with it.

use super::{Failure, Target, fetch, print, progress, text};
use crate::plan::{PlanError, Planner};
use clap::Args;
use sd3pipe_stages::{
    captions::{Items, report::DataReport},
    images::{
        alike::{self, Look},
        bucket::{Placement, place},
        parameters::{EncodeImages, Resolution},
    },
    stage::{Kind, Stage},
};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

#[derive(Debug, Args)]
pub(super) struct Data {
    #[command(flatten)]
    target: Target,
    /// Does not look for pictures that look alike: that decodes all of them.
    #[arg(long)]
    quick: bool,
    /// Prints JSON for programs.
    #[arg(long)]
    json: bool,
}

/// So many names are shown of each kind; --json prints all.
const MOST_SHOWN: usize = 20;

/// Names of pictures, each with what is wrong with it.
type Faults = Vec<(String, String)>;

/// All that is told of one captions stage.
#[derive(Serialize)]
struct Found {
    stage: String,
    report: DataReport,
    /// Pictures that look alike though their files differ; none if nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    alike: Option<Vec<Vec<String>>>,
    /// Pictures that can't be decoded, with the reason.
    broken: Faults,
    /// By the stages that encode them.
    buckets: BTreeMap<String, Spread>,
}

/// How pictures lie in their buckets.
#[derive(Default, Serialize)]
struct Spread {
    rows: Vec<Row>,
    /// Pictures that fit into none, with the reason.
    unfit: Faults,
}

/// One bucket.
#[derive(Serialize)]
struct Row {
    resolution: (u32, u32),
    bucket: (u32, u32),
    images: usize,
    /// Times that one of them is seen in an epoch.
    seen: u64,
    /// How much longer the sides of the one become that is enlarged most.
    enlarged: f64,
    /// The share of its area that is left of the one that is cropped most.
    kept: f64,
}

impl Data {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.resolve()?;
        // The lengths of texts are counted by the tokenizers alone.
        if let Some(file) = resolved.missing().find(|file| file.field.starts_with("model.tokenizers")) {
            return Err(fetch::not_there(file));
        }
        // Without the store, so that what was reported before is reported again.
        let mut planner = Planner::new(&resolved, None, Default::default(), BTreeMap::new());
        let mut all = Vec::new();
        for (index, stage) in resolved.stages.iter().enumerate() {
            if stage.stage.kind() == Kind::Captions {
                all.push(self.look(&mut planner, index).map_err(|error| Failure::plan(&stage.name, error))?);
            }
        }
        if self.json {
            let json = serde_json::to_string_pretty(&all).map_err(|error| Failure::Usage(error.to_string()))?;
            return print(&format!("{json}\n"));
        }
        let title = |found: &Found| if all.len() > 1 { format!("{}\n\n", found.stage) } else { String::new() };
        print(&all.iter().map(|found| title(found) + &shown(found)).collect::<Vec<_>>().join("\n"))
    }

    fn look(&self, planner: &mut Planner<'_>, index: usize) -> Result<Found, PlanError> {
        let resolved = planner.resolved;
        let data = planner.data(index)?;
        let (items, files) = (data.result.items(None)?, data.files_of_items());
        // Without a store nothing is kept, and there always is one.
        let report =
            planner.data_report(index)?.unwrap_or_else(|| DataReport::new(&Default::default(), &Default::default()));
        let (mut alike, mut broken) = (None, Vec::new());
        // Pictures that are elsewhere can't be looked at.
        if !self.quick && planner.data(index)?.elsewhere().next().is_none() {
            // Equal files are told already.
            let mut distinct: BTreeMap<&str, &str> = BTreeMap::new();
            for item in items.as_slice() {
                distinct.entry(&item.image).or_insert(&item.id);
            }
            let ids: Vec<&str> = distinct.into_values().collect();
            let paths: Vec<PathBuf> = ids.iter().filter_map(|id| Some(files.get(*id)?.image.clone())).collect();
            let (found, faults) = looks(&ids, &paths);
            let names = |group: &Vec<usize>| group.iter().map(|index| found[*index].0.to_owned()).collect();
            let looks: Vec<Look> = found.iter().map(|(_, look)| *look).collect();
            let mut groups: Vec<Vec<String>> = alike::groups(&looks).iter().map(names).collect();
            groups.iter_mut().for_each(|group| group.sort());
            groups.sort();
            (alike, broken) = (Some(groups), faults);
        }
        let reads = |name: &str| {
            let stage = &resolved.stages[resolved.index(name)?];
            stage.upstream.iter().any(|upstream| upstream.stage == index).then_some(&stage.stage)
        };
        let spread = |(name, stage): (&String, &Stage)| match (stage, reads(name)) {
            (Stage::EncodeImages(images), Some(_)) => Some((name.clone(), Spread::of(images, &items))),
            _ => None,
        };
        let buckets = resolved.pipeline.stages.iter().filter_map(spread).collect();
        Ok(Found { stage: resolved.stages[index].name.clone(), report, alike, broken, buckets })
    }
}

/// What pictures look like, and those of which that can't be told.
fn looks<'i>(ids: &[&'i str], paths: &[PathBuf]) -> (Vec<(&'i str, Look)>, Faults) {
    let progress = progress::new();
    progress.begin("comparing pictures", ids.len() as u64, "images");
    let looks = alike::look_at(paths, &|done| progress.advance(done, ""));
    progress.end();
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for (id, look) in ids.iter().zip(looks) {
        match look {
            Ok(look) => found.push((*id, look)),
            Err(reason) => faults.push(((*id).to_owned(), reason)),
        }
    }
    (found, faults)
}

impl Spread {
    fn of(images: &EncodeImages, items: &Items) -> Self {
        let mut spread = Self::default();
        let mut rows: BTreeMap<(usize, (u32, u32)), Row> = BTreeMap::new();
        for item in items.as_slice() {
            for (index, resolution) in images.resolutions().enumerate() {
                match place(item.width, item.height, resolution, images.buckets.as_ref()) {
                    Ok(placement) => {
                        let row =
                            rows.entry((index, placement.bucket)).or_insert_with(|| Row::new(resolution, &placement));
                        row.add(&placement, u64::from(item.repeats) * if item.flip { 2 } else { 1 });
                    }
                    Err(fault) => spread.unfit.push((item.id.clone(), fault.to_string())),
                }
            }
        }
        spread.rows = rows.into_values().collect();
        spread
    }
}

impl Row {
    fn new(Resolution { width, height }: Resolution, placement: &Placement) -> Self {
        Self { resolution: (width, height), bucket: placement.bucket, images: 0, seen: 0, enlarged: 0.0, kept: 1.0 }
    }

    fn add(&mut self, placement: &Placement, seen: u64) {
        self.images += 1;
        self.seen += seen;
        self.enlarged = self.enlarged.max(placement.enlargement());
        self.kept = self.kept.min(placement.kept());
    }
}

fn shown(found: &Found) -> String {
    let mut out = format!("{}\n", found.report);
    let mut list = |what: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            out += &format!("\n{what}: {}\n", text::count(lines.len()));
            out +=
                &lines.iter().take(MOST_SHOWN).map(|line| format!("  {}\n", text::one_line(line))).collect::<String>();
            if lines.len() > MOST_SHOWN {
                out += &format!("  and {} more; --json prints all\n", text::count(lines.len() - MOST_SHOWN));
            }
        }
    };
    list("look alike", found.alike.iter().flatten().map(|group| group.join(", ")).collect());
    list("can't be decoded", found.broken.iter().map(|(id, reason)| format!("{id}: {reason}")).collect());
    for (stage, spread) in &found.buckets {
        list(
            &format!("{stage}: fit into no bucket"),
            spread.unfit.iter().map(|(id, reason)| format!("{id}: {reason}")).collect(),
        );
    }
    for (stage, spread) in &found.buckets {
        let mut rows = vec![[stage.as_str(), "images", "an epoch", "enlarged", "kept"].map(str::to_owned).to_vec()];
        rows.extend(spread.rows.iter().map(|row| {
            let enlarged = if row.enlarged > 1.005 { format!("up to {:.2} ×", row.enlarged) } else { String::new() };
            let kept = if row.kept < 0.995 { format!("at least {:.0} %", row.kept * 100.0) } else { "all".to_owned() };
            let ((width, height), (across, down)) = (row.bucket, row.resolution);
            let several = spread.rows.iter().any(|other| other.resolution != row.resolution);
            let at = if several { format!(" at {across} × {down}") } else { String::new() };
            vec![
                format!("{width} × {height}{at}"),
                text::count(row.images),
                text::count(row.seen as usize),
                enlarged,
                kept,
            ]
        }));
        out += &format!("\n{}", text::table(&rows));
    }
    out
}
