//! The text encoders and both halves of the VAE, at full size.

use crate::{
    measure::{Bench, Least},
    released::{self, Names},
};
use burn::tensor::Tensor;
use sd3pipe_kernels::{Walk, convolution, group_norm};
use sd3pipe_stages::nn::{Clip, ClipKind, T5, VaeDecoder, VaeEncoder};

/// One text through each encoder.
pub fn text(bench: &Bench) {
    for (row, names, kind) in [("CLIP-L", released::clip_l(), ClipKind::L), ("CLIP-G", released::clip_g(), ClipKind::G)]
    {
        let least = of_text(&names, 77);
        let clip = Clip::new(&bench.weights(names).root(), kind).expect(row);
        let ids = ids(77, 49_407);
        bench.time(row, least, || {
            let output = clip.forward(&ids).expect(row);
            (output.penultimate, output.pooled)
        });
    }
    let names = released::t5_xxl();
    let least = of_text(&names, 256);
    let t5 = T5::new(&bench.weights(names).root()).expect("T5-XXL");
    let ids = ids(256, 1);
    bench.time("T5-XXL, 256 tokens", least, || t5.forward(&ids).expect("T5-XXL"));
}

/// Some tokens and an end.
fn ids(count: u32, end: u32) -> Vec<Vec<u32>> {
    vec![(0..count - 1).map(|position| 2 + position * 97 % 30_000).chain([end]).collect()]
}

/// The products with all matrices but those that are looked up in, and the reading of them.
fn of_text(names: &Names, tokens: usize) -> Least {
    let looked_up =
        |name: &str| ["embedding.weight", "shared.weight", "bias.weight"].iter().any(|end| name.ends_with(end));
    let matrices = names.iter().filter(|(name, shape)| shape.len() == 2 && !looked_up(name));
    let values = matrices.map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>() as f64;
    Least { operations: 2.0 * values * tokens as f64, bytes: 2.0 * values }
}

/// An image of 1024² pixels through each half, and one of 2048² in strips, in 2 GiB with the weights.
pub fn vae(bench: &Bench) {
    let room = || {
        let used = bench.device.memory_pool_usage().map_or(0, |usage| usage.bytes_in_use);
        Some((2 << 30) - used)
    };
    let names = released::vae_encoder();
    let operations = [1024, 2048].map(|side| of_vae(&names, "conv_in", side));
    let encoder = VaeEncoder::new(&bench.weights(names).root()).expect("the VAE's encoder");
    let image: Tensor<4> = bench.random([1, 3, 1024, 1024]);
    bench.time("VAE encode", operations[0], || encoder.encode(image.clone()));
    bench.device.memory_cleanup();
    let image: Tensor<4> = bench.random([1, 3, 2048, 2048]);
    let left = room();
    bench.time("VAE encode, 2048² in 2 GiB", operations[1], || encoder.encode_within(image.clone(), left));
    drop((encoder, image));
    bench.device.memory_cleanup();
    let names = released::vae_decoder();
    let operations = [1024, 2048].map(|side| of_vae(&names, "conv_out", side));
    let decoder = VaeDecoder::new(&bench.weights(names).root()).expect("the VAE's decoder");
    let latents = bench.random([1, 16, 128, 128]);
    bench.time("VAE decode", operations[0], || decoder.decode(latents.clone()));
    bench.device.memory_cleanup();
    let latents = bench.random([1, 16, 256, 256]);
    let left = room();
    bench.time("VAE decode, 2048² in 2 GiB", operations[1], || decoder.decode_within(latents.clone(), left));
    drop((decoder, latents));
    bench.device.memory_cleanup();
    pieces(bench);
}

/// What the halves are made of, at the sizes that they have there.
fn pieces(bench: &Bench) {
    const LAUNCHES: usize = 4;
    let same = Walk { stride: 1, before: 1, after: 1, scale: 1 };
    for [side, inputs, outputs] in
        [[1024, 8, 128], [1024, 128, 128], [1024, 256, 128], [512, 256, 256], [256, 512, 512], [128, 512, 512]]
    {
        for (walk, way) in
            [(same, ""), (Walk { stride: 2, before: 0, ..same }, ", halved"), (Walk { scale: 2, ..same }, ", doubled")]
        {
            if walk != same && (inputs != outputs || walk.scale * side > 1024) {
                continue;
            }
            let x = bench.random([1, side, side, inputs]).permute([0, 3, 1, 2]);
            let (weight, bias) = (bench.random([outputs, inputs, 3, 3]), bench.random([outputs]));
            let pixels = (side * walk.scale / walk.stride).pow(2);
            let operations = (2 * 9 * pixels * inputs * outputs) as f64;
            bench.back_to_back(
                &format!("convolution of {side}², {inputs} to {outputs}{way}"),
                LAUNCHES,
                operations,
                || convolution(x.clone(), weight.clone(), bias.clone(), None, walk),
            );
        }
        if inputs == outputs {
            let x = bench.random([1, side, side, inputs]).permute([0, 3, 1, 2]);
            let (weight, bias) = (bench.random([inputs]), bench.random([inputs]));
            // Read twice, and written.
            let least = Least { operations: 0.0, bytes: (3 * 2 * side * side * inputs) as f64 };
            bench.back_to_back(&format!("group norm and SiLU of {side}², {inputs} channels"), LAUNCHES, least, || {
                group_norm(x.clone(), weight.clone(), bias.clone(), 32, 1e-6, true)
            });
        }
    }
}

/// Operations of the convolutions, and of the one attention, for an image of this side. `outside` is the convolution beside the image.
pub fn of_vae(names: &Names, outside: &str, image: usize) -> f64 {
    let level = |level: &str| level.parse::<usize>().expect("a level");
    // The side of what comes out.
    let side = |name: &str| match name.split('.').collect::<Vec<_>>()[..] {
        ["down", at, "downsample", ..] => (image / 2) >> level(at),
        ["up", at, "upsample", ..] => (2 * image) >> level(at),
        ["down" | "up", at, ..] => image >> level(at),
        [first, ..] if first == outside => image,
        _ => image / 8,
    };
    let convolutions = names.iter().filter(|(_, shape)| shape.len() == 4);
    let products = convolutions.map(|(name, shape)| 2.0 * (shape.iter().product::<usize>() * side(name).pow(2)) as f64);
    products.sum::<f64>() + 4.0 * (image as f64 / 8.0).powi(4) * 512.0
}
