//! Our networks against the reference implementations: small ones, with weights by formula (see `tools/goldens`).
#![cfg(feature = "compute")]

mod golden;

use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use golden::{Golden, error, uniform, values, weight};
use sd3pipe_stages::checkpoint::{Component, ComponentSource, Dtype, MmditModel};
use sd3pipe_stages::nn::clip::{Clip, ClipKind};
use sd3pipe_stages::nn::load::load;
use sd3pipe_stages::nn::mmdit::{Mmdit, PositionCrop};
use sd3pipe_stages::nn::t5::T5;
use sd3pipe_stages::nn::vae::{VaeDecoder, VaeEncoder, process_in, process_out};

/// The relative error, by Euclidean length, that rounding in f32 may make.
const TOLERANCE: f64 = 1e-5;

fn velocity(golden: &Golden, mmdit: &Mmdit, crop: PositionCrop) -> Tensor<4> {
    let [latents, timesteps] = [golden.tensor("latents"), golden.tensor::<1>("timesteps").reshape([1, 1, 1, 2])];
    mmdit.forward(latents, timesteps.reshape([2]), golden.tensor("context"), golden.tensor("pooled"), crop)
}

#[track_caller]
fn assert_close<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let error = error(&values(found), &values(expected));
    println!("{what}: {error:.1e}");
    assert!(error <= TOLERANCE, "{what} is off by {error:e}");
}

const MMDITS: [&str; 3] = ["mmdit-3-medium", "mmdit-3.5-medium", "mmdit-3.5-large"];

#[test]
fn the_mmdits_equal_the_reference() {
    for name in MMDITS {
        let golden = Golden::open(name);
        let weights = golden.mmdit();
        let root = weights.root();
        let mmdit = Mmdit::new(&root).unwrap();
        assert_eq!(root.unread(), [""; 0], "{name}");
        assert_eq!(mmdit.geometry().model(), MmditModel::Custom);
        let offset = PositionCrop::Offset { top: 1, left: 6 };
        assert_close(name, velocity(&golden, &mmdit, PositionCrop::Centre), golden.tensor("centre"));
        assert_close(name, velocity(&golden, &mmdit, offset), golden.tensor("offset"));
    }
}

#[test]
fn the_mmdits_gradients_equal_the_reference() {
    for name in MMDITS {
        let golden = Golden::open(name);
        let weights = golden
            .mmdit()
            .map(|name, values| if name == "pos_embed" { values } else { values.autodiff().require_grad() });
        let velocity = velocity(&golden, &Mmdit::new(&weights.root()).unwrap(), PositionCrop::Centre);
        let count = velocity.shape().num_elements();
        let upstream = TensorData::new(uniform("input upstream", count), velocity.shape());
        let upstream = Tensor::<4>::from_data(upstream, (&Device::flex(), DType::F32));
        let gradients = (velocity * upstream.autodiff()).sum().backward();

        let expected = golden.floats("gradients");
        let mut expected = expected.as_chunks::<2>().0.iter();
        for (name, weight) in weights.iter().filter(|(name, _)| *name != "pos_embed") {
            let gradient = values(weight.values.grad(&gradients).unwrap());
            let [probed, length] = expected.next().unwrap().map(f64::from);
            let probe = uniform(&format!("probe {name}"), gradient.len());
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            // Not relative: nothing reads the last block's text queries, so their norm's gradient is zero.
            assert!((dot(&gradient, &gradient).sqrt() - length).abs() <= 1e-5 * length, "{name}: length");
            assert!((dot(&gradient, &probe) - probed).abs() <= 2e-5 * length, "{name}: direction");
        }
        assert!(expected.next().is_none());
    }
}

#[test]
fn the_mmdits_blocks_run_one_by_one_give_the_same() {
    let golden = Golden::open("mmdit-3.5-medium");
    let weights = golden.mmdit();
    let mmdit = Mmdit::new(&weights.root()).unwrap();
    let conditioning = mmdit.condition(golden.tensor("timesteps"), golden.tensor("pooled"));
    let mut streams = mmdit.embed(golden.tensor("latents"), golden.tensor("context"), PositionCrop::Centre);
    for block in &mmdit.blocks {
        streams = block.forward(streams, conditioning.clone());
    }
    let one_by_one = mmdit.finish(streams.image, conditioning, [6, 10]);
    assert_eq!(values(one_by_one), values(velocity(&golden, &mmdit, PositionCrop::Centre)));
}

#[test]
fn the_mmdit_in_bf16_is_near_the_reference() {
    let golden = Golden::open("mmdit-3.5-medium");
    let weights = golden.mmdit().map(|_, values| values.cast(DType::BF16));
    let velocity = velocity(&golden, &Mmdit::new(&weights.root()).unwrap(), PositionCrop::Centre);
    assert_eq!(velocity.dtype(), DType::F32);
    let error = error(&values(velocity), &golden.floats("centre"));
    assert!(error > TOLERANCE && error < 2e-2, "off by {error:e}");
}

#[test]
fn the_vae_equals_the_reference() {
    for name in ["vae", "vae-narrow"] {
        let golden = Golden::open(name);
        let weights = golden.weights(Component::VaeEncoder, "first_stage_model.");
        let encoder = VaeEncoder::new(&weights.root()).unwrap();
        assert_eq!(weights.root().unread().len(), weights.len());
        let (mean, log_variance) = encoder.encode(golden.tensor("images"));
        assert_close(name, mean, golden.tensor("mean"));
        assert_close(name, log_variance, golden.tensor("log_variance"));
        let weights = golden.weights(Component::VaeDecoder, "");
        let root = weights.root();
        let decoder = VaeDecoder::new(&root).unwrap();
        assert_eq!(root.unread(), [""; 0], "{name}");
        assert_close(name, decoder.decode(golden.tensor("raw")), golden.tensor("decoded"));
    }
}

/// In strips of a row, and in wider ones.
#[test]
fn the_vae_in_strips_equals_the_reference() {
    for name in ["vae", "vae-narrow"] {
        let golden = Golden::open(name);
        let [encoder, decoder] = [Component::VaeEncoder, Component::VaeDecoder]
            .map(|half| golden.weights(half, if half == Component::VaeEncoder { "first_stage_model." } else { "" }));
        let encoder = VaeEncoder::new(&encoder.root()).unwrap();
        let decoder = VaeDecoder::new(&decoder.root()).unwrap();
        for room in [1, 60_000, 200_000] {
            let (mean, log_variance) = encoder.encode_within(golden.tensor("images"), Some(room));
            assert_close(name, mean, golden.tensor("mean"));
            assert_close(name, log_variance, golden.tensor("log_variance"));
            assert_close(name, decoder.decode_within(golden.tensor("raw"), Some(room)), golden.tensor("decoded"));
        }
    }
}

#[test]
fn the_logarithm_of_the_variance_is_kept_in_bounds() {
    let golden = Golden::open("vae-narrow");
    for (shift, bound) in [(100.0, 20.0), (-100.0, -30.0)] {
        let weights = golden.weights(Component::VaeEncoder, "first_stage_model.");
        let weights = weights.map(|name, values| if name == "conv_out.bias" { values + shift } else { values });
        let (mean, log_variance) = VaeEncoder::new(&weights.root()).unwrap().encode(golden.tensor("images"));
        assert!(values(log_variance).iter().all(|&value| value == bound));
        assert!(values(mean).iter().all(|value| value.abs() > 50.0));
    }
}

#[test]
fn latents_are_scaled_as_the_mmdit_was_trained() {
    let latents = || Tensor::<4>::from_data([[[[0.0609f32, 1.0609]]]], (&Device::flex(), DType::F32));
    assert!(error(&values(process_in(latents())), &[0.0, 1.5305]) < 1e-6);
    assert!(error(&values(process_out(process_in(latents()))), &[0.0609, 1.0609]) < 1e-6);
}

#[test]
fn the_clips_equal_the_reference() {
    for (name, component, kind) in
        [("clip-l", Component::ClipL, ClipKind::L), ("clip-g", Component::ClipG, ClipKind::G)]
    {
        let golden = Golden::open(name);
        let weights = golden.weights(component, component.prefix());
        let root = weights.root();
        let clip = Clip::new(&root, kind).unwrap();
        assert_eq!(root.unread(), [""; 0], "{name}");
        let output = clip.forward(&golden.ids()).unwrap();
        assert_close(name, output.penultimate, golden.tensor("penultimate"));
        assert_close(name, output.pooled, golden.tensor("pooled"));
    }
}

#[test]
fn the_t5_equals_the_reference() {
    let golden = Golden::open("t5");
    let weights = golden.weights(Component::T5, "");
    let root = weights.root();
    let t5 = T5::new(&root).unwrap();
    assert_eq!(root.unread(), [""; 0]);
    assert_close("t5", t5.forward(&golden.ids()).unwrap(), golden.tensor("output"));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let golden = Golden::open("mmdit-3.5-medium");
    let mmdit = || values(velocity(&golden, &Mmdit::new(&golden.mmdit().root()).unwrap(), PositionCrop::Centre));
    assert_eq!(mmdit(), mmdit());
    let vae = Golden::open("vae");
    let encoder = vae.weights(Component::VaeEncoder, "first_stage_model.");
    let encode = || values(VaeEncoder::new(&encoder.root()).unwrap().encode(vae.tensor("images")).0);
    assert_eq!(encode(), encode());
    let t5 = Golden::open("t5");
    let weights = t5.weights(Component::T5, "");
    let encode = || values(T5::new(&weights.root()).unwrap().forward(&t5.ids()).unwrap());
    assert_eq!(encode(), encode());
}

/// Stages encode as many texts and images at once as fit, and no key has that number.
#[test]
fn the_size_of_an_encoders_batch_does_not_show() {
    let golden = Golden::open("clip-g");
    let weights = golden.weights(Component::ClipG, "");
    let clip = Clip::new(&weights.root(), ClipKind::G).unwrap();
    let ids = golden.ids();
    let together = clip.forward(&ids).unwrap();
    let alone = clip.forward(&ids[1..]).unwrap();
    assert_eq!(values(together.pooled.narrow(0, 1, 1)), values(alone.pooled));
    assert_eq!(values(together.penultimate.narrow(0, 1, 1)), values(alone.penultimate));

    let golden = Golden::open("t5");
    let weights = golden.weights(Component::T5, "");
    let t5 = T5::new(&weights.root()).unwrap();
    let ids = golden.ids();
    let together = t5.forward(&ids).unwrap();
    assert_eq!(values(together.narrow(0, 1, 1)), values(t5.forward(&ids[1..]).unwrap()));

    let golden = Golden::open("vae");
    let weights = golden.weights(Component::VaeEncoder, "first_stage_model.");
    let encoder = VaeEncoder::new(&weights.root()).unwrap();
    let images = golden.tensor::<4>("images");
    let (together, _) = encoder.encode(images.clone());
    assert_eq!(values(together.narrow(0, 1, 1)), values(encoder.encode(images.narrow(0, 1, 1)).0));
}

#[test]
fn half_precision_files_load_with_their_own_values() {
    let golden = Golden::open("clip-l");
    let name = "text_model.encoder.layers.0.mlp.fc1.weight";
    let exact = weight(name, &golden.shapes[name]);
    let bf16s: Vec<_> = exact.iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
    let f16s: Vec<_> = exact.iter().map(|&value| f16::from_f32(value).to_f32()).collect();
    for (dtype, expected) in [(Dtype::BF16, bf16s), (Dtype::F16, f16s)] {
        let folder = tempfile::tempdir().unwrap();
        let path = golden.checkpoint(&folder, dtype, "");
        let source = ComponentSource::open(path, Component::ClipL).unwrap();
        let weights = load(&source, &Device::flex(), DType::F32).unwrap();
        assert_eq!(values(weights.get(name).unwrap().values.clone()), expected);
    }
}
