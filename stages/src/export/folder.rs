//! Writes a checkpoint as a diffusers folder: an object for each file, of which only those of what is trained differ from epoch to epoch.

use super::{
    ENCODER_FILE, TRANSFORMER_FILE, config, encoder_folder,
    tensor::{Cast, Network, cast_all, content_digest},
    tokenizers,
    write::trained,
};
use crate::{
    action::output,
    checkpoint::{Component, ComponentSource, Dtype, Layout, TensorView},
    error::StageError,
    export::ExportJob,
    facts::TEXT_ENCODERS,
    precision::Precision,
    tensors,
    work::Work,
};
use sd3pipe_cache::Output;
use std::collections::BTreeMap;

/// CLIP's projection, which diffusers wants of both CLIPs and Stability's files have of one.
const PROJECTION: &str = "text_projection.weight";

/// The files of one checkpoint, sorted by path. `common` keeps those that are equal for all of them.
pub(super) fn write(
    job: &ExportJob,
    index: usize,
    common: &mut Option<Vec<Output>>,
    work: &Work<'_>,
) -> Result<Vec<Output>, StageError> {
    let (epoch, weights) = &job.checkpoints[index];
    let files = match common {
        Some(files) => files,
        none => none.insert(write_common(job, work)?),
    };
    let mut files = files.clone();
    let own = std::iter::once(Component::Mmdit).chain(job.others().filter(|component| job.trains(*component)));
    let sources = own.map(|network| trained(job, index, network, work)).collect::<Result<Vec<_>, _>>()?;
    let cast = |source| Ok((ComponentSource::component(source), cast_all(source, job.parameters.precision)?));
    let networks: Vec<Network<'_>> = sources.iter().map(cast).collect::<Result<_, StageError>>()?;
    let notes = job.metadata(*epoch, &weights.digest);
    for (source, (network, tensors)) in sources.iter().zip(&networks) {
        if *network == Component::Mmdit {
            let layout = Layout::DiffusersMmdit { depth: job.facts.geometry.depth };
            let mut file = write_weights(TRANSFORMER_FILE, store(layout, tensors)?, notes.clone(), work)?;
            file.content = Some(content_digest(&networks));
            files.push(file);
        } else {
            files.push(write_text_encoder(source, job.parameters.precision, notes.clone(), work)?);
        }
    }
    files.sort_by(|left, right| left.item.cmp(&right.item));
    for file in &mut files {
        file.item = format!("{epoch}/{}", file.item);
    }
    Ok(files)
}

/// Everything but the weights that are trained.
fn write_common(job: &ExportJob, work: &Work<'_>) -> Result<Vec<Output>, StageError> {
    let precision = job.parameters.precision;
    let mut files = Vec::new();
    // The name of each part of the pipeline: the library and the class that load it.
    let mut parts = BTreeMap::from([
        ("scheduler", ("diffusers", "FlowMatchEulerDiscreteScheduler")),
        ("transformer", ("diffusers", "SD3Transformer2DModel")),
    ]);
    let mut texts = vec![
        ("scheduler/scheduler_config.json".to_owned(), config::scheduler()),
        ("transformer/config.json".to_owned(), config::transformer(&job.facts.geometry)),
    ];

    if let (Some(encoder), Some(decoder)) =
        (job.facts.open(Component::VaeEncoder)?, job.facts.open(Component::VaeDecoder)?)
    {
        parts.insert("vae", ("diffusers", "AutoencoderKL"));
        texts.push(("vae/config.json".to_owned(), config::autoencoder(&encoder, &decoder)?));
        let mut tensors = Vec::new();
        let halves = [(&encoder, "down", "encoder."), (&decoder, "up", "decoder.")];
        let cast = halves.map(|(source, ..)| cast_all(source, precision));
        for (cast, (source, level, half)) in cast.into_iter().zip(halves) {
            let levels = config::count(source, |index| format!("{level}.{index}.block.0.conv1.weight"));
            tensors.extend(store(Layout::DiffusersVae { half, levels }, &cast?)?);
        }
        files.push(write_weights("vae/diffusion_pytorch_model.safetensors", tensors, BTreeMap::new(), work)?);
        job.facts.check(Component::VaeEncoder)?;
        job.facts.check(Component::VaeDecoder)?;
    }

    let included = TEXT_ENCODERS.into_iter().filter(|_| job.parameters.text_encoders);
    for component in included {
        let Some(source) = job.facts.open(component)? else { continue };
        let folder = encoder_folder(component);
        let class = if component == Component::T5 { "T5EncoderModel" } else { "CLIPTextModelWithProjection" };
        parts.insert(folder, ("transformers", class));
        texts.push((format!("{folder}/config.json"), config::text_encoder(&source, precision)?));
        if !job.trains(component) {
            files.push(write_text_encoder(&source, precision, BTreeMap::new(), work)?);
        }
        job.facts.check(component)?;
    }

    for tokenizer in tokenizers::all(&job.facts)? {
        parts.insert(tokenizer.folder, ("transformers", tokenizer.class));
        for (name, bytes) in tokenizer.files {
            texts.push((format!("{}/{name}", tokenizer.folder), bytes));
        }
    }
    texts.push(("model_index.json".to_owned(), config::index(&parts)));
    for (name, text) in texts {
        files.push(output("file", name, work.store.put(&text)?));
    }
    Ok(files)
}

/// A CLIP-L without a projection gets the identity: diffusers would make one up.
fn write_text_encoder(
    source: &ComponentSource,
    precision: Precision,
    notes: BTreeMap<String, String>,
    work: &Work<'_>,
) -> Result<Output, StageError> {
    let width = match source.shape("text_model.embeddings.token_embedding.weight") {
        Some(&[_, width]) if source.shape(PROJECTION).is_none() => width,
        _ => 0,
    };
    let one = |index| if index / width == index % width { 1f32 } else { 0.0 };
    let identity: Vec<u8> = (0..width * width).flat_map(|index| one(index).to_le_bytes()).collect();
    let mut tensors = cast_all(source, precision)?;
    if width > 0 {
        let view = TensorView::new(Dtype::F32, vec![width, width], &identity);
        tensors.push((PROJECTION.to_owned(), Cast::new(PROJECTION, view, precision)?));
    }
    let name = format!("{}/{ENCODER_FILE}", encoder_folder(source.component()));
    write_weights(&name, tensors, notes, work)
}

/// The tensors of a network in a layout.
fn store<'f>(layout: Layout, tensors: &[(String, Cast<'f>)]) -> Result<Vec<(String, Cast<'f>)>, StageError> {
    let mut stored = Vec::new();
    for (name, cast) in tensors {
        let parts = layout.store(name, cast.view()).ok_or_else(|| StageError::Unexportable {
            what: name.clone(),
            reason: "diffusers has no place for it".into(),
        })?;
        stored.extend(parts.into_iter().map(|(name, view)| (name, cast.with_view(view))));
    }
    Ok(stored)
}

fn write_weights(
    name: &str,
    tensors: Vec<(String, Cast<'_>)>,
    mut notes: BTreeMap<String, String>,
    work: &Work<'_>,
) -> Result<Output, StageError> {
    let path = work.store.temporary_path();
    // transformers refuses a file that does not say so.
    notes.insert("format".to_owned(), "pt".to_owned());
    tensors::write_file(&path, tensors, &notes)?;
    Ok(output("file", name, work.store.adopt(&path)?))
}
