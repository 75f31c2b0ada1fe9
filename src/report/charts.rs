//! The curves of a training: its loss beside that on held-out pictures, by noise level, and the learning rate.

use super::{
    chart::{Chart, Line, number},
    gather::{Course, Step},
    html::escape,
};
use sd3pipe_stages::train::validation::{Losses, Report, best};
use std::collections::BTreeSet;

/// A number that is taken of a validation.
type OfReport<'o> = &'o dyn Fn(&Report) -> Option<f64>;

/// A training's charts. `drawn` are the epochs that there are samples of.
pub(super) fn section(course: &Course, drawn: &BTreeSet<u32>) -> String {
    if course.steps.is_empty() {
        return format!("<p>The losses of {} are not in the store any more.</p>", escape(&course.name));
    }
    let end = |epoch: u32| course.epochs.get(epoch as usize - 1).map(|step| *step as f64);
    let marks: Vec<(f64, String)> = drawn
        .iter()
        .filter(|epoch| **epoch > 0)
        .filter_map(|epoch| Some((end(*epoch)?, format!("epoch {epoch}"))))
        .collect();
    let points =
        |of: fn(&Step) -> f64| course.steps.iter().map(|step| (step.step as f64, of(step))).collect::<Vec<_>>();
    let losses = points(|step| step.loss);
    let window = (losses.len() / 40).max(1);
    let line = |name: &str, class: &str, points| Line { name: name.to_owned(), class: class.to_owned(), points };
    let mut lines = vec![
        line("each step", "faint", cut(&losses)),
        line(&format!("mean of {window} steps"), "one", smoothed(&losses, window)),
    ];
    let by_epoch = |of: OfReport<'_>| -> Vec<(f64, f64)> {
        course.reports.iter().filter_map(|report| Some((end(report.epoch)?, of(report)?))).collect()
    };
    let mut charts = Vec::new();
    if !course.reports.is_empty() {
        lines.push(line("held out", "two", by_epoch(&|report| Some(report.trained.held_out.mean))));
        lines.push(line("as many that are trained on", "three", by_epoch(&|report| Some(report.trained.seen.mean))));
        if course.reports.iter().any(|report| report.average.is_some()) {
            let average = by_epoch(&|report| report.average.as_ref().map(|losses| losses.held_out.mean));
            lines.push(line("held out, averaged weights", "four", average));
        }
    }
    charts.push(Chart { title: "loss by step".to_owned(), lines, marks: marks.clone() }.svg());
    let rates = vec![line("", "one", points(|step| step.learning_rate))];
    let bands = bands(course, &marks, &by_epoch);
    charts.push(Chart { title: "learning rate".to_owned(), lines: rates, marks }.svg());
    format!("<div class=\"charts\">{}{bands}</div>{}", charts.concat(), validations(&course.reports))
}

/// The held-out loss at each level of noise. Levels differ more than epochs do, so each is shown as a share of what it was first.
fn bands(course: &Course, marks: &[(f64, String)], by_epoch: &dyn Fn(OfReport<'_>) -> Vec<(f64, f64)>) -> String {
    let Some(first) = course.reports.first() else {
        return "<p class=\"aside\">The loss by timestep is measured by validation: <code>Train(validation: ())</code> holds some \
                pictures out and follows the loss on them, level by level.</p>"
            .to_owned();
    };
    let names = ["one", "two", "three", "four", "five"];
    let lines = first.timesteps.iter().enumerate().map(|(index, timestep)| {
        let start = first.trained.held_out.losses.get(index).copied().unwrap_or(f64::NAN);
        let of = |report: &Report| Some(report.trained.held_out.losses.get(index)? / start);
        Line {
            name: format!("timestep {timestep}"),
            class: names[index % names.len()].to_owned(),
            points: by_epoch(&of),
        }
    });
    let title = format!("held-out loss by timestep, as a share of that after epoch {}", first.epoch);
    Chart { title, lines: lines.collect(), marks: marks.to_vec() }.svg()
}

/// What validations found, as numbers.
fn validations(reports: &[Report]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let best = best(reports.iter().cloned(), false);
    let head: String = first.timesteps.iter().map(|timestep| format!("<th>at {timestep}</th>")).collect();
    let row = |report: &Report| {
        let Losses { held_out, seen } = &report.trained;
        let cells = [held_out.mean, seen.mean].into_iter().chain(held_out.losses.iter().copied());
        let cells: String = cells.map(|loss| format!("<td>{}</td>", number(loss))).collect();
        let mark = if best == Some(report.epoch) { " · lowest" } else { "" };
        format!("<tr><th>epoch {}{mark}</th>{cells}</tr>", report.epoch)
    };
    let every = reports.len().div_ceil(100);
    let rows: String = reports.iter().rev().step_by(every).collect::<Vec<_>>().into_iter().rev().map(row).collect();
    format!(
        "<details><summary>{} validations in numbers</summary><div class=\"wide\"><table><tr><th></th><th>held out</th>\
         <th>trained</th>{head}</tr>{rows}</table></div></details>",
        reports.len()
    )
}

/// The means of a window around each point.
fn smoothed(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let around = |index: usize| &points[index.saturating_sub(window / 2)..(index + window / 2 + 1).min(points.len())];
    let mean = |around: &[(f64, f64)]| around.iter().map(|(_, y)| y).sum::<f64>() / around.len() as f64;
    points.iter().enumerate().map(|(index, (x, _))| (*x, mean(around(index)))).collect()
}

/// The points, those above the highest of 98 in 100 lowered to it: a few high losses at the start would flatten all that follows.
fn cut(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<f64> = points.iter().map(|(_, y)| *y).filter(|y| y.is_finite()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let highest = sorted.get(sorted.len() * 98 / 100).copied().unwrap_or(f64::INFINITY);
    points.iter().map(|(x, y)| (*x, y.min(highest))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_the_mean_and_cutting_all_but_the_highest() {
        let points: Vec<(f64, f64)> = (0..100).map(|step| (f64::from(step), f64::from(step % 2))).collect();
        let smooth = smoothed(&points, 20);
        assert_eq!(smooth.len(), 100);
        assert!(smooth[20..80].iter().all(|(_, y)| (y - 0.5).abs() < 0.05));
        let mut spiked = points.clone();
        spiked[0].1 = 1000.0;
        assert_eq!(cut(&spiked)[0], (0.0, 1.0));
        assert_eq!(cut(&spiked)[1..], points[1..]);
    }

    #[test]
    fn a_training_without_validation_says_how_to_get_one() {
        let step = |step: u64| Step { step, loss: 1.0 / (step + 1) as f64, learning_rate: 1e-4 };
        let steps = (0..40).map(step).collect();
        let course = Course { name: "train".to_owned(), steps, epochs: vec![20, 40], reports: Vec::new() };
        let html = section(&course, &[0, 2, 7].into());
        assert!(
            html.contains("learning rate") && html.contains("validation: ()") && html.contains("epoch 2"),
            "{html}"
        );
        assert!(!html.contains("epoch 7"));
    }
}
