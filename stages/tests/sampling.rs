//! Sampling against diffusers' `StableDiffusion3Pipeline` (see `tools/goldens/sampler.py` and `samplers.py`).
//!
//! Whoever has to change a number here changes what equal inputs give, and must raise `sample::REVISION`.
#![cfg(feature = "compute")]

mod golden;

use burn::tensor::Tensor;
use golden::{Golden, error, values};
use sd3pipe_stages::checkpoint::{Component, ComponentSource, Dtype};
use sd3pipe_stages::nn::{Mmdit, VaeDecoder, load, process_out};
use sd3pipe_stages::sample::{
    Guidance, Steps, draw,
    parameters::{Sampler, SkipLayers, StartImage},
    sigmas::sigmas,
    to_rgb,
};

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
        let (prompt, negative) = (text("prompt"), Some(text("negative")));
        let guidance = Guidance { prompt, negative, cfg: golden.config("cfg"), skip_layers: None };
        let sigmas = sigmas(golden.config("steps"), golden.config("shift"));
        let steps = Steps { sampler: Sampler::Euler, sigmas: &sigmas, skipped: 0 };
        let latents = draw(&network, golden.tensor("noise"), &guidance, &steps, || Ok(())).unwrap();
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

#[test]
fn what_can_be_added_equals_the_reference_too() {
    let golden = Golden::open("samplers");
    let network = Mmdit::new(&golden.mmdit().root()).unwrap();
    let text = |name: &str| (golden.tensor(&format!("{name} context")), golden.tensor(&format!("{name} pooled")));
    let skip_layers: SkipLayers = golden.config("skip");
    let count: u32 = golden.config("steps");
    let sigmas = sigmas(count, golden.config("shift"));
    let skipped = StartImage { path: "".into(), strength: golden.config("strength") }.skipped(count);
    for (name, sampler, skips, from_picture) in [
        ("euler", Sampler::Euler, false, false),
        ("skip layers", Sampler::Euler, true, false),
        ("dpm", Sampler::Dpm2m, false, false),
        ("picture euler", Sampler::Euler, false, true),
        ("picture dpm", Sampler::Dpm2m, false, true),
    ] {
        let skip_layers = skips.then(|| skip_layers.clone());
        let (prompt, negative) = (text("prompt"), Some(text("negative")));
        let guidance = Guidance { prompt, negative, cfg: golden.config("cfg"), skip_layers };
        let skipped = if from_picture { skipped } else { 0 };
        let (sigma, noise) = (sigmas[skipped], golden.tensor::<4>("noise"));
        let start = noise.mul_scalar(sigma) + golden.tensor::<4>("picture").mul_scalar(1.0 - sigma);
        let steps = Steps { sampler, sigmas: &sigmas, skipped };
        let mut ticks = 0;
        let tick = || {
            ticks += 1;
            Ok(())
        };
        let latents = draw(&network, start, &guidance, &steps, tick).unwrap();
        let off = error(&values(latents), &golden.floats(name));
        println!("{name}: {off:.1e}");
        assert!(off <= OF_LATENTS, "{name} is off by {off:e}");
        assert_eq!(ticks, count as usize - skipped);
    }
}

/// Images that are drawn at once are those that are drawn one by one, but for last bits.
#[test]
fn a_batch_draws_what_single_images_are() {
    let golden = Golden::open("samplers");
    let network = Mmdit::new(&golden.mmdit().root()).unwrap();
    let sigmas = sigmas(4, 3.0);
    let draw = |names: &[&str], noises: &[&str]| {
        let text = |name: &&str| {
            (golden.tensor::<3>(&format!("{name} context")), golden.tensor::<2>(&format!("{name} pooled")))
        };
        let (contexts, pooled): (Vec<_>, Vec<_>) = names.iter().map(text).unzip();
        let negatives: (Vec<_>, Vec<_>) = names.iter().map(|_| text(&"negative")).unzip();
        let cat =
            |(contexts, pooled): (Vec<Tensor<3>>, Vec<Tensor<2>>)| (Tensor::cat(contexts, 0), Tensor::cat(pooled, 0));
        let skip_layers = Some(SkipLayers { layers: vec![1], scale: 2.0, start: 0.0, stop: 1.0 });
        let guidance =
            Guidance { prompt: cat((contexts, pooled)), negative: Some(cat(negatives)), cfg: 3.0, skip_layers };
        let noise = Tensor::cat(noises.iter().map(|name| golden.tensor::<4>(name)).collect(), 0);
        let steps = Steps { sampler: Sampler::Dpm2m, sigmas: &sigmas, skipped: 0 };
        values(draw(&network, noise, &guidance, &steps, || Ok(())).unwrap())
    };
    let both = draw(&["prompt", "negative"], &["noise", "picture"]);
    let singles = [draw(&["prompt"], &["noise"]), draw(&["negative"], &["picture"])].concat();
    let off = error(&both, &singles);
    assert!(off <= 1e-5, "off by {off:e}");
}
