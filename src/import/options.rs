//! Every option of sd-scripts' two SD3 trainers, and what becomes of it.

use crate::pipeline::ineffective;
use Fate::{Aside, Field, Ineffective, NoEffect, Refused};
use Takes::{Nothing, One, Several};
use Trainer::{Both, Full, Lora};

/// An option of `sd3_train.py`, `sd3_train_network.py` or both.
#[derive(Clone, Copy, Debug)]
pub struct SdOption {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// Who has it.
    pub trainer: Trainer,
    /// What is written behind it.
    pub takes: Takes,
    /// What becomes of it.
    pub fate: Fate,
}

/// One of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trainer {
    /// `sd3_train.py`, which trains every weight.
    Full,
    /// `sd3_train_network.py`, which trains a LoRA.
    Lora,
    /// Of an option: either.
    Both,
}

/// What is written behind an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it is a switch.
    Nothing,
    /// A value.
    One,
    /// Values up to the next option, or none.
    Several,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It becomes these fields.
    Field(&'static str),
    /// It has no effect on SD3 there, for the reason that a pipeline file gives for it too.
    Ineffective,
    /// It has no effect there, or ends in an error.
    NoEffect(&'static str),
    /// It needs no field here.
    Aside(&'static str),
    /// It can't be carried over: why, and what to write in its place.
    Refused(&'static str, &'static str),
}

impl SdOption {
    /// Why it comes to no field, for those that have no effect or need none.
    pub fn left_out(&self) -> Option<String> {
        match self.fate {
            Ineffective => Some(format!("had no effect: {}", ineffective::reason(self.name).unwrap_or_default())),
            NoEffect(reason) => Some(format!("had no effect: {reason}")),
            Aside(reason) => Some(reason.to_owned()),
            Field(_) | Refused(..) => None,
        }
    }
}

impl Trainer {
    /// Whether its parser has such an option.
    pub fn has(self, option: &SdOption) -> bool {
        option.trainer == Both || option.trainer == self
    }
}

/// The option of this name.
pub fn option(name: &str) -> Option<&'static SdOption> {
    OPTIONS.iter().find(|option| option.name == name)
}

const fn of(name: &'static str, trainer: Trainer, takes: Takes, fate: Fate) -> SdOption {
    SdOption { name, trainer, takes, fate }
}

const CACHED: Fate = Aside("texts and latents are always computed once and kept in the store");
const LOGS: Fate = Aside("every run keeps its losses: `sd3pipe show last`");
const UPLOAD: Fate = Aside("nothing is uploaded: the files lie in out/");
const METADATA: Fate = Aside("what an export writes into its files is its own provenance");
const STATE: Fate = Aside("the state is always saved: a killed run goes on where it was");
const WORKERS: Fate = Aside("what is trained on is read from the store, by no workers");
const TUNING: Fate = Aside("it changes how fast a step is and not what it does");
const ZERO: Fate = Aside("there is no DeepSpeed here; `block_swap` keeps weights and states in the host's memory");
const CONSOLE: Fate = Aside("the program speaks on the terminal in its own way");
const BROKEN: Fate = NoEffect("its help says so itself");
const VARIANTS: &str = "captions.shuffle";
const OWN_RATES: Fate = Refused(
    "a full fine-tuning trains the MMDiT here and no encoder",
    "leave it out, or train a LoRA of the CLIPs with sd3_train_network.py's options",
);

/// All of them, by name; those that both have with another default once.
pub const OPTIONS: &[SdOption] = &[
    of("adaptive_noise_scale", Both, One, Ineffective),
    of("alpha_mask", Both, Nothing, Field("captions.data.masks")),
    of("apply_lg_attn_mask", Both, Nothing, Aside(ATTENTION_MASK)),
    of("apply_t5_attn_mask", Both, Nothing, Aside(ATTENTION_MASK)),
    of("async_upload", Both, Nothing, UPLOAD),
    of("base_weights", Lora, Several, Refused(BASE_WEIGHTS, MERGE)),
    of("base_weights_multiplier", Lora, Several, Refused(BASE_WEIGHTS, MERGE)),
    of("blocks_to_swap", Both, One, Field("train.block_swap")),
    of("blockwise_fused_optimizers", Full, Nothing, Field("train.fused_step")),
    of("bucket_no_upscale", Both, Nothing, Field("latents.buckets.upscale")),
    of("bucket_reso_steps", Both, One, Field("latents.buckets.step")),
    of("cache_info", Both, Nothing, Aside("what is known of files is kept in the store, and noticed when it changes")),
    of("cache_latents", Both, Nothing, CACHED),
    of("cache_latents_to_disk", Both, Nothing, CACHED),
    of("cache_text_encoder_outputs", Both, Nothing, CACHED),
    of("cache_text_encoder_outputs_to_disk", Both, Nothing, CACHED),
    of("caption_dropout_every_n_epochs", Both, One, Refused(EVERY_N_EPOCHS, "--caption_dropout_rate 0.1, say")),
    of("caption_dropout_rate", Both, One, Field("train.caption_dropout")),
    of("caption_extension", Both, One, Field("captions.extensions")),
    of("caption_extention", Both, One, Field("captions.extensions")),
    of("caption_prefix", Both, One, Field("captions.prefix")),
    of("caption_separator", Both, One, Field("captions.separator")),
    of("caption_suffix", Both, One, Field("captions.suffix")),
    of("caption_tag_dropout_rate", Both, One, Field("captions.shuffle.tag_dropout")),
    of("clip_g", Both, One, Field("model.clip_g")),
    of("clip_g_dropout_rate", Both, One, Field("train.encoder_dropout.clip_g")),
    of("clip_l", Both, One, Field("model.clip_l")),
    of("clip_l_dropout_rate", Both, One, Field("train.encoder_dropout.clip_l")),
    of("clip_skip", Both, One, Ineffective),
    of("color_aug", Both, Nothing, Refused(AUGMENTED, "leave it out")),
    of(
        "conditioning_data_dir",
        Both,
        One,
        NoEffect("the command line's is never read; masks come by --dataset_config"),
    ),
    of("config_file", Both, One, Field("the options that are in it")),
    of("console_log_file", Both, One, CONSOLE),
    of("console_log_level", Both, One, CONSOLE),
    of("console_log_simple", Both, Nothing, CONSOLE),
    of("cpu_offload_checkpointing", Lora, Nothing, NoEffect("on SD3 it ends in an error")),
    of("dataset_class", Both, One, Refused("it is Python code that makes the data", "name folders of images")),
    of("dataset_config", Both, One, Field("captions, latents, train.batch")),
    of("dataset_repeats", Both, One, Field("captions.data.repeats")),
    of("ddp_gradient_as_bucket_view", Both, Nothing, TUNING),
    of("ddp_static_graph", Both, Nothing, TUNING),
    of("ddp_timeout", Both, One, TUNING),
    of("debiased_estimation_loss", Both, Nothing, Ineffective),
    of("debug_dataset", Both, Nothing, Refused("it shows the data and trains nothing", "leave it out")),
    of("deepspeed", Both, Nothing, ZERO),
    of("dim_from_weights", Lora, Nothing, Refused(DIM_FROM_WEIGHTS, "--network_dim with the file's rank")),
    of("disable_mmap_load_safetensors", Both, Nothing, TUNING),
    of("dynamo_backend", Both, One, TUNING),
    of("enable_bucket", Both, Nothing, Field("latents.buckets")),
    of("enable_scaled_pos_embed", Both, Nothing, Refused(POSITIONS, "leave it out")),
    of("enable_wildcard", Both, Nothing, Field("captions.wildcards, captions.lines")),
    of("face_crop_aug_range", Both, One, Refused(AUGMENTED, "leave it out")),
    of("flip_aug", Both, Nothing, Field("captions.data.flip")),
    of("fp16_master_weights_and_gradients", Both, Nothing, ZERO),
    of("fp8_base", Both, Nothing, Aside(FP8)),
    of("fp8_base_unet", Lora, Nothing, Aside(FP8)),
    of("full_bf16", Both, Nothing, Field("train.weights")),
    of("full_fp16", Both, Nothing, Field("train.weights")),
    of("fused_backward_pass", Both, Nothing, Field("train.fused_step")),
    of("fused_optimizer_groups", Full, One, BROKEN),
    of("gradient_accumulation_steps", Both, One, Field("train.accumulate")),
    of("gradient_checkpointing", Both, Nothing, Field("train.checkpointing")),
    of("highvram", Both, Nothing, TUNING),
    of("huber_c", Both, One, Field("train.loss.delta, train.loss.beta")),
    of("huber_scale", Both, One, Field("train.loss.delta, train.loss.beta")),
    of("huber_schedule", Both, One, Field("train.loss.schedule")),
    of("huggingface_path_in_repo", Both, One, UPLOAD),
    of("huggingface_repo_id", Both, One, UPLOAD),
    of("huggingface_repo_type", Both, One, UPLOAD),
    of("huggingface_repo_visibility", Both, One, UPLOAD),
    of("huggingface_token", Both, One, UPLOAD),
    of("in_json", Both, One, Refused(METADATA_FILE, CAPTION_FILES)),
    of("initial_epoch", Lora, One, Refused(RESUME, FROM_CHECKPOINT)),
    of("initial_step", Lora, One, Refused(RESUME, FROM_CHECKPOINT)),
    of("ip_noise_gamma", Both, One, Ineffective),
    of("ip_noise_gamma_random_strength", Both, Nothing, Ineffective),
    of("keep_tokens", Both, One, Field("captions.shuffle.keep_tokens")),
    of("keep_tokens_separator", Both, One, Field("captions.shuffle.keep_tokens_separator")),
    of("learning_rate", Both, One, Field("train.learning_rate")),
    of("learning_rate_te1", Full, One, OWN_RATES),
    of("learning_rate_te2", Full, One, OWN_RATES),
    of("learning_rate_te3", Full, One, OWN_RATES),
    of("log_config", Both, Nothing, LOGS),
    of("log_prefix", Both, One, LOGS),
    of("log_tracker_config", Both, One, LOGS),
    of("log_tracker_name", Both, One, LOGS),
    of("log_with", Both, One, LOGS),
    of("logging_dir", Both, One, LOGS),
    of("logit_mean", Both, One, Field("train.density.mean")),
    of("logit_std", Both, One, Field("train.density.standard_deviation")),
    of("loss_type", Both, One, Field("train.loss")),
    of("lowram", Both, Nothing, TUNING),
    of("lr_decay_steps", Both, One, Field("train.schedule.decay")),
    of("lr_scheduler", Both, One, Field("train.schedule")),
    of("lr_scheduler_args", Both, Several, Refused("they are arguments of a Python function", NAMED_SCHEDULES)),
    of("lr_scheduler_min_lr_ratio", Both, One, Field("train.schedule.minimum_ratio")),
    of("lr_scheduler_num_cycles", Both, One, Field("train.schedule.cycles")),
    of("lr_scheduler_power", Both, One, Field("train.schedule.power")),
    of("lr_scheduler_timescale", Both, One, Field("train.schedule.timescale")),
    of("lr_scheduler_type", Both, One, Refused("it is any class of Python", NAMED_SCHEDULES)),
    of("lr_warmup_steps", Both, One, Field("train.schedule.warmup")),
    of("masked_loss", Both, Nothing, Field("captions.data.masks")),
    of("max_bucket_reso", Both, One, Field("latents.buckets.max")),
    of("max_data_loader_n_workers", Both, One, WORKERS),
    of("max_grad_norm", Both, One, Field("train.max_gradient_norm")),
    of("max_timestep", Both, One, Field("train.max_timestep")),
    of("max_token_length", Both, One, Ineffective),
    of("max_train_epochs", Both, One, Field("train.epochs")),
    of("max_train_steps", Both, One, Field("train.epochs")),
    of("max_validation_steps", Lora, One, Aside("all that is held out is measured")),
    of("mem_eff_attn", Both, Nothing, Ineffective),
    of("metadata_author", Both, One, METADATA),
    of("metadata_description", Both, One, METADATA),
    of("metadata_is_negative_embedding", Both, One, METADATA),
    of("metadata_license", Both, One, METADATA),
    of("metadata_merged_from", Both, One, METADATA),
    of("metadata_preprocessor", Both, One, METADATA),
    of("metadata_tags", Both, One, METADATA),
    of("metadata_thumbnail", Both, One, METADATA),
    of("metadata_title", Both, One, METADATA),
    of("metadata_trigger_phrase", Both, One, METADATA),
    of("metadata_usage_hint", Both, One, METADATA),
    of("min_bucket_reso", Both, One, Field("latents.buckets.min")),
    of("min_snr_gamma", Both, One, Ineffective),
    of("min_timestep", Both, One, Field("train.min_timestep")),
    of("mixed_precision", Both, One, Field("train.precision, text.precision")),
    of("mode_scale", Both, One, Field("train.density.scale")),
    of("multires_noise_discount", Both, One, Ineffective),
    of("multires_noise_iterations", Both, One, Ineffective),
    of("network_alpha", Lora, One, Field("train.method.alpha")),
    of("network_args", Lora, Several, Field("train.method, train.groups")),
    of("network_dim", Lora, One, Field("train.method.rank")),
    of("network_dropout", Lora, One, Field("train.method.dropout")),
    of("network_module", Lora, One, Field("train.method")),
    of("network_train_text_encoder_only", Lora, Nothing, Field("train.method.targets")),
    of("network_train_unet_only", Lora, Nothing, Field("train.method.targets")),
    of("network_weights", Lora, One, Field("train.method.from")),
    of("no_half_vae", Lora, Nothing, Aside("the VAE computes in 32 bits unless `latents.precision` says otherwise")),
    of("no_metadata", Lora, Nothing, METADATA),
    of("noise_offset", Both, One, Ineffective),
    of("noise_offset_random_strength", Both, Nothing, Ineffective),
    of(
        "num_last_block_to_freeze",
        Full,
        One,
        Refused(LAST_BLOCKS, "freeze: [\"joint_blocks.20-23.*\"] in the pipeline"),
    ),
    of("offload_optimizer_device", Both, One, ZERO),
    of("offload_optimizer_nvme_path", Both, One, ZERO),
    of("offload_param_device", Both, One, ZERO),
    of("offload_param_nvme_path", Both, One, ZERO),
    of("optimizer_args", Both, Several, Field("train.optimizer")),
    of("optimizer_type", Both, One, Field("train.optimizer")),
    of("output_config", Both, Nothing, Refused("it writes the --config_file and trains nothing", "leave it out")),
    of("output_dir", Both, One, Aside("results go to out/, beside the pipeline, under its name")),
    of("output_name", Both, One, Field("name")),
    of("persistent_data_loader_workers", Both, Nothing, WORKERS),
    of("pos_emb_random_crop_rate", Both, One, Refused(POSITIONS, "leave it out")),
    of("pretrained_model_name_or_path", Both, One, Field("model.checkpoint")),
    of("prior_loss_weight", Lora, One, Field("train.prior_loss_weight")),
    of("random_crop", Both, Nothing, Refused(AUGMENTED, "leave it out")),
    of("reg_data_dir", Both, One, Field("captions.data.regularisation")),
    of("resize_interpolation", Both, One, Aside("pictures are scaled by one filter, chosen for quality")),
    of("resolution", Both, One, Field("latents.resolution")),
    of("resume", Both, One, Refused(RESUME, FROM_CHECKPOINT)),
    of("resume_from_huggingface", Both, Nothing, Refused(RESUME, FROM_CHECKPOINT)),
    of("sample_at_first", Both, Nothing, Aside("the first row of the contact sheet is always the untrained model")),
    of("sample_every_n_epochs", Both, One, Aside("samples are drawn of every checkpoint that is exported")),
    of("sample_every_n_steps", Both, One, Aside("samples are drawn of every checkpoint that is exported")),
    of("sample_prompts", Both, One, Field("sample")),
    of("sample_sampler", Both, One, NoEffect("on SD3 it is always Euler's, as here")),
    of("save_clip", Both, Nothing, Ineffective),
    of("save_every_n_epochs", Both, One, Field("export.epochs")),
    of("save_every_n_steps", Both, One, Field("export.epochs")),
    of("save_last_n_epochs", Both, One, Field("export.epochs")),
    of("save_last_n_epochs_state", Both, One, STATE),
    of("save_last_n_steps", Both, One, Aside("checkpoints are of whole epochs, and `gc` removes what no run needs")),
    of("save_last_n_steps_state", Both, One, STATE),
    of(
        "save_model_as",
        Both,
        One,
        Aside("files are safetensors; Export(layout: Diffusers) makes a folder of a full training"),
    ),
    of("save_n_epoch_ratio", Both, One, Field("export.epochs")),
    of("save_precision", Both, One, Field("export.precision")),
    of("save_state", Both, Nothing, STATE),
    of("save_state_on_train_end", Both, Nothing, STATE),
    of("save_state_to_huggingface", Both, Nothing, UPLOAD),
    of("save_t5xxl", Both, Nothing, Ineffective),
    of("scale_v_pred_loss_like_noise_pred", Both, Nothing, Ineffective),
    of(
        "scale_weight_norms",
        Lora,
        One,
        Refused("an adapter's norms are not held down", "a lower rate or --network_dropout"),
    ),
    of("sdpa", Both, Nothing, Ineffective),
    of("secondary_separator", Both, One, Field("captions.shuffle.secondary_separator")),
    of("seed", Both, One, Field("train.seed")),
    of("shuffle_caption", Both, Nothing, Field(VARIANTS)),
    of("skip_cache_check", Both, Nothing, Aside("what is kept is looked up by its content, which needs no such check")),
    of(
        "skip_latents_validity_check",
        Full,
        Nothing,
        Aside("what is kept is looked up by its content, which needs no such check"),
    ),
    of("skip_until_initial_step", Lora, Nothing, Refused(RESUME, FROM_CHECKPOINT)),
    of("t5_dropout_rate", Both, One, Field("train.encoder_dropout.t5")),
    of("t5xxl", Both, One, Field("model.t5xxl")),
    of("t5xxl_device", Both, One, Ineffective),
    of("t5xxl_dtype", Both, One, Ineffective),
    of("t5xxl_max_token_length", Both, One, Field("text.t5_tokens")),
    of("text_encoder_batch_size", Both, One, Field("text.batch")),
    of("text_encoder_lr", Lora, Several, Field("train.groups")),
    of("token_warmup_min", Both, One, NoEffect("it is of --token_warmup_step, which is refused")),
    of("token_warmup_step", Both, One, Refused(TOKEN_WARMUP, "leave it out")),
    of("tokenizer_cache_dir", Both, One, Field("model.tokenizers.t5")),
    of("torch_compile", Both, Nothing, TUNING),
    of("train_batch_size", Both, One, Field("train.batch")),
    of("train_data_dir", Both, One, Field("captions.data")),
    of("train_t5xxl", Full, Nothing, OWN_RATES),
    of("train_text_encoder", Full, Nothing, OWN_RATES),
    of("training_comment", Lora, One, METADATA),
    of("training_shift", Both, One, Field("train.shift")),
    of("unet_lr", Lora, One, Field("train.learning_rate")),
    of("use_8bit_adam", Both, Nothing, Field("train.optimizer")),
    of("use_lion_optimizer", Both, Nothing, Field("train.optimizer")),
    of("use_safetensors", Full, Nothing, Aside("files are safetensors")),
    of("use_t5xxl_cache_only", Full, Nothing, CACHED),
    of("v2", Both, Nothing, Ineffective),
    of("v_parameterization", Both, Nothing, Ineffective),
    of("v_pred_like_loss", Both, One, Ineffective),
    of("vae", Both, One, Field("model.vae")),
    of("vae_batch_size", Both, One, Field("latents.batch")),
    of("validate_every_n_epochs", Lora, One, Field("train.validation.every")),
    of("validate_every_n_steps", Lora, One, Aside("validations come after whole epochs")),
    of(
        "validation_seed",
        Lora,
        One,
        Aside("what is held out follows from the pictures' bytes, and changes with no seed"),
    ),
    of("validation_split", Lora, One, Field("train.validation.share")),
    of("wandb_api_key", Both, One, LOGS),
    of("wandb_run_name", Both, One, LOGS),
    of("weighted_captions", Both, Nothing, Ineffective),
    of("weighting_scheme", Both, One, Field("train.density, train.weighting, train.target")),
    of("xformers", Both, Nothing, Ineffective),
    of("zero3_init_flag", Both, Nothing, ZERO),
    of("zero3_save_16bit_model", Both, Nothing, ZERO),
    of("zero_stage", Both, One, ZERO),
    of("zero_terminal_snr", Both, Nothing, Ineffective),
];

const ATTENTION_MASK: &str =
    "SD3 was made without attention masks, and is used without; there it acted on cached texts alone";
const BASE_WEIGHTS: &str = "a LoRA is trained beside the model as its file is";
const MERGE: &str =
    "merge the other LoRA into a checkpoint first (its own pipeline with Export(lora: Merged(1.0))), and name that";
const EVERY_N_EPOCHS: &str = "captions are left out by a share of the steps and not by epochs";
const AUGMENTED: &str = "pictures are encoded once, as they are";
const DIM_FROM_WEIGHTS: &str = "ranks are said in the pipeline, so that it means the same without the file";
const POSITIONS: &str = "positions are read from the model's own table, as programs that draw with it do";
const FP8: &str =
    "the weights beside an adapter stay in 16 bits; where memory lacks, `block_swap` keeps some in the host's";
const METADATA_FILE: &str = "captions are read from a file beside each picture";
const CAPTION_FILES: &str =
    "write each caption to a .txt beside its picture, and name the folder with --train_data_dir";
const RESUME: &str = "accelerate's saved states are of PyTorch's own objects";
const FROM_CHECKPOINT: &str =
    "start from the last checkpoint: as --pretrained_model_name_or_path, or a LoRA as --network_weights";
const NAMED_SCHEDULES: &str =
    "one of --lr_scheduler's names with its own options, such as cosine or warmup_stable_decay";
const LAST_BLOCKS: &str = "it freezes so many tensors and not blocks";
const TOKEN_WARMUP: &str = "texts are made before the training, and can't grow with its steps";
