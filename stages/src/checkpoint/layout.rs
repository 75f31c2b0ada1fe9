//! The layouts that networks are stored in: what a tensor is called in each, and how its values lie there.
//!
//! Canonical names are those of Stability's single files; diffusers' are as in `convert_sd3_transformer_checkpoint_to_diffusers`
//! and `convert_ldm_vae_checkpoint` of its `single_file_utils.py`.

use super::{Component, TensorView};

/// How a network is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Under canonical names after a prefix, as in Stability's single files. Text encoders have no other layout.
    Single {
        /// The prefix.
        prefix: &'static str,
    },
    /// As diffusers stores the MMDiT.
    DiffusersMmdit {
        /// The number of joint blocks: the last one differs from the others.
        depth: usize,
    },
    /// As diffusers stores one half of the VAE.
    DiffusersVae {
        /// Which half: the encoder's or the decoder's prefix.
        half: &'static str,
        /// The number of resolutions: diffusers counts those of the decoder from the other end.
        levels: usize,
    },
}

/// What has become of one canonical tensor in a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The tensors that it lies in.
    pub names: Vec<String>,
    /// How.
    pub form: Form,
}

/// How a canonical tensor's values lie in the tensors of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Same,
    /// Cut into tensors of equally many rows: queries, keys and values.
    Rows,
    /// With the second half of the rows first: scale and shift.
    Swapped,
    /// As a linear layer instead of a convolution by one pixel.
    Linear,
}

impl Layout {
    /// The layout that a network has among tensors, of which `has` tells the names.
    pub(super) fn detect(component: Component, has: &dyn Fn(&str) -> bool) -> Option<Self> {
        let single = [component.prefix(), component.bare_prefix()];
        if let Some(prefix) = single.into_iter().find(|prefix| has(&format!("{prefix}{}", component.marker()))) {
            return Some(Self::Single { prefix });
        }
        let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|&index| has(&name(index))).count();
        let half = component.bare_prefix();
        let levels = match component {
            Component::Mmdit => {
                let depth = count(&|block| format!("transformer_blocks.{block}.attn.add_q_proj.weight"));
                return (depth > 0).then_some(Self::DiffusersMmdit { depth });
            }
            Component::VaeEncoder => count(&|level| format!("{half}down_blocks.{level}.resnets.0.conv1.weight")),
            Component::VaeDecoder => count(&|level| format!("{half}up_blocks.{level}.resnets.0.conv1.weight")),
            Component::ClipL | Component::ClipG | Component::T5 => 0,
        };
        (levels > 0).then_some(Self::DiffusersVae { half, levels })
    }

    /// What the names of all tensors of the network begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Single { prefix } => prefix,
            Self::DiffusersMmdit { .. } => "",
            Self::DiffusersVae { half, .. } => half,
        }
    }

    /// Where a canonical tensor lies; nothing when the layout has no place for it.
    pub(crate) fn place(self, canonical: &str) -> Option<Placement> {
        match self {
            Self::Single { prefix } => Some(same(format!("{prefix}{canonical}"))),
            Self::DiffusersMmdit { depth } => place_mmdit(canonical, depth),
            Self::DiffusersVae { half, levels } => place_vae(canonical, half, levels),
        }
    }

    /// A canonical tensor as the layout stores it: names and values, nothing copied. Nothing when it has no place there.
    pub fn store<'f>(self, canonical: &str, view: &TensorView<'f>) -> Option<Vec<(String, TensorView<'f>)>> {
        let Placement { names, form } = self.place(canonical)?;
        let views = match form {
            Form::Same => vec![view.clone()],
            Form::Rows => view.rows(names.len())?,
            Form::Swapped => vec![view.swapped()?],
            Form::Linear => {
                let mut linear = view.clone();
                linear.shape.truncate(2);
                vec![linear]
            }
        };
        Some(names.into_iter().zip(views).collect())
    }
}

fn same(name: String) -> Placement {
    Placement { names: vec![name], form: Form::Same }
}

fn place_mmdit(canonical: &str, depth: usize) -> Option<Placement> {
    let (stem, ending) = canonical.rsplit_once('.').unwrap_or((canonical, ""));
    let mut form = Form::Same;
    let name = match stem {
        "pos_embed" => return Some(same("pos_embed.pos_embed".into())),
        "x_embedder.proj" => "pos_embed.proj",
        "t_embedder.mlp.0" => "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2" => "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0" => "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2" => "time_text_embed.text_embedder.linear_2",
        "context_embedder" => "context_embedder",
        "final_layer.adaLN_modulation.1" => {
            // Here shift comes before scale, there scale before shift (`AdaLayerNormContinuous`).
            form = Form::Swapped;
            "norm_out.linear"
        }
        "final_layer.linear" => "proj_out",
        _ => return place_block(stem.strip_prefix("joint_blocks.")?, ending, depth),
    };
    Some(Placement { names: vec![format!("{name}.{ending}")], form })
}

/// `stem` is like `3.x_block.attn.qkv`.
fn place_block(stem: &str, ending: &str, depth: usize) -> Option<Placement> {
    let (block, stem) = stem.split_once('.')?;
    let (stream, part) = stem.split_once('.')?;
    let last = block.parse::<usize>().ok()? + 1 == depth;
    let mut form = Form::Same;
    let names: &[&str] = match (stream, part) {
        ("x_block", "adaLN_modulation.1") => &["norm1.linear"],
        ("x_block", "attn.qkv") => &["attn.to_q", "attn.to_k", "attn.to_v"],
        ("x_block", "attn.proj") => &["attn.to_out.0"],
        ("x_block", "attn.ln_q") => &["attn.norm_q"],
        ("x_block", "attn.ln_k") => &["attn.norm_k"],
        ("x_block", "attn2.qkv") => &["attn2.to_q", "attn2.to_k", "attn2.to_v"],
        ("x_block", "attn2.proj") => &["attn2.to_out.0"],
        ("x_block", "attn2.ln_q") => &["attn2.norm_q"],
        ("x_block", "attn2.ln_k") => &["attn2.norm_k"],
        ("x_block", "mlp.fc1") => &["ff.net.0.proj"],
        ("x_block", "mlp.fc2") => &["ff.net.2"],
        ("context_block", "adaLN_modulation.1") => {
            // In the last block it only shifts and scales, and diffusers has the layer there that scales first.
            form = if last { Form::Swapped } else { Form::Same };
            &["norm1_context.linear"]
        }
        ("context_block", "attn.qkv") => &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
        ("context_block", "attn.proj") => &["attn.to_add_out"],
        ("context_block", "attn.ln_q") => &["attn.norm_added_q"],
        ("context_block", "attn.ln_k") => &["attn.norm_added_k"],
        ("context_block", "mlp.fc1") => &["ff_context.net.0.proj"],
        ("context_block", "mlp.fc2") => &["ff_context.net.2"],
        _ => return None,
    };
    if names.len() > 1 {
        form = Form::Rows;
    }
    let names = names.iter().map(|name| format!("transformer_blocks.{block}.{name}.{ending}")).collect();
    Some(Placement { names, form })
}

fn place_vae(canonical: &str, half: &str, levels: usize) -> Option<Placement> {
    let parts: Vec<&str> = canonical.split('.').collect();
    let mut form = Form::Same;
    let name = match parts.as_slice() {
        ["conv_in" | "conv_out", ..] => canonical.into(),
        ["norm_out", ending] => format!("conv_norm_out.{ending}"),
        ["mid", "attn_1", "norm", ending] => format!("mid_block.attentions.0.group_norm.{ending}"),
        ["mid", "attn_1", projection, ending] => {
            if *ending == "weight" {
                form = Form::Linear;
            }
            let projection = if *projection == "proj_out" { "to_out.0".into() } else { format!("to_{projection}") };
            format!("mid_block.attentions.0.{projection}.{ending}")
        }
        ["mid", block, layer, ending] => {
            let block = block.strip_prefix("block_")?.parse::<usize>().ok()?.checked_sub(1)?;
            format!("mid_block.resnets.{block}.{layer}.{ending}")
        }
        ["down", level, "downsample", rest @ ..] => {
            format!("down_blocks.{level}.downsamplers.0.{}", rest.join("."))
        }
        ["up", level, "upsample", rest @ ..] => {
            format!("up_blocks.{}.upsamplers.0.{}", mirrored(level, levels)?, rest.join("."))
        }
        ["down", level, "block", block, layer, ending] => {
            format!("down_blocks.{level}.resnets.{block}.{}.{ending}", residual_layer(layer))
        }
        ["up", level, "block", block, layer, ending] => {
            let level = mirrored(level, levels)?;
            format!("up_blocks.{level}.resnets.{block}.{}.{ending}", residual_layer(layer))
        }
        _ => return None,
    };
    Some(Placement { names: vec![format!("{half}{name}")], form })
}

/// Stability counts the decoder's levels from the highest resolution, diffusers in the order of running.
fn mirrored(level: &str, levels: usize) -> Option<usize> {
    levels.checked_sub(1)?.checked_sub(level.parse().ok()?)
}

fn residual_layer(layer: &str) -> &str {
    if layer == "nin_shortcut" { "conv_shortcut" } else { layer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_diffusers() {
        let mmdit = Layout::DiffusersMmdit { depth: 24 };
        let vae = Layout::DiffusersVae { half: "decoder.", levels: 4 };
        // Copied from files that diffusers wrote.
        let known: [(Layout, &str, &[&str], Form); 12] = [
            (mmdit, "pos_embed", &["pos_embed.pos_embed"], Form::Same),
            (mmdit, "t_embedder.mlp.2.bias", &["time_text_embed.timestep_embedder.linear_2.bias"], Form::Same),
            (
                mmdit,
                "joint_blocks.3.context_block.attn.qkv.bias",
                &[
                    "transformer_blocks.3.attn.add_q_proj.bias",
                    "transformer_blocks.3.attn.add_k_proj.bias",
                    "transformer_blocks.3.attn.add_v_proj.bias",
                ],
                Form::Rows,
            ),
            (
                mmdit,
                "joint_blocks.0.x_block.attn.proj.weight",
                &["transformer_blocks.0.attn.to_out.0.weight"],
                Form::Same,
            ),
            (
                mmdit,
                "joint_blocks.0.x_block.attn2.ln_k.weight",
                &["transformer_blocks.0.attn2.norm_k.weight"],
                Form::Same,
            ),
            (
                mmdit,
                "joint_blocks.22.context_block.adaLN_modulation.1.weight",
                &["transformer_blocks.22.norm1_context.linear.weight"],
                Form::Same,
            ),
            (
                mmdit,
                "joint_blocks.23.context_block.adaLN_modulation.1.weight",
                &["transformer_blocks.23.norm1_context.linear.weight"],
                Form::Swapped,
            ),
            (mmdit, "final_layer.adaLN_modulation.1.bias", &["norm_out.linear.bias"], Form::Swapped),
            (vae, "up.3.block.0.norm1.weight", &["decoder.up_blocks.0.resnets.0.norm1.weight"], Form::Same),
            (vae, "up.1.block.0.nin_shortcut.bias", &["decoder.up_blocks.2.resnets.0.conv_shortcut.bias"], Form::Same),
            (vae, "mid.attn_1.proj_out.weight", &["decoder.mid_block.attentions.0.to_out.0.weight"], Form::Linear),
            (vae, "up.1.upsample.conv.weight", &["decoder.up_blocks.2.upsamplers.0.conv.weight"], Form::Same),
        ];
        for (layout, canonical, names, form) in known {
            let found = layout.place(canonical).unwrap();
            assert_eq!(
                (found.names, found.form),
                (names.iter().map(|name| (*name).to_owned()).collect(), form),
                "{canonical}"
            );
        }
    }

    #[test]
    fn a_name_that_is_none_has_no_place() {
        for name in [
            "",
            ".",
            "joint_blocks",
            "joint_blocks.x.x_block.attn.qkv.weight",
            "up.9.block.0.conv1.weight",
            "mid.block_0.conv1.bias",
        ] {
            assert!(place_mmdit(name, 2).is_none() && place_vae(name, "decoder.", 2).is_none(), "{name}");
        }
    }
}
