//! Writes the checkpoints, tensor by tensor: in the layout of Stability's single files, or as diffusers folders.

use super::{
    folder, lora,
    parameters::{Layout, LoraForm},
    tensor::{cast_all, content_digest},
};
use crate::{
    action::output,
    checkpoint::{Component, ComponentSource, TensorFile},
    error::StageError,
    export::ExportJob,
    tensors,
    work::Work,
};
use sd3pipe_cache::Output;
use std::{sync::Arc, time::Instant};

/// Carries out the missing actions of a job.
pub fn export(job: &ExportJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    work.progress.begin("checkpoints", missing.len() as u64, "checkpoints");
    let mut common = None;
    for (done, index) in missing.iter().enumerate() {
        work.check_interrupt()?;
        let start = Instant::now();
        let outputs = match (job.form(*index), job.parameters.layout) {
            (Some(form @ (LoraForm::Kohya | LoraForm::Diffusers | LoraForm::Both)), _) => {
                lora::write(job, *index, form, work)?
            }
            (_, Layout::SingleFile) => vec![write_file(job, *index, work)?],
            (_, Layout::Diffusers) => folder::write(job, *index, &mut common, work)?,
        };
        work.publish(&job.actions[*index], outputs, start.elapsed().as_secs_f64())?;
        work.flush()?;
        work.progress.advance(done as u64 + 1, &job.actions[*index].label);
    }
    work.progress.end();
    Ok(())
}

/// The trained MMDiT of a checkpoint.
pub(super) fn trained(job: &ExportJob, index: usize, work: &Work<'_>) -> Result<ComponentSource, StageError> {
    if let Some(LoraForm::Merged(strength)) = job.form(index) {
        return lora::merged(job, index, strength, work);
    }
    let (_, weights) = &job.checkpoints[index];
    let file = TensorFile::open(work.store.file(&weights.digest)?)?;
    Ok(ComponentSource::find(Arc::new(file), Component::Mmdit)?)
}

fn write_file(job: &ExportJob, index: usize, work: &Work<'_>) -> Result<Output, StageError> {
    let (epoch, weights) = &job.checkpoints[index];
    let precision = job.parameters.precision;
    let trained = trained(job, index, work)?;
    let mut sources = Vec::new();
    for component in job.others() {
        sources.extend(job.facts.open(component)?);
    }
    let mmdit = cast_all(&trained, precision)?;
    let content = content_digest(&mmdit);
    let mut tensors = Vec::new();
    let mut add = |component: Component, network: Vec<(String, _)>| {
        tensors.extend(network.into_iter().map(|(name, cast)| (format!("{}{name}", component.prefix()), cast)));
    };
    add(Component::Mmdit, mmdit);
    for source in &sources {
        add(source.component(), cast_all(source, precision)?);
    }
    let path = work.store.temporary_path();
    // The header is ours to order: with several notes, that of the library would follow a hash map.
    tensors::write_file(&path, tensors, &job.metadata(*epoch, &weights.digest))?;
    for source in &sources {
        job.facts.check(source.component())?;
    }
    let mut output = output("checkpoint", epoch.to_string(), work.store.adopt(&path)?);
    output.content = Some(content);
    Ok(output)
}
