//! The verdicts as a keyed action: what they read, and nothing else.

use super::{REVISION, judge, verdict::Verdicts};
use crate::{
    action::{Action, Artifact},
    captions::{Item, Items},
    images::parameters::EncodeImages,
    train::validation::{Report, VALIDATION},
};
use sd3pipe_cache::{Digest, KeyError, Preimage, Store};

/// The verdicts on the checkpoints that a `Sample` stage drew with.
#[derive(Clone, Debug)]
pub struct VerdictsJob {
    /// What was drawn.
    pub samples: Artifact,
    /// What was trained on.
    pub items: Vec<Item>,
    /// How its pictures were placed.
    pub images: EncodeImages,
    /// Their latents.
    pub latents: Artifact,
    /// The epochs.
    pub train: Artifact,
    /// Finds what was said of the same before.
    pub action: Action,
}

/// Where the job reads from.
pub struct Sources<'s> {
    /// Samples, latents and losses.
    pub store: &'s Store,
    /// The bytes of an item's image file, if they are what was trained on.
    pub picture: &'s (dyn Fn(&Item) -> Option<Vec<u8>> + Sync),
}

/// The results of the stages that it reads: of the samples, the captions, the latents and the training.
pub struct Results {
    /// Of `Sample`.
    pub samples: Digest,
    /// Of `Captions`.
    pub captions: Digest,
    /// Of `EncodeImages`.
    pub latents: Digest,
    /// Of `Train`.
    pub train: Digest,
}

impl VerdictsJob {
    /// The job, with what the results hold.
    ///
    /// # Errors
    /// None that is known: all of it can be part of a key.
    pub fn new(
        results: &Results,
        samples: Artifact,
        items: Items,
        images: &EncodeImages,
        latents: Artifact,
        train: Artifact,
    ) -> Result<Self, KeyError> {
        let mut preimage = Preimage::new("verdicts", REVISION);
        preimage.read("samples", &results.samples)?;
        preimage.read("captions", &results.captions)?;
        preimage.read("latents", &results.latents)?;
        preimage.read("train", &results.train)?;
        preimage.read("resolution", &images.resolution)?;
        preimage.read("buckets", &images.buckets)?;
        let action = Action::new("verdicts", preimage);
        Ok(Self { samples, items: items.into(), images: images.clone(), latents, train, action })
    }

    /// Measures and judges, and says whether everything was there that the key names: only then the verdicts are good for ever.
    pub fn judge(&self, sources: &Sources<'_>) -> (Verdicts, bool) {
        let measured = self.measure(sources);
        let validations = self.train.of(VALIDATION);
        let read = |digest| Report::from_bytes(&sources.store.read(digest).ok()?).ok();
        let reports: Vec<Option<Report>> = validations.map(|entry| read(&entry.digest)).collect();
        let whole = measured.whole && reports.iter().all(Option::is_some);
        let reports: Vec<Report> = reports.into_iter().flatten().collect();
        (judge::judge(measured, &reports), whole)
    }
}
