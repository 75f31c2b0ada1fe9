//! The configuration files of a diffusers folder, from the geometry of the networks.

use crate::{
    checkpoint::{Component, ComponentSource, MmditGeometry},
    error::StageError,
    precision::Precision,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The first release of diffusers that knows every SD3: what the files claim to be written by.
const DIFFUSERS: &str = "0.31.0";

/// The shift of the sigmas that every SD3 is sampled with.
const SIGMA_SHIFT: f64 = 3.0;

/// The mean of raw latents and the inverse of their deviation (`SD3LatentFormat` of Stability's reference).
const LATENT_SHIFT: f64 = 0.0609;
const LATENT_SCALE: f64 = 1.5305;

/// The longest side, in latent pixels, that the released models were trained at: what a pipeline draws if not told a size.
const SAMPLE_SIZE: usize = 128;

/// The width of a head of either CLIP.
const CLIP_HEAD: usize = 64;

/// As many groups as the VAE's norms have, unless there are fewer channels.
const GROUPS: usize = 32;

/// The parts of a pipeline, from name to the library and the class that load it.
pub(super) type Parts<'p> = BTreeMap<&'p str, (&'p str, &'p str)>;

/// `model_index.json`. Parts that are not in the folder are null, and whoever loads it passes them.
pub(super) fn index(parts: &Parts<'_>) -> Vec<u8> {
    const ABSENT: [&str; 9] = [
        "feature_extractor",
        "image_encoder",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
        "vae",
    ];
    let absent = ABSENT.map(|name| (name, json!([null, null])));
    let present = parts.iter().map(|(name, (library, class))| (*name, json!([library, class])));
    let own = [("_class_name", json!("StableDiffusion3Pipeline")), ("_diffusers_version", json!(DIFFUSERS))];
    file(absent.into_iter().chain(present).chain(own))
}

/// `scheduler/scheduler_config.json`.
pub(super) fn scheduler() -> Vec<u8> {
    file([
        ("_class_name", json!("FlowMatchEulerDiscreteScheduler")),
        ("_diffusers_version", json!(DIFFUSERS)),
        ("num_train_timesteps", json!(1000)),
        ("shift", json!(SIGMA_SHIFT)),
    ])
}

/// `transformer/config.json`.
pub(super) fn transformer(geometry: &MmditGeometry) -> Vec<u8> {
    file([
        ("_class_name", json!("SD3Transformer2DModel")),
        ("_diffusers_version", json!(DIFFUSERS)),
        ("attention_head_dim", json!(geometry.head_width())),
        ("caption_projection_dim", json!(geometry.width)),
        ("dual_attention_layers", json!(geometry.dual_attention)),
        ("in_channels", json!(geometry.channels)),
        ("joint_attention_dim", json!(geometry.context_width)),
        ("num_attention_heads", json!(geometry.heads)),
        ("num_layers", json!(geometry.depth)),
        ("out_channels", json!(geometry.channels)),
        ("patch_size", json!(geometry.patch)),
        ("pooled_projection_dim", json!(geometry.pooled_width)),
        ("pos_embed_max_size", json!(geometry.position_grid)),
        ("qk_norm", json!(geometry.qk_norm.then_some("rms_norm"))),
        ("sample_size", json!(SAMPLE_SIZE.min(geometry.position_grid * geometry.patch))),
    ])
}

/// `vae/config.json`.
///
/// # Errors
/// When diffusers has no such VAE: its decoder has the encoder's widths and one block more at each level, and all norms have as
/// many groups.
pub(super) fn autoencoder(encoder: &ComponentSource, decoder: &ComponentSource) -> Result<Vec<u8>, StageError> {
    let unexportable = |reason: String| StageError::Unexportable { what: "the VAE".into(), reason };
    let levels = count(encoder, |level| format!("down.{level}.block.0.conv1.weight"));
    let blocks = count(encoder, |block| format!("down.0.block.{block}.conv1.weight"));
    let mut widths = Vec::new();
    for level in 0..levels {
        let width = side(encoder, &format!("down.{level}.block.0.conv1.weight"), 0)?;
        let mirrored = side(decoder, &format!("up.{level}.block.0.conv1.weight"), 0)?;
        let down = count(encoder, |block| format!("down.{level}.block.{block}.conv1.weight"));
        let up = count(decoder, |block| format!("up.{level}.block.{block}.conv1.weight"));
        if (mirrored, down, up) != (width, blocks, blocks + 1) {
            return Err(unexportable(format!("its halves differ at level {level}")));
        }
        widths.push(width);
    }
    let groups = widths.iter().map(|width| *width.min(&GROUPS));
    let (fewest, most) = (groups.clone().min().unwrap_or(GROUPS), groups.max().unwrap_or(GROUPS));
    if fewest != most {
        return Err(unexportable(format!("its norms have {fewest} groups here and {most} there")));
    }
    Ok(file([
        ("_class_name", json!("AutoencoderKL")),
        ("_diffusers_version", json!(DIFFUSERS)),
        ("act_fn", json!("silu")),
        ("block_out_channels", json!(widths)),
        ("down_block_types", json!(vec!["DownEncoderBlock2D"; levels])),
        ("force_upcast", json!(true)),
        ("in_channels", json!(side(encoder, "conv_in.weight", 1)?)),
        ("latent_channels", json!(side(decoder, "conv_in.weight", 1)?)),
        ("latents_mean", Value::Null),
        ("latents_std", Value::Null),
        ("layers_per_block", json!(blocks)),
        ("norm_num_groups", json!(fewest)),
        ("out_channels", json!(side(decoder, "conv_out.weight", 0)?)),
        ("sample_size", json!(8 * SAMPLE_SIZE)),
        ("scaling_factor", json!(LATENT_SCALE)),
        ("shift_factor", json!(LATENT_SHIFT)),
        ("up_block_types", json!(vec!["UpDecoderBlock2D"; levels])),
        ("use_post_quant_conv", json!(false)),
        ("use_quant_conv", json!(false)),
    ]))
}

/// The `config.json` of a text encoder in a precision.
///
/// # Errors
/// None for a network that was found whole.
pub(super) fn text_encoder(source: &ComponentSource, precision: Precision) -> Result<Vec<u8>, StageError> {
    let dtype = match precision {
        Precision::F32 => "float32",
        Precision::Bf16 => "bfloat16",
        Precision::F16 => "float16",
    };
    match source.component() {
        Component::T5 => t5(source, dtype),
        component => clip(source, component, dtype),
    }
}

fn clip(source: &ComponentSource, component: Component, dtype: &str) -> Result<Vec<u8>, StageError> {
    let tokens = "text_model.embeddings.token_embedding.weight";
    let (vocabulary, width) = (side(source, tokens, 0)?, side(source, tokens, 1)?);
    let layer = |layer| format!("text_model.encoder.layers.{layer}.mlp.fc1.weight");
    let projection = source.shape("text_projection.weight").and_then(|shape| shape.first().copied()).unwrap_or(width);
    Ok(file([
        ("architectures", json!(["CLIPTextModelWithProjection"])),
        ("attention_dropout", json!(0.0)),
        ("bos_token_id", json!(0)),
        // Not the real id: 2 makes transformers take the largest id as the text's end, as the models were trained.
        ("eos_token_id", json!(2)),
        ("hidden_act", json!(if component == Component::ClipL { "quick_gelu" } else { "gelu" })),
        ("hidden_size", json!(width)),
        ("intermediate_size", json!(side(source, &layer(0), 0)?)),
        ("layer_norm_eps", json!(1e-5)),
        ("max_position_embeddings", json!(side(source, "text_model.embeddings.position_embedding.weight", 0)?)),
        ("model_type", json!("clip_text_model")),
        ("num_attention_heads", json!(width / CLIP_HEAD)),
        ("num_hidden_layers", json!(count(source, layer))),
        ("pad_token_id", json!(1)),
        ("projection_dim", json!(projection)),
        ("torch_dtype", json!(dtype)),
        ("vocab_size", json!(vocabulary)),
    ]))
}

fn t5(source: &ComponentSource, dtype: &str) -> Result<Vec<u8>, StageError> {
    let attention = "encoder.block.0.layer.0.SelfAttention";
    let bias = format!("{attention}.relative_attention_bias.weight");
    let (buckets, heads) = (side(source, &bias, 0)?, side(source, &bias, 1)?);
    let layers = count(source, |block| format!("encoder.block.{block}.layer.0.SelfAttention.q.weight"));
    Ok(file([
        ("architectures", json!(["T5EncoderModel"])),
        ("d_ff", json!(side(source, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0)?)),
        ("d_kv", json!(side(source, &format!("{attention}.q.weight"), 0)? / heads.max(1))),
        ("d_model", json!(side(source, "shared.weight", 1)?)),
        ("decoder_start_token_id", json!(0)),
        ("dropout_rate", json!(0.1)),
        ("eos_token_id", json!(1)),
        ("feed_forward_proj", json!("gated-gelu")),
        ("is_encoder_decoder", json!(true)),
        ("layer_norm_epsilon", json!(1e-6)),
        ("model_type", json!("t5")),
        ("num_decoder_layers", json!(layers)),
        ("num_heads", json!(heads)),
        ("num_layers", json!(layers)),
        ("pad_token_id", json!(0)),
        ("relative_attention_max_distance", json!(128)),
        ("relative_attention_num_buckets", json!(buckets)),
        ("tie_word_embeddings", json!(false)),
        ("torch_dtype", json!(dtype)),
        ("use_cache", json!(true)),
        ("vocab_size", json!(side(source, "shared.weight", 0)?)),
    ]))
}

/// How many tensors of numbered names there are, without a gap.
pub(super) fn count(source: &ComponentSource, name: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|index| source.shape(&name(*index)).is_some()).count()
}

fn side(source: &ComponentSource, name: &str, axis: usize) -> Result<usize, StageError> {
    source.shape(name).and_then(|shape| shape.get(axis).copied()).ok_or_else(|| StageError::Unexportable {
        what: format!("the {}", source.component()),
        reason: format!("it has no {name}"),
    })
}

/// JSON with sorted names, which need no escaping, so that equal configurations are equal files.
pub(super) fn file<'n>(fields: impl IntoIterator<Item = (&'n str, Value)>) -> Vec<u8> {
    // A map of serde_json's own keeps another order when some other crate asks for that.
    let fields: BTreeMap<&str, Value> = fields.into_iter().collect();
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "compute")]
    #[test]
    fn the_latents_constants_are_those_that_are_trained_with() {
        assert_eq!((LATENT_SHIFT, LATENT_SCALE), (crate::nn::SHIFT, crate::nn::SCALE));
    }

    #[test]
    fn parts_that_are_not_there_are_null() {
        let index = index(&BTreeMap::from([("transformer", ("diffusers", "SD3Transformer2DModel"))]));
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["transformer"], json!(["diffusers", "SD3Transformer2DModel"]));
        assert_eq!(index["text_encoder_3"], json!([null, null]));
    }
}
