//! The page: its sections in their order, and the verdicts.

use super::{
    chart::number,
    charts, data,
    gather::{Gallery, Gathered},
    grid,
    html::escape,
    stages,
};
use crate::cli::text::{duration, units};
use sd3pipe_cache::Digest;
use sd3pipe_stages::report::{Checkpoint, Finding, Number, Verdict};
use std::collections::{BTreeSet, HashMap};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// A whole page. It reads nothing else, by its own rule: the browser refuses everything but what is written here.
pub(super) fn page(gathered: &Gathered<'_>, identity: &Digest, body: &str) -> String {
    let name = escape(&gathered.run.pipeline);
    let rule = format!(
        "default-src 'none'; img-src data:; style-src 'nonce-{identity}'; script-src 'nonce-{identity}'; base-uri 'none'; \
         form-action 'none'"
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"sd3pipe-shows\" content=\"{identity}\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{rule}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{name} · run {}</title>\n\
         <style nonce=\"{identity}\">{STYLE}</style></head>\n<body><main>{body}</main>\n<script nonce=\"{identity}\">{SCRIPT}</script>\n",
        gathered.run.id
    )
}

/// What the page of a run shows.
pub(super) fn body(gathered: &Gathered<'_>) -> String {
    let mut body = head(gathered);
    let most = grid::MOST_BYTES / gathered.galleries.len().max(1);
    for gallery in &gathered.galleries {
        body += &part("Which checkpoint", gallery_name(gathered, gallery), &verdicts(gathered, gallery));
        body += &part("Samples", gallery_name(gathered, gallery), &grid::section(gathered.store, gallery, most));
    }
    let drawn: BTreeSet<u32> =
        gathered.galleries.iter().flat_map(|gallery| &gallery.shots).filter_map(|(shot, _)| shot.epoch()).collect();
    for course in &gathered.courses {
        let several = (gathered.courses.len() > 1).then_some(course.name.as_str());
        body += &part("Training", several, &charts::section(course, &drawn));
    }
    for data in &gathered.data {
        let several = (gathered.data.len() > 1).then_some(data.name.as_str());
        body += &part("Data", several, &data::section(data));
    }
    body += &part("What was run", None, &(stages::table(gathered) + &stages::pipeline(gathered)));
    body += &part(
        "Where results come from",
        None,
        &format!(
            "<p class=\"aside\">A stage's result is found by its key: the digest of everything that it reads, listed here. Equal keys, equal results.</p>{}",
            stages::keys(gathered)
        ),
    );
    body
}

/// A section.
pub(super) fn part(title: &str, of: Option<&str>, content: &str) -> String {
    let of = of.map_or(String::new(), |of| format!(" <small>{}</small>", escape(of)));
    format!("<section><h2>{title}{of}</h2>{content}</section>")
}

fn gallery_name<'g>(gathered: &Gathered<'_>, gallery: &'g Gallery) -> Option<&'g str> {
    (gathered.galleries.len() > 1).then_some(gallery.name.as_str())
}

fn head(gathered: &Gathered<'_>) -> String {
    let (run, journal) = (gathered.run, &gathered.journal);
    let seconds: f64 = journal.stages.iter().map(|stage| stage.seconds).sum();
    let made: usize = journal.stages.iter().map(|stage| stage.executed.len()).sum();
    let error = journal.error.as_ref().map_or(String::new(), |error| format!("<p class=\"bad\">{}</p>", escape(error)));
    format!(
        "<header><h1>{}</h1><p>run #{} · <time data-seconds=\"{}\"></time> · {} · {} made · {}</p>{error}</header>",
        escape(&run.pipeline),
        run.id,
        run.started,
        escape(&run.outcome),
        units(made, "results"),
        duration(seconds)
    )
}

fn verdicts(gathered: &Gathered<'_>, gallery: &Gallery) -> String {
    let Some(verdicts) = &gallery.verdicts else {
        return "<p>There is nothing to judge by: it takes the data, the training and the samples of one run.</p>"
            .to_owned();
    };
    let lines = |lines: &[String]| lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect::<String>();
    let advice = match &verdicts.recommended {
        Some(name) => format!("<p class=\"advice good\">Begin with <strong>{}</strong>.</p>", escape(name)),
        None => "<p class=\"advice bad\">No checkpoint can be recommended.</p>".to_owned(),
    };
    let pairs = grid::pairs(gathered, gallery);
    let cards: String = verdicts
        .checkpoints
        .iter()
        .map(|checkpoint| card(checkpoint, verdicts.recommended.as_ref() == Some(&checkpoint.name), &pairs))
        .collect();
    let notes = match verdicts.notes.is_empty() {
        true => String::new(),
        false => format!("<p>Not measured:</p><ul>{}</ul>", lines(&verdicts.notes)),
    };
    format!(
        "{advice}<ul>{}</ul>{cards}{notes}<p class=\"aside\">These are measurements of a few samples, not eyes: they sort out what \
         is plainly wrong. The number after ± is a standard error: “yes” is beyond the threshold by more than two of them, “no” on its good side by one at least.</p>",
        lines(&verdicts.reasons)
    )
}

fn word(finding: Finding) -> (&'static str, &'static str) {
    match finding {
        Finding::Clear => ("clear", "no"),
        Finding::Unsure => ("unsure", "not sure"),
        Finding::Flagged => ("flagged", "yes"),
        Finding::Unmeasured => ("unmeasured", "not measured"),
    }
}

/// A verdict in a word or two.
pub(super) fn badge(verdict: &Verdict) -> String {
    let (class, word) = word(verdict.finding);
    format!("<span class=\"badge {class}\">{}: {word}</span>", verdict.concern.name())
}

fn card(checkpoint: &Checkpoint, recommended: bool, pairs: &HashMap<String, String>) -> String {
    let row = |verdict: &Verdict| {
        let numbers: String = verdict.numbers.iter().map(|number| format!("<li>{}</li>", in_words(number))).collect();
        let (class, word) = word(verdict.finding);
        let means = if verdict.numbers.is_empty() { "" } else { "yes means: " };
        format!(
            "<div class=\"verdict\"><h4>{} <span class=\"badge {class}\">{word}</span></h4><ul>{numbers}</ul><p class=\"aside\">{means}{}</p></div>",
            verdict.concern.name(),
            escape(&verdict.threshold)
        )
    };
    let pairs = pairs.get(&checkpoint.name).map_or(String::new(), |pairs| {
        format!("<div class=\"verdict\"><h4>samples beside the training pictures nearest to them</h4><div class=\"pairs\">{pairs}</div></div>")
    });
    let star = if recommended { " <small class=\"good\">recommended</small>" } else { "" };
    format!(
        "<details class=\"card\"><summary><strong>{}</strong>{star}<span class=\"badges\">{}</span></summary>\
         <p class=\"aside\">{} measured</p>{}{pairs}</details>",
        escape(&checkpoint.name),
        checkpoint.verdicts.iter().map(badge).collect::<String>(),
        units(checkpoint.samples, "samples"),
        checkpoint.verdicts.iter().map(row).collect::<String>()
    )
}

fn in_words(of: &Number) -> String {
    let error = of.error.map_or(String::new(), |error| format!(" ± {}", number(error)));
    format!("<b>{} {}{error}</b> · {}", escape(&of.name), number(of.value), escape(&of.meaning))
}
