//! Runs the VAE's encoder over pictures.

use crate::{
    action::output,
    checkpoint::Component,
    device::{self, DeviceKind},
    error::StageError,
    images::{ImagesJob, Latents, Made, Mask, Picture, bucket::Placement, prepare::prepare},
    nn::{self, VaeEncoder},
    spread::spread,
    tensors::Array,
    work::Work,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::{Digest, Object};
use std::{path::PathBuf, sync::mpsc, time::Instant};

/// Pictures that are decoded ahead while the network is busy.
const AHEAD: usize = 4;

/// The RGB pixels of a picture in its bucket.
type Pixels = Vec<u8>;

/// What decoding a picture came to.
enum Decoded {
    Ready(Pixels),
    ReadyMask(Mask),
    Changed(PathBuf),
    Faulty(String),
}

/// Carries out the missing actions of a job. Pictures that can't be used are all named at the end; the others are kept.
pub fn encode(job: &ImagesJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    let (mut pictures, masks): (Vec<usize>, Vec<usize>) =
        missing.iter().partition(|index| job.pictures[**index].made == Made::Latents);
    let mut faults = read_masks(job, &masks, work)?;
    if !pictures.is_empty() {
        tell_of_losses(job, &pictures, work);
        // Pictures of one bucket stand together, so that a GPU gets whole batches.
        pictures.sort_by_key(|index| (job.pictures[*index].placement.bucket, *index));
        let found = spread(&pictures, work, |own, work| encode_pictures(job, own, work))?;
        faults.extend(found.into_iter().flatten());
    }
    if faults.is_empty() { Ok(()) } else { Err(StageError::Items { what: "images", faults }) }
}

/// Reads masks, which needs no network; gives what is wrong with some.
fn read_masks(job: &ImagesJob, missing: &[usize], work: &mut Work<'_>) -> Result<Vec<String>, StageError> {
    let mut faults = Vec::new();
    for &index in missing {
        work.check_interrupt()?;
        let start = Instant::now();
        match decode(&job.pictures[index]) {
            Decoded::ReadyMask(mask) => {
                let object = work.store.put(&mask.to_bytes()?)?;
                publish(job, index, object, start.elapsed().as_secs_f64(), work)?;
            }
            Decoded::Changed(path) => work.changed.push(path),
            Decoded::Faulty(fault) => faults.push(fault),
            Decoded::Ready(_) => {}
        }
    }
    work.flush()?;
    Ok(faults)
}

fn publish(job: &ImagesJob, index: usize, object: Object, seconds: f64, work: &mut Work<'_>) -> Result<(), StageError> {
    let action = &job.actions[index];
    work.publish(action, vec![output(job.pictures[index].role(), action.label.clone(), object)], seconds)
}

/// Runs the network over pictures, in their order; gives what is wrong with some.
fn encode_pictures(job: &ImagesJob, missing: &[usize], work: &mut Work<'_>) -> Result<Vec<String>, StageError> {
    let Some(source) = job.facts.open(Component::VaeEncoder)? else {
        return Err(StageError::Unfit(
            "the model has no VAE; name one: model: (…, vae: \"vae.safetensors\")".to_owned(),
        ));
    };
    let device = work.device().open();
    let weights = nn::load(&source, &device, nn::dtype(job.parameters.precision))?;
    job.facts.check(Component::VaeEncoder)?;
    let encoder = VaeEncoder::new(&weights.root())?;

    // On the CPU each goes alone: see `text::encode`.
    let batch = if job.facts.device == DeviceKind::Cpu { 1 } else { job.parameters.batch.max(1) as usize };

    let buckets = missing.iter().map(|index| job.pictures[*index].placement.bucket);
    let needed = buckets.map(|(width, height)| encoder.needed([height as usize, width as usize])).max();
    if needed.zip(device::free(&device)).is_some_and(|(needed, free)| needed > free) {
        work.progress.line("the GPU has no room for whole images in the VAE: they go through it in strips");
    }

    let mut faults = Vec::new();
    work.progress.begin("images", missing.len() as u64, "images");
    std::thread::scope(|scope| -> Result<(), StageError> {
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        scope.spawn(move || {
            for &index in missing {
                if sender.send((index, decode(&job.pictures[index]))).is_err() {
                    return;
                }
            }
        });
        let mut waiting: Vec<(usize, Pixels)> = Vec::new();
        let mut done = 0;
        let mut arrived = receiver.into_iter().peekable();
        while let Some((index, decoded)) = arrived.next() {
            work.check_interrupt()?;
            match decoded {
                Decoded::Ready(pixels) => waiting.push((index, pixels)),
                Decoded::Changed(path) => work.changed.push(path),
                Decoded::Faulty(fault) => faults.push(fault),
                Decoded::ReadyMask(_) => {}
            }
            let bucket = |index: usize| job.pictures[index].placement.bucket;
            let next_fits = arrived
                .peek()
                .is_some_and(|(next, _)| waiting.first().is_some_and(|(first, _)| bucket(*first) == bucket(*next)));
            if !waiting.is_empty() && (waiting.len() == batch || !next_fits) {
                done += waiting.len() as u64;
                run_batch(job, &encoder, batch, std::mem::take(&mut waiting), &device, work)?;
                work.progress.advance(done, &job.actions[index].label);
            }
        }
        Ok(())
    })?;
    work.flush()?;
    work.progress.end();
    Ok(faults)
}

/// Above this an image gets visibly soft.
const SOFT: f64 = 2.0;
/// Below this share of an image, what was cropped off is worth a look.
const CROPPED: f64 = 0.8;

/// So many images are named in a line.
const NAMED: usize = 20;

/// Names the images that lose something on the way into their buckets.
fn tell_of_losses(job: &ImagesJob, missing: &[usize], work: &Work<'_>) {
    let named = |lost: fn(&Placement) -> bool| -> Vec<&str> {
        missing
            .iter()
            .filter(|index| !job.pictures[**index].flip && lost(&job.pictures[**index].placement))
            .map(|index| job.actions[*index].label.as_str())
            .collect()
    };
    let tell = |what: &str, names: Vec<&str>| {
        if !names.is_empty() {
            let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
            work.progress.line(&format!(
                "{} {what}: {}{more}",
                names.len(),
                names[..names.len().min(NAMED)].join(", ")
            ));
        }
    };
    tell("images are enlarged more than twice", named(|placement| placement.enlargement() > SOFT));
    tell("images lose more than a fifth of their area to the crop", named(|placement| placement.kept() < CROPPED));
}

fn decode(picture: &Picture) -> Decoded {
    let bytes = match std::fs::read(&picture.path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Decoded::Changed(picture.path.clone()),
        Err(error) => return Decoded::Faulty(format!("  {}: {error}", picture.path.display())),
    };
    // What is encoded must be what the key says: the bytes that were hashed, not what lies there now.
    if Digest::of(&bytes).to_string() != picture.digest {
        return Decoded::Changed(picture.path.clone());
    }
    let decoded = match picture.made {
        Made::Latents => prepare(&bytes, &picture.placement, picture.flip).map(Decoded::Ready),
        made => Mask::read(&bytes, made == Made::AlphaMask, &picture.placement, picture.flip).map(Decoded::ReadyMask),
    };
    match decoded {
        Ok(decoded) => decoded,
        Err(fault) => Decoded::Faulty(format!("  {}: {fault}", picture.path.display())),
    }
}

fn run_batch(
    job: &ImagesJob,
    encoder: &VaeEncoder,
    batch: usize,
    members: Vec<(usize, Pixels)>,
    device: &Device,
    work: &mut Work<'_>,
) -> Result<(), StageError> {
    let start = Instant::now();
    let (width, height) = job.pictures[members[0].0].placement.bucket;
    let (width, height) = (width as usize, height as usize);
    // Filled up with the first picture, so that on a GPU every product has the same shape.
    let pictures = members.iter().map(|(_, pixels)| pixels).chain(std::iter::repeat(&members[0].1)).take(batch);
    let pixels: Vec<f32> = pictures.flat_map(|picture| planes(picture)).collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, [batch, 3, height, width]), (device, DType::F32));
    let (mean, log_variance) = encoder.encode(images.cast(nn::dtype(job.parameters.precision)));
    let [_, channels, rows, columns] = mean.dims();
    let each = channels * rows * columns;
    let (mean, log_variance) = (nn::to_host(mean), nn::to_host(log_variance));
    let seconds = start.elapsed().as_secs_f64() / members.len() as f64;
    for (position, (index, _)) in members.iter().enumerate() {
        let cut = |values: &[f32]| Array {
            shape: vec![channels, rows, columns],
            values: values[position * each..(position + 1) * each].to_vec(),
        };
        let latents = Latents { mean: cut(&mean), log_variance: cut(&log_variance) };
        let object = work.store.put(&latents.to_bytes(job.parameters.precision, &job.pictures[*index].placement)?)?;
        publish(job, *index, object, seconds, work)?;
    }
    Ok(())
}

/// Bytes of RGB pixels as three planes in [−1, 1]: the VAE's input.
pub fn planes(rgb: &[u8]) -> impl Iterator<Item = f32> {
    (0..3).flat_map(move |channel| rgb.iter().skip(channel).step_by(3).map(|value| f32::from(*value) / 127.5 - 1.0))
}
