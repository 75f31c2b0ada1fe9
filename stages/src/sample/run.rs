//! Draws the missing images: prompts first, then checkpoint by checkpoint, then the sheet.

use crate::{
    action::output,
    device::DeviceKind,
    error::StageError,
    nn::Mmdit,
    sample::{SAMPLE_LATENTS, SampleJob, png, sheet, studio::Studio},
    share::{Sharing, share},
    spread::spread,
    text::{self, Encoded},
    work::Work,
};
use std::{collections::BTreeMap, time::Instant};

/// Carries out the missing actions of a job.
pub fn sample(job: &SampleJob, missing: &[usize], work: &mut Work<'_>) -> Result<(), StageError> {
    let images: Vec<usize> = missing.iter().copied().filter(|index| *index != job.sheet()).collect();
    if !images.is_empty() {
        let encoded = encode_prompts(job, work)?;
        spread(&images, work, |own, work| draw_images(job, own, encoded.clone(), work))?;
    }
    if missing.contains(&job.sheet()) {
        let start = Instant::now();
        let sheet = make_sheet(job, work)?;
        let outputs = vec![output("sheet", "contact-sheet.png", work.store.put(&sheet)?)];
        work.publish(&job.actions[job.sheet()], outputs, start.elapsed().as_secs_f64())?;
    }
    work.flush()
}

fn draw_images(
    job: &SampleJob,
    images: &[usize],
    encoded: BTreeMap<String, Encoded>,
    work: &mut Work<'_>,
) -> Result<(), StageError> {
    let studio = Studio::open(job, encoded, work)?;
    // On a CPU each goes alone: see `text::encode`.
    let batch = if job.facts.device == DeviceKind::Cpu { 1 } else { job.parameters.batch.max(1) as usize };
    work.progress.begin("samples", images.len() as u64 * studio.steps(), "steps");
    let mut steps = 0;
    for (row_index, row) in job.rows.iter().enumerate() {
        let of_row: Vec<usize> = images.iter().copied().filter(|index| job.shots[*index].row == row_index).collect();
        if of_row.is_empty() {
            continue;
        }
        // One checkpoint in memory at a time.
        let encoded = studio.encoded(row, work)?;
        let network = Mmdit::new(&studio.mmdit(row, work)?.root())?;
        for together in of_row.chunks(batch) {
            let start = Instant::now();
            let pictures = studio.images(&network, &encoded, together, batch, &mut steps, work)?;
            let seconds = start.elapsed().as_secs_f64() / together.len() as f64;
            for (&index, picture) in together.iter().zip(pictures) {
                let name = job.file_name(&job.shots[index]);
                let outputs = vec![
                    output("image", &name, work.store.put(&picture.png)?),
                    output(SAMPLE_LATENTS, &name, work.store.put(&picture.latents)?),
                ];
                work.publish(&job.actions[index], outputs, seconds)?;
            }
            work.flush()?;
        }
    }
    work.progress.end();
    Ok(())
}

/// The prompts' encodings, from the store where they are.
fn encode_prompts(job: &SampleJob, work: &mut Work<'_>) -> Result<BTreeMap<String, Encoded>, StageError> {
    let texts = job.texts()?;
    let mut missing = Vec::new();
    for (index, action) in texts.actions.iter().enumerate() {
        if work.store.outputs(&action.key)?.is_none() {
            missing.push(index);
        }
    }
    if !missing.is_empty() {
        // Captions and other samples may want the same texts just now.
        let sharing = Sharing { stage: "prompts", chained: false, last: None, anew: false };
        share(&texts.actions, missing, sharing, work, &mut |mine, work| text::encode(&texts, mine, work, true))?;
    }
    let mut encoded = BTreeMap::new();
    for (text, action) in texts.texts.iter().zip(&texts.actions) {
        let outputs = work.store.outputs(&action.key)?.unwrap_or_default();
        if let Some(output) = outputs.first() {
            encoded.insert(text.clone(), Encoded::read(work.store, &output.digest)?);
        }
    }
    Ok(encoded)
}

fn make_sheet(job: &SampleJob, work: &mut Work<'_>) -> Result<Vec<u8>, StageError> {
    work.flush()?;
    let mut images = Vec::new();
    for action in &job.actions[..job.shots.len()] {
        let outputs = work.store.outputs(&action.key)?.unwrap_or_default();
        // A sheet with a gap would be kept for good.
        let lost = || StageError::Unfit(format!("{} was made and is not there any more; run again", action.label));
        let output = outputs.first().ok_or_else(lost)?;
        let bytes = work.store.read(&output.digest)?;
        let image = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png);
        let reason =
            |error: image::ImageError| StageError::Unreadable { what: action.label.clone(), reason: error.to_string() };
        images.push(image.map_err(reason)?.to_rgb8().into_raw());
    }
    let rows: Vec<String> = job.rows.iter().map(|row| row.name.clone()).collect();
    let several = job.parameters.seeds.len() > 1;
    let columns = job.parameters.prompts.iter().flat_map(|prompt| {
        job.parameters.seeds.iter().map(move |seed| if several { format!("{seed}: {prompt}") } else { prompt.clone() })
    });
    let (width, height) = job.parameters.size;
    let sheet = sheet::lay_out(&rows, &columns.collect::<Vec<_>>(), &images, (width as usize, height as usize));
    png::encode(sheet.width, sheet.height, &sheet.rgb, &[("software", "sd3pipe".to_owned())])
}
