//! Writes a trained adapter: as files of its own, or into a copy of the model.

use crate::{
    action::output,
    adapter::{self, Adapter, Base, MAGNITUDE, parameters::Lora, prefix},
    checkpoint::{Component, ComponentSource, TensorFile},
    error::StageError,
    export::{ExportJob, LORA_DIFFUSERS, LORA_KOHYA, parameters::LoraForm},
    precision::Precision,
    tensors::{self, Array, EncodedArray},
    work::Work,
};
use safetensors::{Dtype, View};
use sd3pipe_cache::Output;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// The files of one checkpoint.
pub(super) fn write(job: &ExportJob, index: usize, form: LoraForm, work: &Work<'_>) -> Result<Vec<Output>, StageError> {
    let (epoch, entry) = &job.checkpoints[index];
    let (base, adapter) = open(job, index, work)?;
    let mut notes = job.metadata(*epoch, &entry.digest);
    notes.entry("modelspec.architecture".to_owned()).and_modify(|architecture| architecture.push_str("/lora"));
    let mut outputs = Vec::new();
    if matches!(form, LoraForm::Kohya | LoraForm::Both) {
        let mut notes = notes.clone();
        // The largest, where layers differ: programs show it and read each layer's own off its tensors.
        let largest = adapter.sites.values().max_by_key(|low_rank| low_rank.rank());
        let (rank, scale) = largest.map(|low_rank| (low_rank.rank(), low_rank.scale)).unwrap_or_default();
        notes.extend([
            ("ss_network_module".to_owned(), "networks.lora_sd3".to_owned()),
            ("ss_network_dim".to_owned(), rank.to_string()),
            ("ss_network_alpha".to_owned(), (scale * rank as f32).to_string()),
        ]);
        outputs.push(write_file(job, LORA_KOHYA, *epoch, &adapter.to_kohya(&base), &notes, work)?);
    }
    if matches!(form, LoraForm::Diffusers | LoraForm::Both) {
        notes.insert("format".to_owned(), "pt".to_owned());
        outputs.push(write_file(job, LORA_DIFFUSERS, *epoch, &adapter.to_diffusers(&base), &notes, work)?);
    }
    check(job)?;
    Ok(outputs)
}

fn write_file(
    job: &ExportJob,
    role: &str,
    epoch: u32,
    arrays: &[(String, Array)],
    notes: &BTreeMap<String, String>,
    work: &Work<'_>,
) -> Result<Output, StageError> {
    let mut encoded = Vec::new();
    for (name, array) in arrays {
        // An alpha that is rounded would be another strength, a magnitude another length; they are few.
        let half = name.ends_with(".weight") && !name.contains(MAGNITUDE);
        let precision = if half { job.parameters.precision } else { Precision::F32 };
        tensors::check(name, array, precision)?;
        encoded.push((name.clone(), EncodedArray { array, precision }));
    }
    let path = work.store.temporary_path();
    tensors::write_file(&path, encoded, notes)?;
    let content = adapter::file_digest(&path)?;
    let mut output = output(role, epoch.to_string(), work.store.adopt(&path)?);
    output.content = Some(content);
    Ok(output)
}

/// A network of the model with the adapter in it, in the export's precision.
pub(super) fn merged(
    job: &ExportJob,
    index: usize,
    strength: f64,
    network: Component,
    work: &Work<'_>,
) -> Result<ComponentSource, StageError> {
    let (base, adapter) = open(job, index, work)?;
    let source = base.source(network).ok_or_else(|| StageError::Unfit(format!("the adapter is none of {network}")))?;
    let tensors = source.tensors().map(|(name, view)| {
        let tensor = Merged {
            base: &base,
            source,
            adapter: &adapter,
            name,
            shape: view.shape,
            strength: strength as f32,
            precision: job.parameters.precision,
        };
        (name.to_owned(), tensor)
    });
    let path = work.store.temporary_path();
    tensors::write_file(&path, tensors.collect(), &BTreeMap::new())?;
    check(job)?;
    let file = TensorFile::open(&path)?;
    // What is mapped stays until it is let go.
    std::fs::remove_file(&path).map_err(|source| StageError::File { path, source })?;
    Ok(ComponentSource::find(Arc::new(file), network)?)
}

fn open<'j>(job: &'j ExportJob, index: usize, work: &Work<'_>) -> Result<(Base<'j>, Adapter), StageError> {
    let base = job.facts.base(&networks(job))?;
    let adapter = Adapter::read(&work.store.file(&job.checkpoints[index].1.digest)?, &base)?;
    Ok((base, adapter))
}

fn networks(job: &ExportJob) -> Vec<Component> {
    job.adapter.as_ref().map(Lora::networks).unwrap_or_default()
}

/// Makes sure that what was opened is still what the key says.
fn check(job: &ExportJob) -> Result<(), StageError> {
    networks(job).into_iter().try_for_each(|network| job.facts.check(network))
}

struct Merged<'m> {
    base: &'m Base<'m>,
    source: &'m ComponentSource,
    adapter: &'m Adapter,
    name: &'m str,
    shape: Vec<usize>,
    strength: f32,
    precision: Precision,
}

impl View for Merged<'_> {
    fn dtype(&self) -> Dtype {
        self.precision.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let name = format!("{}{}", prefix(self.source.component()), self.name);
        let merged = self.adapter.merged(self.base, &name, self.strength).map(|array| array.values);
        let plain = || {
            let view = self.source.tensor(self.name)?;
            tensors::decode(view.dtype, &view.bytes())
        };
        let bytes = self.precision.encode(&merged.or_else(plain).unwrap_or_default());
        self.source.release(self.name);
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.precision.bytes()
    }
}
