//! Each option by itself: it changes the pipeline if it becomes a field, and is told in any case.

use crate::place::Place;
use sd3pipe::{
    import::options::{Fate, OPTIONS, SdOption, Takes, Trainer, option},
    pipeline::{Pipeline, options},
};

const FULL: &str = "accelerate launch sd3_train.py --pretrained_model_name_or_path models/sd3_medium.safetensors \
    --train_data_dir photos --resolution 512 --max_train_steps 80 ";
const LORA: &str = "accelerate launch sd3_train_network.py --pretrained_model_name_or_path models/sd3_medium.safetensors \
    --train_data_dir photos --resolution 512 --max_train_steps 80 --network_module networks.lora_sd3 ";

/// Options that become fields, with something to write behind them, and what they have an effect beside.
const FIELDS: &[(&str, &str, &str)] = &[
    ("alpha_mask", "", ""),
    ("blocks_to_swap", "4", ""),
    ("blockwise_fused_optimizers", "", ""),
    ("bucket_no_upscale", "", "--enable_bucket"),
    ("bucket_reso_steps", "32", "--enable_bucket"),
    ("caption_dropout_rate", "0.1", ""),
    ("caption_extension", ".txt", ""),
    ("caption_extention", ".txt", ""),
    ("caption_prefix", "'ohwx style,'", ""),
    ("caption_separator", "';'", "--shuffle_caption"),
    ("caption_suffix", "drawn", ""),
    ("caption_tag_dropout_rate", "0.1", ""),
    ("clip_g", "models/clip_g.safetensors", ""),
    ("clip_g_dropout_rate", "0.1", ""),
    ("clip_l", "models/clip_l.safetensors", ""),
    ("clip_l_dropout_rate", "0.1", ""),
    ("config_file", "all.toml", ""),
    ("dataset_config", "data.toml", ""),
    ("dataset_repeats", "3", "--dataset_config data.toml"),
    ("enable_bucket", "", ""),
    ("enable_wildcard", "", ""),
    ("flip_aug", "", ""),
    ("full_bf16", "", "--mixed_precision bf16"),
    ("full_fp16", "", "--mixed_precision fp16"),
    ("fused_backward_pass", "", "--optimizer_type Adafactor"),
    ("gradient_accumulation_steps", "2", ""),
    ("gradient_checkpointing", "", ""),
    ("huber_c", "0.2", "--loss_type huber --huber_schedule constant"),
    ("huber_scale", "2", "--loss_type smooth_l1 --huber_schedule constant"),
    ("huber_schedule", "exponential", "--loss_type huber --huber_schedule constant"),
    ("keep_tokens", "1", "--shuffle_caption"),
    ("keep_tokens_separator", "'|||'", "--shuffle_caption"),
    ("learning_rate", "1e-4", ""),
    ("logit_mean", "0.5", "--weighting_scheme logit_normal"),
    ("logit_std", "0.5", "--weighting_scheme logit_normal"),
    ("loss_type", "l1", ""),
    ("lr_decay_steps", "10", "--lr_scheduler warmup_stable_decay"),
    ("lr_scheduler", "cosine", ""),
    ("lr_scheduler_min_lr_ratio", "0.1", "--lr_scheduler warmup_stable_decay"),
    ("lr_scheduler_num_cycles", "2", "--lr_scheduler cosine_with_restarts"),
    ("lr_scheduler_power", "2", "--lr_scheduler polynomial"),
    ("lr_scheduler_timescale", "50", "--lr_scheduler inverse_sqrt"),
    ("lr_warmup_steps", "10", "--lr_scheduler constant_with_warmup"),
    ("masked_loss", "", "--dataset_config masks.toml"),
    ("max_bucket_reso", "2048", "--enable_bucket"),
    ("max_grad_norm", "0.5", ""),
    ("max_timestep", "900", ""),
    ("max_train_epochs", "5", ""),
    ("max_train_steps", "120", ""),
    ("min_bucket_reso", "128", "--enable_bucket"),
    ("min_timestep", "100", ""),
    ("mixed_precision", "bf16", ""),
    ("mode_scale", "1.0", "--weighting_scheme mode"),
    ("network_alpha", "8", ""),
    ("network_args", "x_attn_dim=2", ""),
    ("network_dim", "8", ""),
    ("network_dropout", "0.1", ""),
    ("network_module", "lycoris.kohya", ""),
    ("network_train_text_encoder_only", "", ""),
    ("network_train_unet_only", "", ""),
    ("network_weights", "models/lora.safetensors", ""),
    ("optimizer_args", "weight_decay=0.1 betas=0.9,0.99", ""),
    ("optimizer_type", "Lion", ""),
    ("output_name", "mine", ""),
    ("pretrained_model_name_or_path", "other.safetensors", ""),
    ("prior_loss_weight", "0.5", "--reg_data_dir class"),
    ("reg_data_dir", "class", ""),
    ("resolution", "768,512", ""),
    ("sample_prompts", "prompts.txt", ""),
    ("save_every_n_epochs", "2", ""),
    ("save_every_n_steps", "40", ""),
    ("save_last_n_epochs", "1", "--save_every_n_epochs 1"),
    ("save_n_epoch_ratio", "2", ""),
    ("save_precision", "bf16", ""),
    ("secondary_separator", "';;'", "--shuffle_caption"),
    ("seed", "7", ""),
    ("shuffle_caption", "", ""),
    ("t5_dropout_rate", "0.1", ""),
    ("t5xxl", "models/t5xxl_fp16.safetensors", ""),
    ("t5xxl_max_token_length", "77", ""),
    ("text_encoder_batch_size", "4", ""),
    ("text_encoder_lr", "1e-5 2e-5", ""),
    ("tokenizer_cache_dir", "tokenizers", "--t5xxl models/t5xxl_fp16.safetensors"),
    ("train_batch_size", "2", ""),
    ("train_data_dir", "class", ""),
    ("training_shift", "3", ""),
    ("unet_lr", "1e-4", ""),
    ("use_8bit_adam", "", ""),
    ("use_lion_optimizer", "", ""),
    ("vae", "models/vae.safetensors", ""),
    ("vae_batch_size", "2", ""),
    ("validate_every_n_epochs", "2", "--validation_split 0.1"),
    ("validation_split", "0.1", ""),
    ("weighting_scheme", "mode", ""),
];

fn place() -> Place {
    let place = Place::new();
    place.write("all.toml", "seed = 7\n");
    place.write("prompts.txt", "a dog --w 1024\n");
    let data = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = \"photos/2_dog\"\n";
    place.write("data.toml", data);
    place.write("masks.toml", &format!("{data}conditioning_data_dir = \"class\"\n"));
    place
}

/// The pipeline, or what is refused; and all that was said.
fn outcome(place: &Place, script: &str) -> (Result<Pipeline, String>, String) {
    match place.import(script) {
        Ok(text) => (options().from_str(&text).map_err(|error| panic!("{script}: {error}\n{text}")), text),
        Err(refused) => (Err(refused.clone()), refused),
    }
}

fn base(option: &SdOption) -> &'static str {
    if option.trainer == Trainer::Lora { LORA } else { FULL }
}

#[test]
fn an_option_that_becomes_a_field_changes_the_pipeline_and_is_its_comment() {
    let place = place();
    let listed: Vec<&str> = FIELDS.iter().map(|(name, ..)| *name).collect();
    let fields = OPTIONS.iter().filter(|option| matches!(option.fate, Fate::Field(_))).map(|option| option.name);
    assert_eq!(listed, fields.collect::<Vec<_>>(), "each has something to be tried with");
    for (name, value, beside) in FIELDS {
        let base = format!("{} {beside}", base(option(name).expect("listed")));
        let (without, _) = outcome(&place, &base);
        let (with, text) = outcome(&place, &format!("{base} --{name} {value}"));
        assert!(without != with, "--{name} changes nothing: {with:?}");
        assert!(text.contains(&format!("--{name}")), "--{name} is not told:\n{text}");
        let refused = ["network_module"].contains(name);
        assert_eq!(with.is_err(), refused, "--{name}: {with:?}");
    }
}

/// One may hide another, which must be told then.
#[test]
fn of_many_options_together_each_is_told() {
    let place = place();
    // These are refused, or change what is asked for by all others.
    let apart = [
        "dataset_config",
        "dataset_repeats",
        "masked_loss",
        "network_module",
        "network_train_text_encoder_only",
        "network_train_unet_only",
        "optimizer_type",
        "use_lion_optimizer",
    ];
    for (trainer, base) in [(Trainer::Full, FULL), (Trainer::Lora, LORA)] {
        let together =
            FIELDS.iter().filter(|(name, ..)| !apart.contains(name) && trainer.has(option(name).expect("listed")));
        let options: String = together.clone().map(|(name, value, _)| format!(" --{name} {value}")).collect();
        for more in [
            "",
            "--enable_bucket --network_train_unet_only",
            "--weighting_scheme sigma_sqrt --lr_scheduler polynomial --loss_type l2",
        ] {
            let more =
                if trainer == Trainer::Full { more.replace("--network_train_unet_only", "") } else { more.to_owned() };
            let (with, text) = outcome(&place, &format!("{base} {options} {more}"));
            assert!(with.is_ok(), "{text}");
            for (name, ..) in together.clone() {
                let told = text.match_indices(&format!("--{name}")).any(|(start, found)| {
                    !text[start + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                });
                assert!(told, "--{name} is not told:\n{text}");
            }
        }
    }
}

#[test]
fn an_option_without_a_field_is_told_or_refused() {
    let place = place();
    for option in OPTIONS {
        let value = if option.takes == Takes::Nothing { "" } else { "1" };
        let (with, text) = outcome(&place, &format!("{} --{} {value}", base(option), option.name));
        let told = text.contains(&format!("--{}", option.name));
        match option.fate {
            Fate::Field(_) => {}
            Fate::Ineffective | Fate::NoEffect(_) | Fate::Aside(_) => {
                let (without, _) = outcome(&place, base(option));
                assert_eq!(with, without, "--{} changes the pipeline", option.name);
                assert!(
                    told && !option.left_out().expect("a reason").ends_with(": "),
                    "--{} is not told:\n{text}",
                    option.name
                );
            }
            Fate::Refused(reason, instead) => {
                assert!(told && with.is_err(), "--{} is not refused", option.name);
                assert!(text.contains(reason) && text.contains(instead), "{text}");
            }
        }
    }
}

/// Programs that write such commands write all that they know.
#[test]
fn what_is_refused_is_not_when_it_is_off() {
    let place = place();
    let off = "--token_warmup_step 0 --caption_dropout_every_n_epochs 0 --lr_scheduler_type '' --lr_scheduler_args --pos_emb_random_crop_rate 0.0";
    assert_eq!(outcome(&place, &format!("{FULL} {off}")).0, outcome(&place, FULL).0);
}

#[test]
fn a_secret_is_not_written_into_the_pipeline() {
    let (_, text) = outcome(&place(), &format!("{FULL} --wandb_api_key abcde --huggingface_token fghij"));
    assert!(text.contains("--wandb_api_key") && !text.contains("abcde") && !text.contains("fghij"), "{text}");
}
