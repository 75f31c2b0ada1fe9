//! The networks that a model file can hold, and what their tensors are called in each layout.

use std::fmt;

/// One network of Stable Diffusion 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The multimodal diffusion transformer.
    Mmdit,
    /// The VAE's half from images to latents.
    VaeEncoder,
    /// The VAE's half from latents to images.
    VaeDecoder,
    /// OpenAI's CLIP text encoder, 768 wide.
    ClipL,
    /// OpenCLIP's bigG text encoder, 1280 wide.
    ClipG,
    /// The T5 v1.1 XXL encoder.
    T5,
}

impl Component {
    /// What its tensors' names start with in a checkpoint that holds several networks.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Mmdit => "model.diffusion_model.",
            Self::VaeEncoder => "first_stage_model.encoder.",
            Self::VaeDecoder => "first_stage_model.decoder.",
            Self::ClipL => "text_encoders.clip_l.transformer.",
            Self::ClipG => "text_encoders.clip_g.transformer.",
            Self::T5 => "text_encoders.t5xxl.transformer.",
        }
    }

    /// The same in a file of its own.
    pub(super) fn bare_prefix(self) -> &'static str {
        match self {
            Self::VaeEncoder => "encoder.",
            Self::VaeDecoder => "decoder.",
            Self::Mmdit | Self::ClipL | Self::ClipG | Self::T5 => "",
        }
    }

    /// The folder that it has in a diffusers folder.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Mmdit => "transformer",
            Self::VaeEncoder | Self::VaeDecoder => "vae",
            Self::ClipL => "text_encoder",
            Self::ClipG => "text_encoder_2",
            Self::T5 => "text_encoder_3",
        }
    }

    /// A tensor that the network always has and no other one does, by its canonical name.
    pub(super) fn marker(self) -> &'static str {
        match self {
            Self::Mmdit => "joint_blocks.0.context_block.attn.qkv.weight",
            Self::VaeEncoder | Self::VaeDecoder => "mid.attn_1.q.weight",
            Self::ClipL | Self::ClipG => "text_model.encoder.layers.0.self_attn.q_proj.weight",
            Self::T5 => "encoder.block.0.layer.0.SelfAttention.q.weight",
        }
    }

    /// The name that a tensor has here whatever file it comes from, or nothing for tensors that carry no weight of the
    /// network: position counters, CLIP's temperature, and T5's second name for its embedding.
    pub(super) fn canonical(self, name: &str) -> Option<&str> {
        match (self, name) {
            (Self::ClipL | Self::ClipG, "logit_scale" | "text_model.embeddings.position_ids") => None,
            (Self::T5, "encoder.embed_tokens.weight") => None,
            _ => Some(name),
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Mmdit => "MMDiT",
            Self::VaeEncoder => "VAE encoder",
            Self::VaeDecoder => "VAE decoder",
            Self::ClipL => "CLIP-L",
            Self::ClipG => "CLIP-G",
            Self::T5 => "T5",
        })
    }
}
