//! What each stage did in a run, how long it took, and what its key was made of.

use super::{
    gather::Gathered,
    html::{escape, excerpt},
};
use crate::{
    cli::text::{count, duration},
    run::StageEntry,
};
use sd3pipe_cache::Key;

/// Characters of what stages' keys read that are shown at most, of each and of all.
const MOST_LETTERS: usize = 20_000;
const MOST_LETTERS_OF_ALL: usize = 400_000;

/// A line for each stage.
pub(super) fn table(gathered: &Gathered<'_>) -> String {
    let row = |stage: &StageEntry| {
        let did = match (stage.executed.len(), stage.actions) {
            (done, Some(total)) if stage.left.is_some() => {
                let left = stage.left.unwrap_or_default();
                format!("made {}, left {} of {} to other shards", count(done), count(left), count(total))
            }
            (0, _) if stage.result.is_none() => "failed".to_owned(),
            (0, Some(actions)) if stage.kind == "Captions" => format!("read {}", count(actions)),
            (0, _) => "reused whole".to_owned(),
            (done, Some(total)) => {
                format!("made {}, reused {} of {}", count(done), count(total.saturating_sub(done)), count(total))
            }
            (done, None) => format!("unfinished: made {}", count(done)),
        };
        let share = match (stage.executed.len(), stage.actions) {
            (done, Some(total)) if total > 0 => 100.0 * (1.0 - done as f64 / total as f64),
            (0, _) if stage.result.is_some() => 100.0,
            _ => 0.0,
        };
        let made = match gathered.made.get(&stage.name) {
            Some((id, seconds)) if *id != gathered.run.id => format!("run #{id}, {}", duration(*seconds)),
            Some(_) => "this run".to_owned(),
            None => String::new(),
        };
        format!(
            "<tr><th>{} <small>{}</small></th><td>{did}</td><td><meter min=\"0\" max=\"100\" value=\"{share:.0}\">{share:.0} %</meter></td>\
             <td class=\"number\">{}</td><td>{made}</td></tr>",
            escape(&stage.name),
            escape(&stage.kind),
            duration(stage.seconds)
        )
    };
    let rows: String = gathered.journal.stages.iter().map(row).collect();
    format!(
        "<div class=\"wide\"><table><tr><th>stage</th><th>in this run</th><th>cache hits</th><th class=\"number\">time</th>\
         <th>made by</th></tr>{rows}</table></div>"
    )
}

/// Each stage's key, with all that it reads.
pub(super) fn keys(gathered: &Gathered<'_>) -> String {
    let most = (MOST_LETTERS_OF_ALL / gathered.journal.stages.len().max(1)).min(MOST_LETTERS);
    let details = |stage: &StageEntry| {
        let key: Option<Key> = stage.key.parse().ok();
        let record = key.and_then(|key| gathered.store.record(&key).ok().flatten());
        let reads = record.map(|record| {
            let preimage = &record.preimage;
            let reads = serde_json::json!({ "kind": preimage.kind(), "revision": preimage.revision(), "reads": preimage.reads() });
            format!("<pre>{}</pre>", excerpt(&format!("{reads:#}"), most))
        });
        let result = stage.result.map_or("nothing".to_owned(), |digest| digest.to_string());
        format!(
            "<details><summary>{} <code>{}…</code></summary><p>key <code>{}</code><br>made <code>{result}</code></p>{}</details>",
            escape(&stage.name),
            escape(stage.key.get(..12).unwrap_or_default()),
            escape(&stage.key),
            reads.unwrap_or_else(|| "<p>Its record is not in the store any more.</p>".to_owned())
        )
    };
    gathered.journal.stages.iter().map(details).collect()
}

/// The pipeline as it was run, with every default written out.
pub(super) fn pipeline(gathered: &Gathered<'_>) -> String {
    let pipeline = excerpt(&gathered.journal.pipeline, 2 * MOST_LETTERS);
    format!(
        "<details><summary>the pipeline as it was run, every default written out</summary><pre>{pipeline}</pre></details>"
    )
}
