//! A pipeline file, the file that it extends, and `--set` strings: read, checked, and what is wrong with them shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sd3pipe::{cli::diagnostics::render, pipeline::load};
use sd3pipe_cache::Preimage;
use sd3pipe_fuzz::{file, parts};

fuzz_target!(|data: &[u8]| {
    let mut parts = parts(data);
    let path = file("pipeline.ron", parts.next().unwrap_or_default());
    file("base.ron", parts.next().unwrap_or_default());
    // What seeds name, so that a sound pipeline is one here.
    file("model.safetensors", b"");
    file("photos/a.png", b"");
    let settings: Vec<String> = parts.filter_map(|part| String::from_utf8(part.to_vec()).ok()).collect();
    match load(&path, &settings) {
        Ok(resolved) => {
            for stage in &resolved.stages {
                let parameters = stage.stage.parameters().expect("parameters can be written");
                Preimage::new("fuzz", 1).read("parameters", &parameters).expect("parameters can be in a key");
            }
            let again = file("again.ron", resolved.to_ron().expect("a pipeline can be written").as_bytes());
            let again = load(&again, &[]).expect("a resolved pipeline is a pipeline");
            assert_eq!(again.pipeline, resolved.pipeline);
        }
        Err(diagnostics) => {
            assert!(!render(&diagnostics, true).is_empty());
            let plain = render(&diagnostics, false);
            assert!(!plain.chars().any(|c| c.is_control() && c != '\n'), "{plain:?}");
        }
    }
});
