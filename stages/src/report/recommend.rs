//! Which checkpoint to begin with.

use super::{
    judge::STRAY,
    verdict::{Checkpoint, Concern, Finding, Number},
};
use std::collections::BTreeSet;

/// A checkpoint of which more is not sure is not recommended.
const MOST_DOUBTS: usize = 2;

/// The checkpoint that nothing speaks against and whose pictures are drawn most like the training set's, and why; or why none.
///
/// What another checkpoint of the training is flagged for, this one must be free of: after a rate that was too high the last epochs
/// mend, and a few samples can't tell a mended model from a good one.
pub fn recommend(checkpoints: &[Checkpoint]) -> (Option<String>, Vec<String>) {
    let known: BTreeSet<Concern> =
        checkpoints.iter().flat_map(|checkpoint| with(checkpoint, Finding::Flagged)).collect();
    let (mut good, mut reasons) = (Vec::new(), Vec::new());
    for checkpoint in checkpoints {
        let (flagged, unsure) = (with(checkpoint, Finding::Flagged), with(checkpoint, Finding::Unsure));
        let shared: Vec<Concern> = unsure.iter().copied().filter(|concern| known.contains(concern)).collect();
        let (name, surer) = (&checkpoint.name, "more prompts or seeds would make it surer");
        if !flagged.is_empty() {
            reasons.push(format!("against {name}: {}", names(&flagged)));
        } else if !shared.is_empty() {
            let what = names(&shared);
            reasons.push(format!("{name}: not sure to be free of what others of this training are: {what}; {surer}"));
        } else if unsure.len() > MOST_DOUBTS {
            reasons.push(format!("{name}: too much is not sure; {surer}"));
        } else if let Some(stray) = stray(checkpoint) {
            good.push((checkpoint, stray));
        }
    }
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
    let unsure = with(best, Finding::Unsure);
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
        all.push(format!("not sure with so few samples: {}", names(&unsure)));
    }
    all.append(&mut reasons);
    (Some(best.name.clone()), all)
}

/// The concerns of which this was found.
fn with(checkpoint: &Checkpoint, finding: Finding) -> Vec<Concern> {
    let verdicts = checkpoint.verdicts.iter().filter(|verdict| verdict.finding == finding);
    verdicts.map(|verdict| verdict.concern).collect()
}

fn names(concerns: &[Concern]) -> String {
    concerns.iter().map(|concern| concern.name()).collect::<Vec<_>>().join(", ")
}

fn stray(checkpoint: &Checkpoint) -> Option<&Number> {
    let numbers = checkpoint.verdicts.iter().flat_map(|verdict| &verdict.numbers);
    numbers.into_iter().find(|number| number.name == STRAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    fn checkpoint(name: &str, stray: f64, findings: &[(Concern, Finding)]) -> Checkpoint {
        let verdict = |(concern, finding): &(Concern, Finding)| Verdict {
            concern: *concern,
            finding: *finding,
            numbers: vec![Number::plain(STRAY, stray, "")],
            threshold: String::new(),
        };
        let verdicts = findings.iter().map(verdict).collect();
        Checkpoint { name: name.to_owned(), samples: 10, verdicts, pairs: Vec::new() }
    }

    #[test]
    fn what_others_are_flagged_for_must_not_be_doubtful() {
        use {Concern::*, Finding::*};
        let early = checkpoint("epoch 5", 1.5, &[(Blurred, Flagged), (UnderFitted, Clear)]);
        let late = |blurred| checkpoint("epoch 60", 1.0, &[(Blurred, blurred), (UnderFitted, Clear)]);
        let (recommended, reasons) = recommend(&[early.clone(), late(Unsure)]);
        assert_eq!(recommended, None);
        assert!(reasons[0].contains("against epoch 5: blurred"), "{reasons:?}");
        assert!(reasons[1].contains("epoch 60: not sure to be free") && reasons[1].contains("blurred"), "{reasons:?}");
        // Where it is sure, or nobody is flagged for it, that is no obstacle.
        assert_eq!(recommend(&[early, late(Clear)]).0.as_deref(), Some("epoch 60"));
        let (recommended, reasons) = recommend(&[late(Unsure)]);
        assert_eq!(recommended.as_deref(), Some("epoch 60"));
        assert!(reasons.iter().any(|reason| reason == "not sure with so few samples: blurred"), "{reasons:?}");
        let (recommended, reasons) = recommend(&[checkpoint("epoch 1", 1.0, &[(Copying, Flagged)])]);
        assert_eq!((recommended, reasons), (None, vec!["against epoch 1: copying".to_owned()]));
    }
}
