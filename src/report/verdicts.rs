//! The verdicts on a `Sample` stage's checkpoints: looked up by their key, or found and kept.

use super::gather::{Gallery, Gathered, picture};
use crate::pipeline::Pipeline;
use sd3pipe_cache::{Store, StoreError};
use sd3pipe_stages::{
    action::output,
    captions::Items,
    report::{Results, Sources, Verdicts, VerdictsJob},
    stage::Stage,
};
use std::time::Instant;

/// Adds the verdicts to a gallery. Nothing where a result is not there any more.
///
/// # Errors
/// When they can't be kept.
pub(super) fn fill(
    gallery: &mut Gallery,
    gathered: &Gathered<'_>,
    pipeline: &Pipeline,
    keep: bool,
) -> Result<(), StoreError> {
    let Some((job, data)) = job(gathered, &gallery.name, pipeline) else { return Ok(()) };
    (gallery.key, gallery.data) = (Some(job.action.key), Some(data));
    let store = gathered.store;
    gallery.verdicts = known(&job, store);
    if gallery.verdicts.is_some() {
        return Ok(());
    }
    let (start, files) = (Instant::now(), &gathered.data[data].files);
    let (verdicts, whole) = job.judge(&Sources { store, picture: &|item| picture(files, item) });
    if keep
        && whole
        && let Ok(bytes) = serde_json::to_vec(&verdicts)
    {
        let outputs = vec![output("verdicts", "verdicts.json", store.put(&bytes)?)];
        if let Ok(record) = job.action.record(outputs, start.elapsed().as_secs_f64()) {
            store.publish(&[record])?;
        }
    }
    gallery.verdicts = Some(verdicts);
    Ok(())
}

/// What was said of the same before.
fn known(job: &VerdictsJob, store: &Store) -> Option<Verdicts> {
    let outputs = store.outputs(&job.action.key).ok()??;
    serde_json::from_slice(&store.read(&outputs.first()?.digest).ok()?).ok()
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
