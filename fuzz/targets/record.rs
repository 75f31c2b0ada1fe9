//! Everything that the store gives back: preimages, outputs, digests, remembered files, artifacts, items, tensors, journals.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sd3pipe::run::Journal;
use sd3pipe_cache::{Digest, Preimage, diff, fuzzing};
use sd3pipe_fuzz::parts;
use sd3pipe_stages::{action::Artifact, captions::Items, tensors};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 8 {
        0 => {
            let read = |part: &[u8]| Preimage::from_json(str::from_utf8(part).ok()?).ok();
            let preimages: Vec<Preimage> = parts(data).take(2).filter_map(read).collect();
            for preimage in &preimages {
                let again = Preimage::from_json(&preimage.to_json()).expect("a preimage reads back");
                assert_eq!(again.key(), preimage.key());
                assert!(diff(preimage, &again).is_empty());
            }
            if let [old, new] = &preimages[..] {
                assert_eq!(diff(old, new).is_empty(), old.key() == new.key());
            }
        }
        1 => fuzzing::outputs(data),
        2 => fuzzing::remembered_file(data),
        3 => {
            if let Ok(artifact) = Artifact::from_bytes(data) {
                let bytes = artifact.to_bytes().expect("an artifact can be written");
                assert_eq!(Artifact::from_bytes(&bytes).expect("it reads back"), artifact);
            }
        }
        4 => {
            if let Ok(items) = Items::from_json(data) {
                let bytes = items.to_json().expect("items can be written");
                assert_eq!(Items::from_json(&bytes).expect("they read back"), items);
            }
        }
        5 => drop(tensors::from_bytes(data)),
        6 => drop(serde_json::from_slice::<Journal>(data)),
        _ => {
            if let Some(digest) = str::from_utf8(data).ok().and_then(|text| text.parse::<Digest>().ok()) {
                assert_eq!(digest.to_string().as_bytes(), data);
            }
        }
    }
});
