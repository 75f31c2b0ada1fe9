//! A chart of lines, as SVG.

use super::html::escape;
use std::fmt::Write;

/// One line of a chart.
pub(super) struct Line {
    /// What it shows, for the legend; lines without a name have no place in it.
    pub name: String,
    /// The class that gives it its colour and width.
    pub class: String,
    /// Its points from left to right.
    pub points: Vec<(f64, f64)>,
}

/// Lines over one axis of steps.
pub(super) struct Chart {
    /// What the vertical axis shows.
    pub title: String,
    /// The lines; the first ones lie below.
    pub lines: Vec<Line>,
    /// Marks on the horizontal axis: where, and what for.
    pub marks: Vec<(f64, String)>,
}

/// Points of a line at most: more than the chart has room for.
const MOST_POINTS: usize = 400;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

impl Chart {
    /// As SVG with its legend; nothing if there is no point.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)))
        };
        let (first, last) = range(&mut points().map(|(x, _)| *x));
        let (lowest, highest) = range(&mut points().map(|(_, y)| *y));
        if first > last {
            return String::new();
        }
        let ticks = ticks(lowest, highest);
        let (bottom, top) = (lowest.min(ticks[0]), highest.max(ticks[ticks.len() - 1]));
        let x = |value: f64| LEFT + (value - first) / (last - first).max(f64::MIN_POSITIVE) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| TOP + (top - value) / (top - bottom).max(f64::MIN_POSITIVE) * (HEIGHT - TOP - BOTTOM);
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(&self.title));
        // Writing to a `String` can't fail.
        for tick in &ticks {
            let (y, label) = (y(*tick), number(*tick));
            let _ = write!(svg, "<path class=\"rule\" d=\"M{LEFT} {y:.1}H{:.1}\"/>", WIDTH - RIGHT);
            let _ = write!(svg, "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>", LEFT - 6.0, y + 4.0);
        }
        let floor = HEIGHT - BOTTOM;
        let mut free = f64::NEG_INFINITY;
        for (at, label) in &self.marks {
            let at = x(*at);
            let _ = write!(svg, "<path class=\"mark\" d=\"M{at:.1} {TOP}V{floor}\"/>");
            // Labels that would lie over each other are left out.
            if at > free {
                let anchor = if at > WIDTH - 60.0 { "end" } else { "middle" };
                let _ = write!(
                    svg,
                    "<text class=\"{anchor}\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                    floor + 17.0,
                    escape(label)
                );
                free = at + 10.0 * label.chars().count() as f64 + 14.0;
            }
        }
        for line in &self.lines {
            let points: Vec<String> =
                thinned(&line.points).into_iter().map(|(px, py)| format!("{:.1} {:.1}", x(px), y(py))).collect();
            let Some((start, rest)) = points.split_first() else { continue };
            let path = match rest {
                [] => format!("M{start}h.01"),
                rest => format!("M{start}L{}", rest.join(" ")),
            };
            let _ = write!(
                svg,
                "<path class=\"line {}\" d=\"{path}\"><title>{}</title></path>",
                line.class,
                escape(&line.name)
            );
        }
        svg.push_str("</svg>");
        let named = self.lines.iter().filter(|line| !line.name.is_empty());
        let legend: String = named
            .map(|line| {
                format!(
                    "<li><svg viewBox=\"0 0 20 8\"><path class=\"line {}\" d=\"M1 4h18\"/></svg>{}</li>",
                    line.class,
                    escape(&line.name)
                )
            })
            .collect();
        format!(
            "<figure class=\"chart\"><figcaption>{}</figcaption>{svg}<ul>{legend}</ul></figure>",
            escape(&self.title)
        )
    }
}

/// As many points as a chart has room for, each the mean of those that it stands for.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        (points.iter().map(|(x, _)| x).sum::<f64>() / count, points.iter().map(|(_, y)| y).sum::<f64>() / count)
    };
    finite.chunks(finite.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

/// Three to six round numbers from about `lowest` to about `highest`.
fn ticks(lowest: f64, highest: f64) -> Vec<f64> {
    let span = if highest > lowest { highest - lowest } else { lowest.abs().max(1e-12) };
    let rough = span / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let start = (lowest / step).floor();
    (0..=6).map(|index| (start + f64::from(index)) * step).take_while(|tick| *tick < highest + step).collect()
}

/// Few digits: `0.25`, `1.5e-5`, `0`.
pub(super) fn number(value: f64) -> String {
    let text = match value.abs() {
        0.0 => return "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => return format!("{value:.1e}").replace(".0e", "e"),
        size if size < 10.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_everything() {
        for (lowest, highest) in [(0.0, 1.0), (0.12, 0.19), (3e-6, 5e-4), (-2.0, 7.0), (5.0, 5.0), (0.0, 0.0)] {
            let ticks = ticks(lowest, highest);
            assert!((1..=7).contains(&ticks.len()), "{lowest} {highest}: {ticks:?}");
            assert!(ticks[0] <= lowest && ticks[ticks.len() - 1] >= highest, "{lowest} {highest}: {ticks:?}");
        }
        assert_eq!([0.0, 0.25, 1.5e-5, 1e-5, 12.0, 0.1 + 0.2].map(number).join(" "), "0 0.25 1.5e-5 1e-5 12 0.3");
    }

    #[test]
    fn a_chart_is_of_bounded_size_and_of_no_points_there_is_none() {
        let line = |count: usize| {
            let points =
                (0..count).map(|step| (step as f64, if step == 3 { f64::NAN } else { 1.0 / (step + 1) as f64 }));
            Chart {
                title: "<loss>".to_owned(),
                lines: vec![Line { name: "train".to_owned(), class: "one".to_owned(), points: points.collect() }],
                marks: (0..count).map(|step| (step as f64, format!("epoch {step}"))).take(1000).collect(),
            }
        };
        let svg = line(100_000).svg();
        assert!(svg.len() < 80_000 && !svg.contains("NaN") && svg.contains("&lt;loss&gt;"), "{}", svg.len());
        assert!(line(1).svg().contains("h.01"));
        assert_eq!(line(0).svg(), "");
    }
}
