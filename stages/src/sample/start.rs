//! The latents of a picture that drawing starts from.

use crate::{
    checkpoint::Component,
    error::StageError,
    images::{
        bucket,
        decode::{self, probe},
        parameters::Resolution,
        planes,
        prepare::prepare,
    },
    nn::{self, VaeEncoder},
    sample::{SampleJob, parameters::StartImage},
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::Digest;
use std::{fs::File, io::Read};

/// The mean of the VAE's posterior of the picture, scaled and cropped to cover what is drawn, as the MMDiT takes it:
/// `[1, 16, height / 8, width / 8]` in 32 bits.
pub(super) fn latents(
    job: &SampleJob,
    image: &StartImage,
    device: &Device,
    dtype: DType,
) -> Result<Tensor<4>, StageError> {
    let path = &image.path;
    let unfit = |reason: String| StageError::Unfit(format!("`image`: {}: {reason}", path.display()));
    let mut bytes = Vec::new();
    let opened = File::open(path).and_then(|file| file.take(decode::MOST_BYTES + 1).read_to_end(&mut bytes));
    opened.map_err(|error| unfit(error.to_string()))?;
    // What is drawn from must be what the key says, and not what lies there now.
    if job.facts.pictures.get(path).is_none_or(|located| located.digest != Digest::of(&bytes)) {
        return Err(StageError::Changed { paths: vec![path.clone()] });
    }
    let (width, height) = probe(&bytes).map_err(|fault| unfit(fault.to_string()))?;
    let resolution = Resolution { width: job.parameters.size.0, height: job.parameters.size.1 };
    let placement = bucket::place(width, height, resolution, None).map_err(|fault| unfit(fault.to_string()))?;
    let pixels = prepare(&bytes, &placement, false).map_err(|fault| unfit(fault.to_string()))?;
    let shape = [1, 3, resolution.height as usize, resolution.width as usize];
    let pixels = Tensor::<4>::from_data(TensorData::new(planes(&pixels).collect(), shape), (device, DType::F32));

    let source = job.facts.open(Component::VaeEncoder)?;
    let source = source.ok_or_else(|| unfit("the model's VAE has no encoder to start from a picture".to_owned()))?;
    let weights = nn::load(&source, device, dtype)?;
    job.facts.check(Component::VaeEncoder)?;
    let (mean, _) = VaeEncoder::new(&weights.root())?.encode(pixels.cast(dtype));
    Ok(nn::process_in(mean.cast(DType::F32)))
}
