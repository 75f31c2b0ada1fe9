//! Writes the checkpoints, tensor by tensor, in the layout of Stability's single files.

use crate::{
    action::output,
    checkpoint::{Component, ComponentSource, TensorFile, TensorView},
    error::StageError,
    export::ExportJob,
    precision::Precision,
    tensors,
    work::Work,
};
use safetensors::{Dtype, View};
use sd3pipe_cache::{Digest, Output};
use std::{borrow::Cow, sync::Arc, time::Instant};

/// Carries out the missing actions of a job.
pub fn export(job: &ExportJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    work.progress.begin("checkpoints", missing.len() as u64, "checkpoints");
    for (done, index) in missing.iter().enumerate() {
        work.check_interrupt()?;
        let start = Instant::now();
        let output = write_checkpoint(job, *index, work)?;
        work.publish(&job.actions[*index], vec![output], start.elapsed().as_secs_f64())?;
        work.flush()?;
        work.progress.advance(done as u64 + 1, &job.actions[*index].label);
    }
    work.progress.end();
    Ok(())
}

fn write_checkpoint(job: &ExportJob, index: usize, work: &Work<'_>) -> Result<Output, StageError> {
    let (epoch, weights) = &job.checkpoints[index];
    let precision = job.parameters.precision;
    let trained =
        ComponentSource::find(Arc::new(TensorFile::open(work.store.file(&weights.digest)?)?), Component::Mmdit)?;
    let vae = [Component::VaeEncoder, Component::VaeDecoder]
        .map(|component| Ok::<_, StageError>((component, job.facts.open(component)?)));
    let vae = vae.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut tensors = Vec::new();
    for (component, source) in
        std::iter::once((Component::Mmdit, Some(&trained))).chain(vae.iter().map(|(c, s)| (*c, s.as_ref())))
    {
        for (name, view) in source.into_iter().flat_map(ComponentSource::tensors) {
            let name = format!("{}{name}", component.prefix());
            check(&name, view, precision)?;
            tensors.push((name, Cast { view, precision }));
        }
    }
    let content = content_digest(&tensors);
    let path = work.store.temporary_path();
    // The header is ours to order: with several notes, that of the library would follow a hash map.
    tensors::write_file(&path, tensors, &job.metadata(*epoch, &weights.digest))?;
    job.facts.check(Component::VaeEncoder)?;
    let mut output = output("checkpoint", epoch.to_string(), work.store.adopt(&path)?);
    output.content = Some(content);
    Ok(output)
}

/// The digest of the MMDiT as it was written: what sampling depends on, whatever the metadata says.
fn content_digest(tensors: &[(String, Cast<'_>)]) -> Digest {
    let mut lines = Vec::new();
    for (name, tensor) in tensors.iter().filter(|(name, _)| name.starts_with(Component::Mmdit.prefix())) {
        lines.push(format!("{name} {:?} {:?} {}", tensor.dtype(), tensor.shape(), Digest::of(&tensor.data())));
    }
    lines.sort();
    Digest::of(lines.join("\n").as_bytes())
}

/// Refuses what the target type can't hold: an overflow to infinity would only show as black images.
fn check(name: &str, view: TensorView<'_>, precision: Precision) -> Result<(), StageError> {
    let largest = if precision == Precision::F16 { 65504.0 } else { f32::MAX };
    let values = tensors::decode(view.dtype, view.bytes)
        .ok_or_else(|| StageError::Numbers(format!("{name} is stored as {}, which can't be exported", view.dtype)))?;
    match values.iter().find(|value| value.is_nan() || value.abs() > largest) {
        Some(value) => {
            Err(StageError::Numbers(format!("{name} holds {value}, which {precision:?} can't; export as Bf16 or F32")))
        }
        None => Ok(()),
    }
}

/// A tensor of a file, cast while it is written.
struct Cast<'f> {
    view: TensorView<'f>,
    precision: Precision,
}

impl View for Cast<'_> {
    fn dtype(&self) -> Dtype {
        self.precision.dtype()
    }

    fn shape(&self) -> &[usize] {
        self.view.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.view.dtype == self.dtype() {
            return Cow::Borrowed(self.view.bytes);
        }
        // Types that can't be decoded were refused by `check`.
        Cow::Owned(self.precision.encode(&tensors::decode(self.view.dtype, self.view.bytes).unwrap_or_default()))
    }

    fn data_len(&self) -> usize {
        self.view.shape.iter().product::<usize>() * self.precision.bytes()
    }
}
