//! The page of a grid: what differs between its points, what came of each, and their samples side by side.

use super::{
    chart::{Chart, Line, number},
    gather::{Gallery, Gathered},
    grid,
    html::escape,
    page::{badge, part},
    stages,
};
use crate::{
    cli::text::units,
    pipeline::base_and_point,
    plan::EpochLosses,
    run::{Compared, Comparison},
};
use indexmap::{IndexMap, IndexSet};
use sd3pipe_stages::{
    report::{Checkpoint, Finding, Verdicts, recommend},
    sample::ShotName,
};

/// What was drawn at a point of the grid, and the checkpoint that stands for it.
struct Drawn<'c> {
    point: &'c Compared,
    gallery: &'c Gallery,
    /// The row of the recommended checkpoint; where none is, of the last.
    row: &'c str,
    recommended: bool,
}

impl<'c> Drawn<'c> {
    fn of(point: &'c Compared, gallery: &'c Gallery) -> Option<Self> {
        let recommended = gallery.verdicts.as_ref().and_then(|verdicts| verdicts.recommended.as_deref());
        let last = gallery.shots.iter().rfind(|(shot, _)| shot.epoch().is_some()).map(|(shot, _)| shot.row.as_str());
        Some(Self { point, gallery, row: recommended.or(last)?, recommended: recommended.is_some() })
    }

    /// What it is called where points stand beside each other.
    fn label(&self) -> String {
        format!("{} · {}", in_words(&self.point.point), self.row)
    }

    fn checkpoint(&self) -> Option<&'c Checkpoint> {
        self.gallery.verdicts.as_ref()?.checkpoints.iter().find(|checkpoint| checkpoint.name == self.row)
    }
}

/// `learning_rate=1e-4,seed=1` with room between.
fn in_words(point: &str) -> String {
    point.replace(',', ", ")
}

/// The fields that a point chooses values of, with these.
fn choices(point: &str) -> impl Iterator<Item = (&str, &str)> {
    point.split(',').filter_map(|part| part.split_once('='))
}

/// All but the frame of the page.
pub(super) fn body<'c>(gathered: &'c Gathered<'_>, comparison: &'c Comparison) -> String {
    let of_point = |point: &'c Compared| {
        let drew = gathered.galleries.iter().filter(move |gallery| point.samples.contains(&gallery.name));
        drew.filter_map(move |gallery| Drawn::of(point, gallery))
    };
    let drawn: Vec<Drawn<'_>> = comparison.points.iter().flat_map(of_point).collect();
    let best = best(&drawn);
    let head = format!(
        "<header><h1>{}</h1><p>run #{} · <time data-seconds=\"{}\"></time> · a grid of {}</p></header>",
        escape(&comparison.pipeline),
        gathered.run.id,
        gathered.run.started,
        units(comparison.points.len(), "points")
    );
    let which = advice(comparison, &drawn, best.as_ref()) + &table(comparison, &drawn) + &reasons(&drawn);
    let mut body = head + &part("Which of them", None, &which);
    let groups = together(&drawn);
    for (stage, group) in &groups {
        let gallery = merged(group, best.as_ref().and_then(|(name, _)| name.as_deref()));
        let several = (groups.len() > 1).then_some(*stage);
        let section = grid::section(gathered.store, &gallery, grid::MOST_BYTES / groups.len());
        body += &part("Samples", several, &section);
    }
    let chart = losses(comparison);
    if !chart.is_empty() {
        body += &part("Losses", None, &chart);
    }
    body + &part("What was run", None, &stages::pipeline(gathered))
}

/// The checkpoint to begin with among those of all points, and why; nothing where points learnt from different pictures, which
/// are no common measure.
fn best(drawn: &[Drawn<'_>]) -> Option<(Option<String>, Vec<String>)> {
    let data = drawn.first()?.gallery.data?;
    if drawn.iter().any(|drawn| drawn.gallery.data != Some(data)) {
        return None;
    }
    let candidates: Vec<Checkpoint> = drawn
        .iter()
        .filter(|drawn| drawn.recommended)
        .filter_map(|drawn| Some(Checkpoint { name: drawn.label(), ..drawn.checkpoint()?.clone() }))
        .collect();
    match candidates.is_empty() {
        true => Some((None, vec!["no checkpoint of any point is recommended".to_owned()])),
        false => Some(recommend(&candidates)),
    }
}

fn advice(comparison: &Comparison, drawn: &[Drawn<'_>], best: Option<&(Option<String>, Vec<String>)>) -> String {
    let mut lines: Vec<String> = best.map_or(Vec::new(), |(_, reasons)| reasons.clone());
    let advice = match best {
        Some((Some(name), _)) => format!("<p class=\"advice good\">Begin with <strong>{}</strong>.</p>", escape(name)),
        Some((None, _)) => "<p class=\"advice bad\">No checkpoint can be recommended.</p>".to_owned(),
        None if drawn.is_empty() => String::new(),
        None => "<p>The points learnt from different pictures, or what they were compared with is gone: there is no common measure, \
                 so each has its own verdicts only.</p>"
            .to_owned(),
    };
    lines.extend(comparison.best().map(|(point, epoch)| {
        format!("the lowest loss on what is held out is that of {}, epoch {epoch}", in_words(&point.point))
    }));
    let lines: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    format!("{advice}<ul>{lines}</ul>")
}

/// A line for each point: what it chose, its losses, and what is said of its checkpoints.
fn table(comparison: &Comparison, drawn: &[Drawn<'_>]) -> String {
    let fields: IndexSet<&str> =
        comparison.points.iter().flat_map(|point| choices(&point.point)).map(|(field, _)| field).collect();
    let heads: String = fields.iter().map(|field| format!("<th>{}</th>", escape(field))).collect();
    let loss = |loss: Option<f64>| loss.map_or(String::new(), number);
    let held_out = comparison.best().is_some();
    let line = |point: &Compared| {
        let value = |field: &&str| choices(&point.point).find(|(own, _)| own == field).map_or("", |(_, value)| value);
        let values: String = fields.iter().map(|field| format!("<th>{}</th>", escape(value(field)))).collect();
        let last = point.epochs.last().copied().unwrap_or_default();
        let lowest = EpochLosses::best(&point.epochs)
            .map_or(String::new(), |(epoch, held_out)| format!("{} <small>epoch {epoch}</small>", number(held_out)));
        let lowest = if held_out { format!("<td>{lowest}</td>") } else { String::new() };
        let mine: Vec<&Drawn<'_>> = drawn.iter().filter(|drawn| drawn.point.point == point.point).collect();
        let begin: Vec<String> = mine.iter().map(|drawn| begin_with(drawn)).collect();
        let said: String = mine.iter().map(|drawn| format!("<div>{}</div>", badges(drawn))).collect();
        format!(
            "<tr>{values}<td>{}</td><td>{}</td>{lowest}<td>{}</td><td>{said}</td></tr>",
            point.epochs.len(),
            loss(last.trained),
            begin.join("<br>")
        )
    };
    let lines: String = comparison.points.iter().map(line).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{heads}<th>epochs</th><th>last loss</th>{}<th>begin with</th>\
         <th>verdicts on that, or on the last</th></tr></thead><tbody>{lines}</tbody></table></div>",
        if held_out { "<th>lowest held out</th>" } else { "" }
    )
}

fn begin_with(drawn: &Drawn<'_>) -> String {
    match drawn.recommended {
        true => format!("<span class=\"good\">{}</span>", escape(drawn.row)),
        false => "<span class=\"bad\">none</span>".to_owned(),
    }
}

/// What speaks, or may speak, against the checkpoint that stands for a point.
fn badges(drawn: &Drawn<'_>) -> String {
    let Some(checkpoint) = drawn.checkpoint() else { return "<small>not judged</small>".to_owned() };
    let against: String = checkpoint
        .verdicts
        .iter()
        .filter(|verdict| matches!(verdict.finding, Finding::Flagged | Finding::Unsure))
        .map(badge)
        .collect();
    match against.is_empty() {
        true => "<small>nothing against it</small>".to_owned(),
        false => format!("<span class=\"badges\">{against}</span>"),
    }
}

/// Why each point has the checkpoint that it has.
fn reasons(drawn: &[Drawn<'_>]) -> String {
    let card = |drawn: &Drawn<'_>| {
        let verdicts = drawn.gallery.verdicts.as_ref()?;
        let lines: String = verdicts.reasons.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
        Some(format!(
            "<details class=\"card\"><summary><strong>{}</strong> {}</summary><ul>{lines}</ul></details>",
            escape(&in_words(&drawn.point.point)),
            begin_with(drawn)
        ))
    };
    drawn.iter().filter_map(card).collect()
}

/// What can stand in one table: of one stage as it is written, with the same prompts and seeds.
fn together<'d, 'c>(drawn: &'d [Drawn<'c>]) -> Vec<(&'d str, Vec<&'d Drawn<'c>>)> {
    let mut groups: IndexMap<_, Vec<&Drawn<'_>>> = IndexMap::new();
    for drawn in drawn {
        let parameters = &drawn.gallery.parameters;
        let stage = base_and_point(&drawn.gallery.name).0;
        groups.entry((stage, &parameters.prompts, &parameters.seeds)).or_default().push(drawn);
    }
    groups.into_iter().map(|((stage, ..), group)| (stage, group)).collect()
}

/// One gallery of several: the model as it was, and a row for each point.
fn merged(group: &[&Drawn<'_>], best: Option<&str>) -> Gallery {
    let first = group[0].gallery;
    let row = |gallery: &Gallery, row: &str, label: &str| {
        let of_row = gallery.shots.iter().filter(|(shot, _)| shot.row == row);
        of_row.map(|(shot, digest)| (ShotName { row: label.to_owned(), ..shot.clone() }, *digest)).collect::<Vec<_>>()
    };
    let base = first.shots.iter().find(|(shot, _)| shot.epoch().is_none()).map(|(shot, _)| shot.row.clone());
    let mut shots = base.map_or(Vec::new(), |base| row(first, &base, &base));
    shots.extend(group.iter().flat_map(|drawn| row(drawn.gallery, drawn.row, &drawn.label())));
    let rows: IndexSet<String> = shots.iter().map(|(shot, _)| shot.row.clone()).collect();
    Gallery {
        rows: rows.into_iter().collect(),
        shots,
        verdicts: Some(Verdicts { recommended: best.map(ToOwned::to_owned), ..Verdicts::default() }),
        ..first.clone()
    }
}

/// The losses of the trainings by epoch: those on what is held out where they are measured.
fn losses(comparison: &Comparison) -> String {
    let held_out = comparison.best().is_some();
    let of = |losses: &EpochLosses| if held_out { losses.held_out } else { losses.trained };
    let mut trainings: IndexMap<&str, Vec<(f64, f64)>> = IndexMap::new();
    for point in &comparison.points {
        let points = point.epochs.iter().filter_map(|losses| Some((f64::from(losses.epoch), of(losses)?)));
        trainings.insert(&point.training, points.collect());
    }
    let all = trainings.len();
    let lowest = |points: &[(f64, f64)]| points.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    trainings.sort_by(|_, one, _, other| lowest(one).total_cmp(&lowest(other)));
    let classes = ["one", "two", "three", "four", "five"];
    let lines: Vec<Line> = trainings
        .into_iter()
        .zip(classes)
        .map(|((training, points), class)| {
            let (base, point) = base_and_point(training);
            Line { name: point.map_or(base.to_owned(), in_words), class: class.to_owned(), points }
        })
        .collect();
    let last = lines.iter().flat_map(|line| &line.points).map(|(epoch, _)| *epoch).fold(0.0, f64::max);
    let marks = [1.0, (last / 2.0).round(), last].map(|epoch| (epoch, format!("epoch {epoch}"))).to_vec();
    let what = if held_out { "loss on what is held out, by epoch" } else { "loss by epoch" };
    // There are no more colours.
    let title =
        if all > lines.len() { format!("{what}: the {} lowest of {all}", lines.len()) } else { what.to_owned() };
    let chart = Chart { title, lines, marks }.svg();
    if chart.is_empty() { chart } else { format!("<div class=\"charts\">{chart}</div>") }
}
