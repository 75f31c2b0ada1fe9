//! An image file: its size from the header, its pixels, turned upright, in its bucket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sd3pipe_stages::images::{
    Mask,
    bucket::place,
    decode::{decode, probe},
    parameters::{Buckets, EncodeImages, Resolution},
    prepare::prepare,
};

/// Pixels of an image that is decoded here: larger ones only take longer.
const MOST_PIXELS: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&[width, height, step, flags], bytes)) = data.split_first_chunk::<4>() else { return };
    let Ok((shown_width, shown_height)) = probe(bytes) else {
        assert!(decode(bytes).is_err());
        return;
    };
    if u64::from(shown_width) * u64::from(shown_height) > MOST_PIXELS {
        return;
    }
    let side = |side: u8| 16 * (1 + u32::from(side % 32));
    let buckets = Buckets { step: u32::from(step) * 4, upscale: flags & 1 == 0, ..Buckets::default() };
    let parameters = EncodeImages {
        resolution: Resolution { width: side(width), height: side(height) },
        buckets: (flags & 2 == 0).then_some(buckets),
        ..EncodeImages::default()
    };
    if !parameters.problems().is_empty() {
        return;
    }
    let Ok(placement) = place(shown_width, shown_height, parameters.resolution, parameters.buckets.as_ref()) else {
        return;
    };
    let (width, height) = placement.bucket;
    if let Ok(rgb) = prepare(bytes, &placement, flags & 4 == 0) {
        assert_eq!(rgb.len(), (width * height * 3) as usize);
    }
    if let Ok(mask) = Mask::read(bytes, flags & 8 == 0, &placement, flags & 4 == 0) {
        assert_eq!(mask.cells.values.len(), (width / 8 * (height / 8)) as usize);
    }
});
