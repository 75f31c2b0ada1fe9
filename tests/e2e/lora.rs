//! Adapters from training through files in every form to samples, and from files back to training.

use crate::{
    layouts,
    space::{Outcome, PIPELINE, TestSpace},
};
use safetensors::SafeTensors;
use std::{
    collections::BTreeMap,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

/// The test pipeline with an adapter.
fn space(method: &str, export: &str) -> TestSpace {
    let space = TestSpace::demo();
    space.edit("test.ron", "Train(", &format!("Train(method: {method}, "));
    space.edit("test.ron", "Export()", export);
    space
}

fn pixels(space: &TestSpace, name: &str) -> Vec<u8> {
    image::load_from_memory(&space.read(name)).unwrap().to_rgb8().into_raw()
}

fn tensors(space: &TestSpace, name: &str) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = space.read(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect()
}

#[test]
fn an_adapter_is_trained_written_in_both_forms_and_drawn_with() {
    let space = space("LoRA(rank: 4)", "Export()");
    space.run().succeeds();
    let names: Vec<String> = space.files("out/test/lora").into_keys().map(|path| path.display().to_string()).collect();
    let expected = ["0001-diffusers", "0001", "0002-diffusers", "0002"];
    assert_eq!(names, expected.map(|name| format!("out/test/lora/test-epoch-{name}.safetensors")));
    let sample = |row: &str| pixels(&space, &format!("out/test/samples/{row}-prompt-1-seed-1.png"));
    assert_ne!(sample("base"), sample("epoch-2"));

    let kohya = tensors(&space, "out/test/lora/test-epoch-0002.safetensors");
    assert_eq!(kohya["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"].0, [4, 64]);
    assert_eq!(kohya["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight"].0, [192, 4]);
    assert_eq!(kohya["lora_unet_joint_blocks_0_x_block_attn_qkv.alpha"], (vec![], 4f32.to_le_bytes().to_vec()));
    let diffusers = tensors(&space, "out/test/lora/test-epoch-0002-diffusers.safetensors");
    assert_eq!(diffusers["transformer.transformer_blocks.0.attn.add_k_proj.lora_B.weight"].0, [64, 4]);

    space.run().succeeds().says("nothing to do");
    space.edit("test.ron", "epochs: 2", "epochs: 3");
    let planned = space.planned(&["--until", "export"]);
    assert_eq!(planned["train"], ["epoch 3"]);
    // Another base model is another training.
    space.edit("test.ron", "epochs: 3", "epochs: 2");
    let mut model = space.read("model/sd3_tiny.safetensors");
    let (header, metadata) = SafeTensors::read_metadata(&model).unwrap();
    let (_, end) = metadata.info("model.diffusion_model.final_layer.linear.weight").unwrap().data_offsets;
    model[8 + header + end - 2] ^= 1;
    space.write("model/sd3_tiny.safetensors", model);
    assert_eq!(space.planned(&["--until", "train"])["train"], ["epoch 1", "epoch 2"]);
}

/// Prompts are encoded with what each checkpoint has learnt.
#[test]
fn an_adapter_of_both_clips_is_trained_written_in_both_forms_and_drawn_with() {
    let targets = "ImageQuery, ClipLAttention, ClipLFeedForward, ClipGAttention";
    let space = space(&format!("LoRA(rank: 4, targets: [{targets}])"), "Export()");
    space.edit("test.ron", "learning_rate: 1e-3", "learning_rate: 1e-2");
    space.run().succeeds();
    let sample = |row: &str| pixels(&space, &format!("out/test/samples/{row}-prompt-1-seed-1.png"));
    let (base, learnt) = (sample("base"), sample("epoch-2"));

    let kohya = tensors(&space, "out/test/lora/test-epoch-0002.safetensors");
    let first = "text_model_encoder_layers_0";
    assert_eq!(kohya[&format!("lora_te1_{first}_self_attn_q_proj.lora_down.weight")].0, [4, 64]);
    assert_eq!(kohya[&format!("lora_te1_{first}_mlp_fc1.lora_up.weight")].0[1], 4);
    assert_eq!(kohya["lora_te2_text_model_encoder_layers_2_self_attn_out_proj.lora_up.weight"].0, [64, 4]);
    let count = |start: &str| kohya.keys().filter(|name| name.starts_with(start) && name.ends_with(".alpha")).count();
    assert_eq!(["lora_te1_", "lora_te2_", "lora_unet_"].map(count), [2 * 6, 3 * 4, 2]);
    let diffusers = tensors(&space, "out/test/lora/test-epoch-0002-diffusers.safetensors");
    for encoder in ["text_encoder", "text_encoder_2"] {
        let name = format!("{encoder}.text_model.encoder.layers.1.self_attn.v_proj.lora_B.weight");
        assert!(diffusers[&name].1.iter().any(|byte| *byte != 0), "{name} has learnt nothing");
    }

    space.run().succeeds().says("nothing to do");
    // Without the CLIPs it is another training, and the untrained model draws what it drew.
    space.edit("test.ron", targets, "ImageQuery");
    space.run().succeeds();
    assert_eq!(sample("base"), base);
    assert_ne!(sample("epoch-2"), learnt);
    let again = format!("train.method=LoRA(rank: 4, targets: [{targets}])");
    let why = space.call(&["why", "test.ron", "train", "--set", &again]).succeeds();
    why.says("clip_g of the model is read now").says("clip_tokenizer of the model is read now");
}

#[test]
fn a_merged_folder_has_the_clips_that_were_trained_and_draws_as_one_file_does() {
    let method = "LoRA(rank: 2, targets: [ImageQuery, ClipLFeedForward])";
    let merged = "Export(lora: Merged(1.0), text_encoders: true, precision: F32)";
    let space = layouts::space(merged);
    space.edit("test.ron", "Train(", &format!("Train(method: {method}, "));
    space.edit("test.ron", "learning_rate: 1e-3", "learning_rate: 1e-2");
    space.run().succeeds();
    let one = tensors(&space, "out/test/checkpoints/test-epoch-0002.safetensors");
    // What is drawn with is the same: no sample is drawn again.
    space.edit("test.ron", merged, &merged.replace("text_encoders", "layout: Diffusers, text_encoders"));
    let planned = space.planned(&[]);
    assert_eq!(planned.get("export").map(Vec::len), Some(2));
    space.run().succeeds();
    assert!(!space.executed().contains_key("sample"));
    let root = "out/test/checkpoints/test-epoch-0002";
    for (encoder, name) in [("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")] {
        let folder = tensors(&space, &format!("{root}/{encoder}/model.safetensors"));
        let own = tensors(&space, &format!("model/{name}.safetensors"));
        let mut changed = 0;
        for (tensor, (_, bytes)) in folder.iter().filter(|(tensor, _)| own.contains_key(*tensor)) {
            let single = &one[&format!("text_encoders.{name}.transformer.{tensor}")].1;
            assert_eq!(bytes, single, "{encoder} {tensor}");
            changed += usize::from(tensor.contains(".mlp.fc") && tensor.ends_with("weight"));
        }
        assert!(changed > 0);
    }
    let of_epoch = |epoch: u32, encoder: &str| {
        space.read(&format!("out/test/checkpoints/test-epoch-000{epoch}/{encoder}/model.safetensors"))
    };
    assert_ne!(of_epoch(1, "text_encoder"), of_epoch(2, "text_encoder"));
    assert_eq!(of_epoch(1, "text_encoder_2"), of_epoch(2, "text_encoder_2"));
}

/// Of either form, and merged at full strength, the same pictures; merged at 0 those of the base model to the bit.
#[test]
fn every_form_draws_the_same_and_a_strength_of_0_what_the_base_model_draws() {
    every_form("LoRA(rank: 2, alpha: 3, split_qkv: true, dora: true, ranks: {TextModulation: 1})", "");
}

#[test]
fn every_form_of_an_adapter_of_clips_draws_the_same_too() {
    let method = "LoRA(rank: 2, alpha: 3, dora: true, targets: [ImageModulation, ClipLFeedForward, ClipGAttention])";
    every_form(method, ", text_encoders: true");
}

fn every_form(method: &str, merged: &str) {
    let space = space(method, "Export(lora: Kohya, precision: F32)");
    let sample = "Sample(prompts: [\"a cat\"], size: (64, 64), steps: 2, t5_tokens: 16, precision: F32";
    space.edit("test.ron", &format!("{sample})"), &format!("{sample}, export: \"export\")"));
    let merged = [1.0, 0.0].map(|strength| format!("Merged({strength:?}){merged}"));
    let forms = std::iter::once("Diffusers".to_owned()).chain(merged);
    let more = forms.enumerate().map(|(index, form)| {
        format!(
            "\"export{index}\": Export(lora: {form}, precision: F32),\n\"sample{index}\": {sample}, export: \"export{index}\"),\n"
        )
    });
    space.edit("test.ron", "\"export\": Export", &format!("{}\"export\": Export", more.collect::<String>()));
    space.edit("test.ron", "learning_rate: 1e-3", "learning_rate: 1e-2");
    space.run().succeeds();
    let drawn = |stage: &str, row: &str| pixels(&space, &format!("out/test/{stage}/samples/{row}-prompt-1-seed-1.png"));
    let expected = drawn("sample", "epoch-2");
    let base = drawn("sample", "base");
    let difference =
        |left: &[u8], right: &[u8]| left.iter().zip(right).map(|(left, right)| left.abs_diff(*right)).max();
    assert!(difference(&base, &expected) > Some(4), "the adapter hardly shows");
    for stage in ["sample0", "sample1"] {
        assert!(difference(&drawn(stage, "epoch-2"), &expected) <= Some(1), "{stage} draws something else");
    }
    assert_eq!(drawn("sample2", "epoch-2"), base);
}

#[test]
fn a_killed_training_of_an_adapter_goes_on_to_the_same_bytes() {
    let method = "LoRA(rank: 2, dora: true, dropout: 0.5, targets: [ImageQuery, TextModulation, Embedders, ClipLFeedForward, ClipGAttention])";
    let run = ["run", "test.ron", "--set", "train.epochs=40"];
    let undisturbed = space(method, "Export(epochs: Last)");
    undisturbed.call(&run).succeeds();
    let killed = space(method, "Export(epochs: Last)");
    let mut child = killed.command(&run).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !killed.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.safetensors")) {
        assert!(start.elapsed() < Duration::from_secs(120), "a saved state never came");
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    drop(Outcome::of(child.wait_with_output().unwrap()));
    killed.call(&run).succeeds();
    assert_eq!(killed.files("out"), undisturbed.files("out"));
    // What is dropped shows in what is learnt.
    undisturbed.edit("test.ron", "dropout: 0.5", "dropout: 0.25");
    undisturbed.call(&run).succeeds();
    assert_ne!(killed.files("out"), undisturbed.files("out"));
}

#[test]
fn a_training_goes_on_from_a_file_of_either_form() {
    let of_clips = "rank: 4, targets: [TextOutput, ClipLAttention, ClipGFeedForward]";
    let methods = ["rank: 4", "rank: 4, split_qkv: true, dora: true", of_clips, &format!("{of_clips}, dora: true")];
    for method in methods {
        let space = space(&format!("LoRA({method})"), "Export(epochs: Last, precision: F32)");
        space.run_with(&["--until", "export"]).succeeds();
        let learnt = tensors(&space, "out/test/lora/test-epoch-0002-diffusers.safetensors");
        for form in ["", "-diffusers"] {
            let file = format!("out/test/lora/test-epoch-0002{form}.safetensors");
            // A step at a rate of 0 changes nothing, so what was read is what is written.
            let again =
                PIPELINE.replace("\"test\"", "\"again\"").replace("epochs: 2", "epochs: 1").replace("1e-3", "0");
            let again = again.replace("Train(", &format!("Train(method: LoRA({method}, from: \"{file}\"), "));
            space.write("again.ron", again.replace("Export()", "Export(precision: F32)"));
            space.call(&["run", "again.ron", "--until", "export"]).succeeds();
            let found = tensors(&space, "out/again/lora/again-epoch-0001-diffusers.safetensors");
            assert_eq!(found.keys().collect::<Vec<_>>(), learnt.keys().collect::<Vec<_>>());
            for (name, (shape, bytes)) in &learnt {
                assert_eq!(&found[name].0, shape);
                let values = |bytes: &[u8]| -> Vec<f32> {
                    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
                };
                for (found, expected) in values(&found[name].1).iter().zip(values(bytes)) {
                    assert!(
                        (found - expected).abs() <= 1e-6 * expected.abs().max(0.1),
                        "{form} {name}: {found} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_adapter_file_is_read_by_its_content_and_refused_where_it_does_not_fit() {
    let space = space("LoRA(rank: 4)", "Export(lora: Kohya)");
    space.run_with(&["--until", "export"]).succeeds();
    std::fs::copy(space.path("out/test/lora/test-epoch-0001.safetensors"), space.path("one.safetensors")).unwrap();
    space.edit("test.ron", "rank: 4", "rank: 4, from: \"one.safetensors\"");
    space.run_with(&["--until", "train"]).succeeds();
    space.rename("one.safetensors", "two.safetensors");
    space.edit("test.ron", "one.safetensors", "two.safetensors");
    space.run_with(&["--until", "train"]).succeeds().says("nothing to do");
    std::fs::copy(space.path("out/test/lora/test-epoch-0002.safetensors"), space.path("two.safetensors")).unwrap();
    space.call(&["why", "test.ron", "train"]).succeeds().says("adapter of the model changed");

    space.edit("test.ron", "rank: 4", "rank: 8");
    space.run_with(&["--until", "train"]).fails(1, &["two.safetensors", "has rank 4 there and 8 here", "set `rank`"]);
    space.edit("test.ron", "two.safetensors", "model/clip_l.safetensors");
    space
        .run_with(&["--until", "train"])
        .fails(1, &["clip_l.safetensors is no adapter of this model's MMDiT and CLIPs"]);
    space.edit("test.ron", "model/clip_l.safetensors", "gone.safetensors");
    space.run().fails(2, &["there is no file `gone.safetensors`"]);
}

#[test]
fn fields_of_an_adapter_without_effect_are_refused() {
    let lora = space("LoRA(rank: 4)", "Export(layout: Diffusers, text_encoders: true)");
    lora.run().fails(2, &["`layout` has no effect", "`text_encoders` has no effect", "Merged(1.0)"]);
    lora.edit("test.ron", "rank: 4", "rank: 4, blocks: \"0-7\"");
    lora.edit("test.ron", "layout: Diffusers, text_encoders: true", "");
    lora.run().fails(1, &["there is no block 2", "0 to 1"]);
    lora.edit("test.ron", "blocks: \"0-7\"", "targets: [ClipL]");
    lora.run().fails(2, &["unknown name `ClipL`", "`ImageQuery`"]);
    let clips = space("LoRA(targets: [ClipGAttention])", "Export(lora: Merged(0.8))");
    clips.run().fails(2, &["a checkpoint without them would lose that", "text_encoders: true"]);
    clips.edit("test.ron", "Merged(0.8)", "Kohya");
    clips.edit("test.ron", "        clip_g: \"model/clip_g.safetensors\",\n", "");
    clips.run().fails(1, &["the model has no CLIP-G", "name its file in `model`"]);
    let full = space("Full", "Export(lora: Kohya)");
    full.run().fails(2, &["`lora` has no effect: the training has no adapter"]);
}
