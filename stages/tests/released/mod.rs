//! The tensors of the networks as they were released: names without prefixes, and shapes.
// Who includes this takes what is needed.
#![allow(dead_code)]

use sd3pipe_stages::checkpoint::{Component, MmditModel, expected_names, mmdit_names};

pub type Names = Vec<(String, Vec<usize>)>;

/// SD3-medium's.
pub fn mmdit() -> Names {
    mmdit_names(&MmditModel::Sd3Medium.geometry().unwrap())
}

pub fn vae_encoder() -> Names {
    let shape = |name: &str| match name {
        "conv_in.weight" => Some(vec![128, 3]),
        "conv_out.weight" => Some(vec![32, 512]),
        _ => vae_level(name.strip_prefix("down.")?, 2),
    };
    expected_names(Component::VaeEncoder, &shape).unwrap()
}

pub fn vae_decoder() -> Names {
    let shape = |name: &str| match name {
        "conv_in.weight" => Some(vec![512, 16]),
        "conv_out.weight" => Some(vec![3, 128]),
        _ => vae_level(name.strip_prefix("up.")?, 3),
    };
    expected_names(Component::VaeDecoder, &shape).unwrap()
}

fn vae_level(name: &str, blocks: usize) -> Option<Vec<usize>> {
    let (level, rest) = name.split_once('.')?;
    let (block, layer) = rest.strip_prefix("block.")?.split_once('.')?;
    let known = layer == "conv1.weight" && block.parse::<usize>().ok()? < blocks;
    known.then_some(vec![*[128, 256, 512, 512].get(level.parse::<usize>().ok()?)?, 1])
}

pub fn clip_l() -> Names {
    clip(Component::ClipL, 768, 12)
}

pub fn clip_g() -> Names {
    clip(Component::ClipG, 1280, 32)
}

fn clip(component: Component, width: usize, layers: usize) -> Names {
    let shape = |name: &str| match name {
        "text_model.embeddings.token_embedding.weight" => Some(vec![49_408, width]),
        "text_model.embeddings.position_embedding.weight" => Some(vec![77, width]),
        "text_projection.weight" => Some(vec![width, width]),
        _ => {
            let layer = name.strip_prefix("text_model.encoder.layers.")?.strip_suffix(".mlp.fc1.weight")?;
            (layer.parse::<usize>().ok()? < layers).then_some(vec![4 * width, width])
        }
    };
    expected_names(component, &shape).unwrap()
}

pub fn t5_xxl() -> Names {
    let shape = |name: &str| match name {
        "shared.weight" => Some(vec![32_128, 4096]),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight" => Some(vec![32, 64]),
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" => Some(vec![10_240, 4096]),
        _ => {
            let block = name.strip_prefix("encoder.block.")?.strip_suffix(".layer.0.SelfAttention.q.weight")?;
            (block.parse::<usize>().ok()? < 24).then_some(vec![4096, 4096])
        }
    };
    expected_names(Component::T5, &shape).unwrap()
}
