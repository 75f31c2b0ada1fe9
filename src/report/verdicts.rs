//! The verdicts on a `Sample` stage's checkpoints: looked up by their key, or found and kept.

use super::gather::{Gathered, picture};
use crate::pipeline::Pipeline;
use sd3pipe_cache::{Key, Record};
use sd3pipe_stages::{
    action::output,
    captions::{Item, Items},
    report::{Results, Sources, Verdicts, VerdictsJob},
    stage::Stage,
};

/// The verdicts, and the index of the data set that they compare with. Nothing where a result is not there any more.
pub(super) fn of(
    gathered: &Gathered<'_>,
    sample: &str,
    pipeline: &Pipeline,
    keep: bool,
) -> (Option<Verdicts>, Option<usize>) {
    let Some((job, data)) = job(gathered, sample, pipeline) else { return (None, None) };
    let store = gathered.store;
    let known = || {
        let outputs = store.outputs(&job.action.key).ok()??;
        serde_json::from_slice(&store.read(&outputs.first()?.digest).ok()?).ok()
    };
    let own: Option<Key> =
        gathered.journal.stages.iter().find(|stage| stage.name == sample).and_then(|stage| stage.key.parse().ok());
    if let Some(own) = own.filter(|_| keep) {
        // They stay as long as the samples do. If that can't be written down, they are found again some day.
        drop(store.rely(&own, &[job.action.key]));
    }
    if let Some(known) = known() {
        return (Some(known), Some(data));
    }
    let files = &gathered.data[data].files;
    let read = |item: &Item| picture(files, item);
    let start = std::time::Instant::now();
    let (verdicts, whole) = job.judge(&Sources { store, picture: &read });
    if keep && whole {
        // Likewise: the page has them all the same.
        drop(serde_json::to_vec(&verdicts).map(|bytes| {
            let object = store.put(&bytes)?;
            let outputs = vec![output("verdicts", "verdicts.json", object)];
            let (preimage, label) = (job.action.preimage.clone(), job.action.label.clone());
            store.publish(&[Record { preimage, label, outputs, seconds: start.elapsed().as_secs_f64() }])
        }));
    }
    (Some(verdicts), Some(data))
}

/// What the verdicts read, from the samples up to the captions.
fn job(gathered: &Gathered<'_>, sample: &str, pipeline: &Pipeline) -> Option<(VerdictsJob, usize)> {
    let stage = |name: &Option<String>| pipeline.stages.get_key_value(name.as_ref()?);
    let Stage::Sample(drawn) = pipeline.stages.get(sample)? else { return None };
    let (_, Stage::Export(exported)) = stage(&drawn.export)? else { return None };
    let (train, Stage::Train(trained)) = stage(&exported.train)? else { return None };
    let (latents, Stage::EncodeImages(images)) = stage(&trained.latents)? else { return None };
    let data = gathered.data.iter().position(|data| Some(&data.name) == images.captions.as_ref())?;
    let digest = |name: &str| Some(gathered.result(name)?.digest);
    let results = Results {
        samples: digest(sample)?,
        captions: digest(&gathered.data[data].name)?,
        latents: digest(latents)?,
        train: digest(train)?,
    };
    let items = Items::from(gathered.data[data].items.clone());
    let artifacts = [sample, latents, train].map(|name| gathered.artifact(name));
    let [Some(samples), Some(latents), Some(train)] = artifacts else { return None };
    Some((VerdictsJob::new(&results, samples, items, images, latents, train).ok()?, data))
}
