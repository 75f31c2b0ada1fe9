//! Whole trainings.

use crate::place::{Place, parameters, read, stage};
use sd3pipe::pipeline;
use std::fs;

const MODEL: &str = "--pretrained_model_name_or_path models/sd3_medium.safetensors --clip_l models/clip_l.safetensors \
    --clip_g models/clip_g.safetensors --t5xxl models/t5xxl_fp16.safetensors";

/// The run of July 2024 that pipelines/style_dreambooth.ron is of, as it was started.
const RECIPE: &str = r#"#!/bin/bash
# a style on 102 pictures
export MODELS="models" OUT=out
nvidia-smi && echo "training"
accelerate launch --num_processes 4 --num_cpu_threads_per_process 8 sd-scripts/sd3_train.py \
    --pretrained_model_name_or_path="${MODELS}/sd3_medium.safetensors" \
    --clip_l "$MODELS/clip_l.safetensors" --clip_g "$MODELS/clip_g.safetensors" --t5xxl $MODELS/t5xxl_fp16.safetensors \
    --train_data_dir photos --caption_extension .txt --keep_tokens 1 --resolution 1024,1024 \
    --output_dir "$OUT" --output_name style_dreambooth \
    --train_batch_size 1 --max_train_epochs 16 --learning_rate 1e-4 --seed 42 \
    --optimizer_type AdamW8bit --lr_scheduler cosine_with_restarts --lr_scheduler_num_cycles 1 \
    --mixed_precision bf16 --full_bf16 --gradient_checkpointing --debiased_estimation_loss \
    --cache_latents --cache_text_encoder_outputs --cache_text_encoder_outputs_to_disk \
    --save_every_n_epochs 1 --save_precision fp16 2>&1 | tee log.txt
"#;

#[test]
fn the_recipes_command_becomes_the_recipes_pipeline() {
    let place = Place::new();
    fs::remove_dir_all(place.path().join("photos")).unwrap();
    place.pictures("photos/10_sketch", 102);
    let recipe = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/style_dreambooth.ron")).unwrap();
    let recipe = place.load(&recipe);
    let imported = place.import_as_of(RECIPE, Some("2024-07")).unwrap();
    let ours = place.load(&imported.text);
    assert_eq!(ours.pipeline.name, recipe.pipeline.name);
    assert_eq!(ours.pipeline.model, recipe.pipeline.model);
    for name in ["text", "latents", "train", "export"] {
        assert_eq!(stage(&ours, name), stage(&recipe, name), "{name}\n{}", imported.text);
    }
    // There `repeats` says what here the folder's name does.
    let captions = parameters!(&ours, "captions", Captions);
    assert_eq!((captions.data.len(), captions.data[0].repeats), (1, 1));
    assert_eq!(captions.data[0].path, place.path().join("photos"));
    for said in ["--debiased_estimation_loss: had no effect", "--keep_tokens 1 had no effect", "on 4 GPUs"] {
        assert!(imported.text.contains(said), "{said}:\n{}", imported.text);
    }
    assert_eq!(imported.notes, [""; 0]);
}

#[test]
fn todays_defaults_are_others_and_are_said() {
    let place = Place::new();
    let text = place.import(RECIPE).unwrap();
    let ours = place.load(&text);
    let train = parameters!(&ours, "train", Train);
    let stage = read("Train(density: Uniform, shift: 1.0)");
    let sd3pipe_stages::stage::Stage::Train(expected) = &stage else { panic!() };
    assert_eq!((train.density, train.shift), (expected.density, expected.shift));
    assert_eq!(parameters!(&ours, "text", EncodeText).t5_tokens, 256);
    assert!(text.contains("since November 2024"), "{text}");
}

#[test]
fn a_lora_has_the_ranks_layers_and_rates_that_its_network_is_told() {
    let place = Place::new();
    place.write("models/tokenizers/google_t5-v1_1-xxl/spiece.model", "");
    let ours = place.pipeline(&format!(
        "accelerate launch sd3_train_network.py {MODEL} --train_data_dir photos --resolution 1024 --enable_bucket --max_train_epochs 10 \
         --network_module networks.lora_sd3 --network_dim 16 --network_alpha 8 --network_dropout 0.1 \
         --network_args x_attn_dim=32 context_mod_dim=0 train_block_indices=0-11,23 emb_dims=[4,4,4,4,0,0] loraplus_unet_lr_ratio=16 verbose=True \
         --unet_lr 2e-4 --text_encoder_lr 1e-5 0 --learning_rate 1e-4 --mixed_precision bf16 --optimizer_type Lion \
         --validation_split 0.1 --validate_every_n_epochs 2 --save_every_n_epochs 4 --save_last_n_epochs 1 \
         --tokenizer_cache_dir models/tokenizers --lr_scheduler cosine_with_min_lr --lr_scheduler_min_lr_ratio 0.1 --lr_warmup_steps 5%"
    ));
    let expected = read(
        r#"Train(
            method: LoRA(
                rank: 16, alpha: 8.0, dropout: 0.1, blocks: "0-11,23",
                targets: [
                    ImageQuery, ImageKey, ImageValue, ImageOutput, ImageFeedForward, ImageModulation, TextQuery, TextKey,
                    TextValue, TextOutput, TextFeedForward, Embedders, ClipLAttention, ClipLFeedForward,
                ],
                ranks: {ImageQuery: 32, ImageKey: 32, ImageValue: 32, ImageOutput: 32, Embedders: 4},
            ),
            text: "text", latents: "latents",
            epochs: 10, learning_rate: 2e-4, schedule: Cosine(warmup: Share(0.05), minimum_ratio: 0.1),
            optimizer: Lion(), precision: Bf16,
            groups: [
                (match: "clip_l.*", learning_rate: 0.05),
                (match: "*.lora_up.weight", learning_rate: 16.0),
            ],
            density: Uniform, shift: 1.0, target: X0, validation: (share: 0.1, every: 2),
        )"#,
    );
    assert_eq!(stage(&ours, "train"), &expected);
    let export = read("Export(train: \"train\", epochs: Only([8, 10]), precision: F32, lora: Kohya)");
    assert_eq!(stage(&ours, "export"), &export);
    let tokenizer = ours.pipeline.model.t5_tokenizer().expect("a tokenizer");
    assert!(tokenizer.ends_with("google_t5-v1_1-xxl"), "{}", tokenizer.display());
    let latents = read("EncodeImages(captions: \"captions\", buckets: (min: 256, max: 1024))");
    assert_eq!(stage(&ours, "latents"), &latents);
}

#[test]
fn a_file_of_settings_and_samples_are_read() {
    let place = Place::new();
    place.write(
        "settings.toml",
        "[model]\npretrained_model_name_or_path = \"models/sd3_medium.safetensors\"\nresolution = \"512\"\ntrain_data_dir = \"photos\"\n\
         [training]\nmax_train_steps = 100\ngradient_accumulation_steps = 2\nlearning_rate = 3e-5\noptimizer_type = \"Adafactor\"\n\
         optimizer_args = [\"scale_parameter=False\", \"relative_step=False\", \"warmup_init=False\", \"eps=(1e-30,0.002)\"]\n\
         sample_prompts = \"prompts.txt\"\nnoise_offset = 0.1\nlearning_rates = 1\nxformers = false\n",
    );
    place.write(
        "prompts.txt",
        "# what to draw\na dog --w 1024 --h 768 --d 7 --s 28 --l 4.5 --n blurred, dark\na cat --w 1024 --h 768 --d 7 --s 28 --l 4.5 \
         --n blurred, dark\na fox\n",
    );
    let text = place.import("python sd3_train.py --config_file settings --max_train_steps 40").unwrap();
    let ours = place.load(&text);
    let train = parameters!(&ours, "train", Train);
    // 20 samples in twos are 10 steps; those of the command line count.
    assert_eq!((train.epochs, train.accumulate, train.learning_rate), (4, 2, 3e-5));
    let sd3pipe_stages::stage::Stage::Train(expected) =
        read("Train(optimizer: Adafactor(epsilon1: 1e-30, epsilon2: 0.002))")
    else {
        panic!()
    };
    assert_eq!(train.optimizer, expected.optimizer);
    let first = "Sample(export: \"export\", prompts: [\"a dog\", \"a cat\"], negative: \"blurred, dark\", seeds: [7], size: (1024, 768), precision: F32)";
    assert_eq!(stage(&ours, "sample"), &read(first));
    let second =
        "Sample(export: \"export\", prompts: [\"a fox\"], size: (512, 512), steps: 30, cfg: 7.5, precision: F32)";
    assert_eq!(stage(&ours, "sample-2"), &read(second));
    for said in [
        "--noise_offset 0.1: had no effect",
        "learning_rates in the --config_file: had no effect",
        "for SD3; did you mean",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    assert!(!text.contains("xformers"), "a switch that is off was not given:\n{text}");
}

/// Two folders, one of them of the class, with all that may be said of folders.
const DATASET: &str = r#"
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1
flip_aug = true

[[datasets]]
resolution = [1024, 768]
batch_size = 2
enable_bucket = true
min_bucket_reso = 512
max_bucket_reso = 2048

  [[datasets.subsets]]
  image_dir = "photos/2_dog"
  num_repeats = 10
  class_tokens = "sks dog"
  caption_prefix = "sks style,"
  alpha_mask = true

  [[datasets.subsets]]
  image_dir = "class/1_animal"
  is_reg = true
  class_tokens = "dog"
  flip_aug = false
"#;

#[test]
fn a_file_of_datasets_becomes_captions_and_latents() {
    let place = Place::new();
    place.write("data.toml", DATASET);
    let network = "--network_module networks.lora_sd3 --network_train_unet_only --prior_loss_weight 0.5";
    let command = format!(
        "python sd3_train_network.py {MODEL} --dataset_config data.toml --max_train_steps 100 {network} --keep_tokens 3"
    );
    let ours = place.pipeline(&command);
    let captions = parameters!(&ours, "captions", Captions);
    // 100 samples of the own pictures: 4 of the class 25 times each are as many.
    let path = |name: &str| place.path().join(name).to_string_lossy().into_owned();
    let expected = read(&format!(
        r#"Captions(
            data: [
                (
                    path: {:?}, name: "2_dog", repeats: 10, class: "sks dog", masks: Alpha, flip: true, prefix: "sks style,", suffix: Some(""),
                ),
                (path: {:?}, name: "1_animal", repeats: 25, class: "dog", regularisation: true, prefix: ""),
            ],
            missing: ClassName, extensions: ["txt"], shuffle: (variants: 8, keep_tokens: 1),
        )"#,
        path("photos/2_dog"),
        path("class/1_animal"),
    ).replace(", suffix: Some(\"\")", ""));
    assert_eq!(stage(&ours, "captions"), &expected, "{captions:?}");
    let latents = "EncodeImages(captions: \"captions\", resolution: (1024, 768), buckets: (min: 512, max: 2048))";
    assert_eq!(stage(&ours, "latents"), &read(latents));
    let train = parameters!(&ours, "train", Train);
    // 200 samples in twos.
    assert_eq!((train.epochs, train.batch, train.prior_loss_weight), (1, 2, 0.5));
}

#[test]
fn datasets_of_the_same_folders_are_further_sizes_and_of_others_must_be_of_one_size() {
    let place = Place::new();
    let command = format!("python sd3_train.py {MODEL} --dataset_config data.toml --max_train_epochs 2");
    let set = |size: u32, folder: &str| {
        format!("[[datasets]]\nresolution = {size}\n[[datasets.subsets]]\nimage_dir = \"{folder}\"\n")
    };
    place.write("data.toml", &(set(1024, "class") + &set(768, "class") + &set(512, "class")));
    let ours = place.pipeline(&command);
    let latents =
        "EncodeImages(captions: \"captions\", resolution: 1024, further_resolutions: [768, 512], buckets: None)";
    assert_eq!(stage(&ours, "latents"), &read(latents));
    assert_eq!(parameters!(&ours, "captions", Captions).data.len(), 1);
    place.write("data.toml", &(set(1024, "class") + &set(1024, "photos")));
    assert_eq!(parameters!(&place.pipeline(&command), "captions", Captions).data.len(), 2);
    place.write("data.toml", &(set(1024, "class") + &set(512, "photos")));
    assert!(place.import(&command).unwrap_err().contains("other folders at other sizes"));
}

#[test]
fn masks_of_folders_are_masks() {
    let place = Place::new();
    place.pictures("masks", 10);
    place.write("data.toml", "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = \"photos/2_dog\"\nconditioning_data_dir = \"masks\"\n");
    let command = format!("python sd3_train.py {MODEL} --dataset_config data.toml --max_train_epochs 2");
    assert!(place.import(&command).unwrap_err().contains("--masked_loss"));
    let ours = place.pipeline(&format!("{command} --masked_loss"));
    let masks = parameters!(&ours, "captions", Captions).data[0].masks.clone();
    assert_eq!(masks, Some(sd3pipe_stages::captions::parameters::Masks::Folder(place.path().join("masks"))));
}

#[test]
fn cached_texts_lose_what_is_done_to_captions() {
    let place = Place::new();
    let command = format!(
        "python sd3_train.py {MODEL} --train_data_dir photos --resolution 512 --max_train_epochs 2 --caption_prefix sks --enable_wildcard"
    );
    let with = parameters!(&place.pipeline(&command), "captions", Captions).clone();
    assert_eq!((with.prefix.as_str(), with.wildcards.is_some()), ("sks", true));
    let text = place.import(&format!("{command} --cache_text_encoder_outputs")).unwrap();
    let without = parameters!(&place.load(&text), "captions", Captions).clone();
    assert_eq!((without.prefix.as_str(), without.wildcards.is_some()), ("", false));
    assert!(
        text.contains("--caption_prefix sks had no effect") && text.contains("--enable_wildcard had no effect"),
        "{text}"
    );
}

/// On several GPUs accelerate moves the schedule as many steps at each update.
#[test]
fn steps_of_a_schedule_are_updates() {
    let place = Place::new();
    let ours = place.pipeline(&format!(
        "accelerate launch --num_processes 4 sd3_train.py {MODEL} --train_data_dir photos --resolution 512 --max_train_epochs 20 \
         --lr_scheduler warmup_stable_decay --lr_warmup_steps 20 --lr_decay_steps 0.25 --gradient_accumulation_steps 2"
    ));
    let train = parameters!(&ours, "train", Train);
    let sd3pipe_stages::stage::Stage::Train(expected) =
        read("Train(schedule: WarmupStableDecay(warmup: 5, decay: Share(0.25)))")
    else {
        panic!()
    };
    assert_eq!((train.schedule, train.accumulate), (expected.schedule, 8));
}

#[test]
fn what_a_pipeline_itself_refuses_is_refused_here() {
    let place = Place::new();
    let command = format!("python sd3_train.py {MODEL} --train_data_dir photos --resolution 512 --max_train_epochs 2");
    for (options, said) in [
        ("--optimizer_type Prodigy --learning_rate 1e-4", "`train.learning_rate`"),
        ("--optimizer_type DAdaptAdam", "Prodigy"),
        ("--optimizer_type AdamW --optimizer_args weight_decai=0.1", "did you mean `weight_decay`?"),
        ("--loss_type huber", "--huber_schedule constant"),
        ("--lr_scheduler reduce_lr_on_plateau", "there is no such schedule"),
        ("--resolution 1000", "multiples of 16"),
        ("--learning_rate fast", "is not a number"),
        ("--train_data_dir empty", "no folder in it is called like `10_name`"),
    ] {
        fs::create_dir_all(place.path().join("empty")).unwrap();
        let refused = place.import(&format!("{command} {options}")).expect_err(options);
        assert!(refused.contains(said), "{options}: {refused}");
    }
    let steps = command.replace("--max_train_epochs 2", "").replace("photos", "nowhere");
    assert!(place.import(&steps).unwrap_err().contains("can't be counted"));
}

#[test]
fn keys_of_datasets_that_mean_nothing_are_refused_with_the_nearest() {
    let place = Place::new();
    place.write(
        "data.toml",
        &DATASET.replace("num_repeats", "num_repeat").replace("batch_size = 2", "colour_aug = true\ncolor_aug = true"),
    );
    let refused = place
        .import(&format!("python sd3_train.py {MODEL} --dataset_config data.toml --max_train_epochs 2"))
        .unwrap_err();
    for said in [
        "`num_repeat` means nothing in [[datasets.subsets]]",
        "did you mean `num_repeats`?",
        "`colour_aug` means nothing",
        "color_aug = true: pictures",
    ] {
        assert!(refused.contains(said), "{said}:\n{refused}");
    }
}

/// A line of a comment that a value breaks would be read as part of the pipeline.
#[test]
fn values_can_be_any_text() {
    let place = Place::new();
    let odd = "a\"b\\\n),//*/ c";
    let command = format!("python sd3_train.py {MODEL} --train_data_dir photos --resolution 512 --max_train_epochs 2");
    let ours = place.pipeline(&format!("{command} --caption_prefix '{odd}' --output_name '{odd}' --wandb_run_name '{odd}' --shuffle_caption --keep_tokens_separator '{odd}'"));
    let captions = parameters!(&ours, "captions", Captions);
    assert_eq!(
        (captions.prefix.as_str(), ours.pipeline.name.as_str()),
        (odd, format!("a-b{}c", "-".repeat(odd.len() - 4)).as_str())
    );
    assert_eq!(captions.shuffle.as_ref().unwrap().keep_tokens_separator, odd);
}

/// What lies beside the folders that sd-scripts looks into is not trained on there.
#[test]
fn folders_are_named_one_by_one_where_others_lie_beside_them() {
    let place = Place::new();
    place.pictures("photos/sorted out", 3);
    let ours = place.pipeline(&format!(
        "python sd3_train.py {MODEL} --train_data_dir photos --resolution 512 --max_train_epochs 2"
    ));
    let data = &parameters!(&ours, "captions", Captions).data;
    assert_eq!((data.len(), data[0].repeats, data[0].class.as_str()), (1, 2, "dog"));
    assert!(data[0].path.ends_with("photos/2_dog"));
}

#[test]
fn the_pipeline_is_what_pipeline_files_are() {
    let place = Place::new();
    let text = place.import(RECIPE).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    let again = place.load(&text).to_ron().unwrap();
    let read: pipeline::Pipeline = pipeline::options().from_str(&again).unwrap();
    assert_eq!(read, place.load(&text).pipeline);
}
