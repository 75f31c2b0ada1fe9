//! Which checkpoint to begin with.

use super::{
    judge::STRAY,
    verdict::{Checkpoint, Concern, Finding, Number},
};

/// A checkpoint of which more is not sure is not recommended.
const MOST_DOUBTS: usize = 2;

/// The checkpoint that nothing speaks against and whose pictures are drawn most like the training set's, and why; or why none.
pub fn recommend(checkpoints: &[Checkpoint]) -> (Option<String>, Vec<String>) {
    let flags = |checkpoint: &Checkpoint| -> Vec<Concern> {
        let flagged = checkpoint.verdicts.iter().filter(|verdict| verdict.finding == Finding::Flagged);
        flagged.map(|verdict| verdict.concern).collect()
    };
    let mut reasons: Vec<String> = checkpoints
        .iter()
        .filter(|checkpoint| !flags(checkpoint).is_empty())
        .map(|checkpoint| {
            let names: Vec<&str> = flags(checkpoint).into_iter().map(Concern::name).collect();
            format!("against {}: {}", checkpoint.name, names.join(", "))
        })
        .collect();
    let doubts = |checkpoint: &Checkpoint| {
        checkpoint.verdicts.iter().filter(|verdict| verdict.finding == Finding::Unsure).count()
    };
    let doubtful = |checkpoint: &&Checkpoint| flags(checkpoint).is_empty() && doubts(checkpoint) > MOST_DOUBTS;
    for checkpoint in checkpoints.iter().filter(doubtful) {
        reasons.push(format!("{}: too much is not sure; more prompts or seeds would make it surer", checkpoint.name));
    }
    let mut good: Vec<(&Checkpoint, &Number)> = checkpoints
        .iter()
        .filter(|checkpoint| flags(checkpoint).is_empty() && doubts(checkpoint) <= MOST_DOUBTS)
        .filter_map(|checkpoint| Some((checkpoint, stray(checkpoint)?)))
        .collect();
    // Stable: of equals the one with less training comes first.
    good.sort_by(|(_, one), (_, other)| one.value.total_cmp(&other.value));
    let Some(((best, distance), others)) = good.split_first() else {
        if checkpoints.is_empty() {
            reasons.push("there are no samples of a checkpoint".to_owned());
        } else if reasons.len() < checkpoints.len() {
            let reason = "the others can't be compared: that takes latents of their samples and of training pictures";
            reasons.push(reason.to_owned());
        }
        return (None, reasons);
    };
    let unsure = best.verdicts.iter().filter(|verdict| verdict.finding == Finding::Unsure);
    let unsure: Vec<&str> = unsure.map(|verdict| verdict.concern.name()).collect();
    let value = distance.value;
    let first = match others.first() {
        None => format!("{} is the only one that nothing speaks against", best.name),
        Some((next, theirs)) => {
            let margin = distance.error.unwrap_or_default().hypot(theirs.error.unwrap_or_default());
            let close = if theirs.value - value < margin { ": no sure difference, so look at both" } else { "" };
            format!(
                "of those that nothing speaks against, {} draws most like the training pictures ({value:.2} from their style; \
                 {} {:.2}{close})",
                best.name, next.name, theirs.value
            )
        }
    };
    let mut all = vec![first];
    if !unsure.is_empty() {
        all.push(format!("not sure with so few samples: {}", unsure.join(", ")));
    }
    all.append(&mut reasons);
    (Some(best.name.clone()), all)
}

fn stray(checkpoint: &Checkpoint) -> Option<&Number> {
    let numbers = checkpoint.verdicts.iter().flat_map(|verdict| &verdict.numbers);
    numbers.into_iter().find(|number| number.name == STRAY)
}
