//! Sampling against diffusers' `StableDiffusion3Pipeline` (see `tools/goldens/sampler.py`).
//!
//! Whoever has to change a number here changes what equal inputs give, and must raise `sample::REVISION`.
#![cfg(feature = "compute")]

mod golden;

use golden::{Golden, error, values};
use sd3pipe_stages::checkpoint::{Component, ComponentSource, Dtype};
use sd3pipe_stages::nn::{Mmdit, VaeDecoder, load, process_out};
use sd3pipe_stages::sample::{Guidance, draw, sigmas::sigmas, to_rgb};

/// The relative error, by Euclidean length, of latents after ten guided steps.
const OF_LATENTS: f64 = 2e-5;

const FORMS: [&str; 3] = ["sampler-3-medium", "sampler-3.5-medium", "sampler-3.5-large"];

#[test]
fn the_sigmas_equal_the_scheduler_s() {
    let golden = Golden::open(FORMS[0]);
    for steps in [4, 10, 28] {
        let expected = golden.floats(&format!("sigmas {steps}"));
        let found = sigmas(steps, golden.config("shift"));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - f64::from(expected)).abs() <= 1e-6, "{steps} steps: {found} and not {expected}");
        }
    }
}

#[test]
fn a_guided_image_equals_the_reference() {
    for form in FORMS {
        let golden = Golden::open(form);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let prefix = |name: &str| {
            if name.starts_with("encoder.") || name.starts_with("decoder.") {
                "first_stage_model."
            } else {
                "model.diffusion_model."
            }
        };
        let tensors = golden.shapes.iter().map(|(name, shape)| (prefix(name), name.as_str(), shape.as_slice()));
        golden::write_checkpoint(&path, Dtype::F32, tensors);
        let weights = |component| {
            let source = ComponentSource::open(&path, component).unwrap();
            load(&source, &burn::tensor::Device::flex(), burn::tensor::DType::F32).unwrap()
        };
        let network = Mmdit::new(&weights(Component::Mmdit).root()).unwrap();
        let decoder = VaeDecoder::new(&weights(Component::VaeDecoder).root()).unwrap();

        let text = |name: &str| (golden.tensor(&format!("{name} context")), golden.tensor(&format!("{name} pooled")));
        let guidance = Guidance { prompt: text("prompt"), negative: Some(text("negative")), cfg: golden.config("cfg") };
        let sigmas = sigmas(golden.config("steps"), golden.config("shift"));
        let latents = draw(&network, golden.tensor("noise"), &guidance, &sigmas, || Ok(())).unwrap();
        let off = error(&values(latents.clone()), &golden.floats("latents"));
        println!("{form}: latents {off:.1e}");
        assert!(off <= OF_LATENTS, "{form}: the latents are off by {off:e}");

        let image = to_rgb(decoder.decode(process_out(latents))).unwrap();
        let expected = golden.file.bytes("image").unwrap();
        assert_eq!(image.len(), expected.len());
        let differ = image.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        println!("{form}: {differ} of {} bytes differ", image.len());
        assert!(image.iter().zip(expected).all(|(found, expected)| found.abs_diff(*expected) <= 1), "{form}");
        // Those that lie between two bytes; if bytes were not rounded, half of them would be others.
        assert!(differ * 100 <= image.len(), "{form}: {differ} bytes differ");
    }
}
