//! Models in one file or in a diffusers folder: either is read and written, and nothing is done twice because of it.

use crate::space::{PIPELINE, TestSpace};
use safetensors::{Dtype, tensor::TensorView};
use sd3pipe_stages::checkpoint::{Component, expected_names};
use std::collections::BTreeMap;

/// The test model with another VAE: all widths are 16, because diffusers' norms have as many groups everywhere.
pub fn space(export: &str) -> TestSpace {
    let space = TestSpace::demo();
    write_vae(&space);
    space.edit("test.ron", "clip_l:", "vae: \"model/vae.safetensors\", clip_l:");
    space.edit("test.ron", "Export()", export);
    space
}

fn write_vae(space: &TestSpace) {
    let mut tensors = BTreeMap::new();
    for (component, levels, blocks, ends) in
        [(Component::VaeEncoder, "down", 2, [3, 32]), (Component::VaeDecoder, "up", 3, [16, 3])]
    {
        let shape = |name: &str| match name {
            "conv_in.weight" => Some(vec![16, ends[0]]),
            "conv_out.weight" => Some(vec![ends[1], 16]),
            _ => {
                let (level, rest) = name.strip_prefix(levels)?.strip_prefix('.')?.split_once(".block.")?;
                let known =
                    level.parse::<u32>().ok()? < 4 && rest.strip_suffix(".conv1.weight")?.parse::<u32>().ok()? < blocks;
                known.then_some(vec![16, 16])
            }
        };
        for (name, shape) in expected_names(component, &shape).unwrap() {
            let count: usize = shape.iter().product();
            let value = |index: usize| match name.contains("norm") && name.ends_with("weight") {
                true => 1.0,
                false => ((index * 7919 + name.len() * 31) % 1009) as f32 / 1009.0 * 0.3 - 0.15,
            };
            let bytes: Vec<u8> = (0..count).flat_map(|index| value(index).to_le_bytes()).collect();
            tensors.insert(format!("{}{name}", component.prefix()), (shape, bytes));
        }
    }
    let views =
        tensors.iter().map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &space.path("model/vae.safetensors")).unwrap();
}

#[test]
fn an_exported_folder_has_every_part_of_a_pipeline() {
    let space = space("Export(epochs: Last, layout: Diffusers, text_encoders: true)");
    space.run_with(&["--until", "export"]).succeeds();
    let root = "out/test/checkpoints/test-epoch-0002/";
    let files: Vec<String> = space.files(root).into_keys().map(|path| path.display().to_string()).collect();
    let files: Vec<&str> = files.iter().filter_map(|path| path.strip_prefix(root)).collect();
    assert_eq!(
        files,
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "text_encoder_2/config.json",
            "text_encoder_2/model.safetensors",
            "text_encoder_3/config.json",
            "text_encoder_3/model.safetensors",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer_2/tokenizer.json",
            "tokenizer_2/tokenizer_config.json",
            "tokenizer_3/tokenizer.json",
            "tokenizer_3/tokenizer_config.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
}

#[test]
fn another_layout_is_exported_anew_and_no_sample_is_drawn_again() {
    let space = space("Export()");
    space.run().succeeds();
    let before = space.files("out");
    space.edit("test.ron", "Export()", "Export(layout: Diffusers)");
    space.run().succeeds();
    let epochs = vec!["epoch 1".to_owned(), "epoch 2".to_owned()];
    assert_eq!(space.executed(), BTreeMap::from([("export".to_owned(), epochs)]));

    // The images of either layout are the same, drawn from it or not.
    let samples = |files: BTreeMap<std::path::PathBuf, Vec<u8>>| {
        files.into_iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "png")).collect::<Vec<_>>()
    };
    std::fs::remove_dir_all(space.path("out")).unwrap();
    space.run_with(&["--force", "sample"]).succeeds();
    assert_eq!(space.executed()["sample"].len(), 4);
    assert!(samples(space.files("out")) == samples(before));
}

#[test]
fn a_model_in_a_folder_is_the_same_model_as_in_one_file() {
    let space = space("Export(epochs: Last, layout: Diffusers, text_encoders: true)");
    space.run_with(&["--until", "export"]).succeeds();
    space.edit("test.ron", "layout: Diffusers", "layout: SingleFile");
    space.run_with(&["--until", "export"]).succeeds();
    assert_eq!(space.executed().into_keys().collect::<Vec<_>>(), ["export"]);

    // The folder has the tokenizers inside, the file has not.
    let model = |checkpoint: &str, tokenizers: &str| {
        let start = PIPELINE.find("model: (").unwrap();
        let end = PIPELINE.find("    device:").unwrap();
        let model = format!("model: (checkpoint: \"out/test/checkpoints/{checkpoint}\"{tokenizers}),\n");
        format!("{}{model}{}", &PIPELINE[..start], &PIPELINE[end..]).replace("\"test\"", "\"again\"")
    };
    let tokenizers = ", tokenizers: (clip: \"model/clip_tokenizer.json\", t5: \"model/t5_tokenizer.json\")";
    space.write("folder.ron", model("test-epoch-0002", ""));
    space.write("file.ron", model("test-epoch-0002.safetensors", tokenizers));
    space.call(&["run", "folder.ron"]).succeeds();
    // The texts were encoded before, with the same encoders out of their own files.
    assert_eq!(space.executed().into_keys().collect::<Vec<_>>(), ["export", "latents", "sample", "train"]);
    space.call(&["run", "file.ron"]).succeeds().says("nothing to do");

    // A network's weights are looked at again when they change, and only then.
    let weights = "out/test/checkpoints/test-epoch-0002/text_encoder_3/model.safetensors";
    let mut bytes = space.read(weights);
    *bytes.last_mut().unwrap() ^= 1;
    space.write(weights, bytes);
    let planned = space.call(&["plan", "folder.ron", "--json"]).succeeds().json();
    let stages = planned["stages"].as_array().unwrap().iter().filter(|stage| stage["state"] != "kept");
    assert_eq!(stages.map(|stage| stage["name"].as_str().unwrap()).next(), Some("text"));
}

#[test]
fn a_folder_without_the_network_and_text_encoders_that_are_not_there_are_refused() {
    let space = TestSpace::demo();
    space.edit("test.ron", "model/t5xxl.safetensors", "photos");
    space.run().fails(1, &["photos", "T5", "text_encoder_3"]);

    let space = TestSpace::demo();
    for encoder in ["clip_l", "clip_g", "t5xxl"] {
        space.edit("test.ron", &format!("        {encoder}: \"model/{encoder}.safetensors\",\n"), "");
    }
    space.edit("test.ron", "Export()", "Export(text_encoders: true)");
    space.run().fails(1, &["no text encoders"]);
}

#[test]
fn a_vae_that_diffusers_does_not_know_is_refused_with_the_way_out() {
    let space = TestSpace::demo();
    space.edit("test.ron", "Export()", "Export(layout: Diffusers)");
    space.run().fails(1, &["the VAE can't be exported as a diffusers folder", "layout: SingleFile"]);
}

/// `t5xxl_fp8_e4m3fn.safetensors`: the same numbers in 8 bits and in 16 encode to the same bytes.
#[test]
fn a_t5_in_fp8_is_read_like_one_in_fp16() {
    let space = TestSpace::demo();
    let bytes = space.read("model/t5xxl.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let stored = |dtype: Dtype, one: &[u8], parts: [&[u8]; 2]| {
        let tensors: Vec<_> = file
            .iter()
            .map(|(name, view)| {
                let count = view.shape().iter().product::<usize>();
                // Norms are 1, everything else is ±1/32: numbers that both types hold exactly.
                let value = |index: usize| if name.contains("layer_norm") { one } else { parts[index * 7 / 3 % 2] };
                (name.to_owned(), view.shape().to_vec(), (0..count).flat_map(value).copied().collect::<Vec<u8>>())
            })
            .collect();
        let views =
            tensors.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    };
    let encoded = |model: Vec<u8>| {
        space.write("model/t5xxl.safetensors", model);
        space.run_with(&["--until", "text"]).succeeds();
        assert_eq!(space.executed()["text"].len(), 7, "other tensors are another model");
        let shown = space.call(&["show", "last", "--json"]).succeeds().json();
        shown["journal"]["stages"][1]["result"].clone()
    };
    let wide = stored(Dtype::F16, &[0x00, 0x3c], [&[0x00, 0x28], &[0x00, 0xa8]]);
    let narrow = stored(Dtype::F8_E4M3, &[0x38], [&[0x10], &[0x90]]);
    assert_eq!(encoded(wide), encoded(narrow));
}
