//! What an adapter's file says of itself, whichever network it was trained on.

use super::read::{PREFIXES, ROLES, Role};
use crate::{checkpoint::TensorFile, tensors};
use std::collections::BTreeMap;

/// Form, ranks and targets of an adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Whose names its tensors have.
    pub form: &'static str,
    /// Whether it has magnitudes: a DoRA.
    pub magnitudes: bool,
    /// How many modules have which rank.
    pub ranks: BTreeMap<usize, usize>,
    /// How many modules have which alpha; those without one, whose alpha is their rank, are in none.
    pub alphas: BTreeMap<String, usize>,
    /// How many modules there are of each kind: names without what the form begins them with, `*` in the place of a block's number.
    pub targets: BTreeMap<String, usize>,
}

/// Forms by what the names of modules begin with.
const FORMS: [(&str, &str); 6] = [
    ("lora_unet_", "of sd-scripts and ComfyUI"),
    ("lora_te", "of sd-scripts and ComfyUI"),
    ("transformer.", "of diffusers"),
    ("text_encoder", "of diffusers"),
    ("base_model.model.", "of PEFT"),
    ("diffusion_model.", "of ComfyUI"),
];

impl Description {
    /// Nothing when the file holds no adapter.
    pub fn of(file: &TensorFile) -> Option<Self> {
        let mut found = Self::default();
        for name in file.names() {
            let Some((module, role)) =
                ROLES.iter().find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role)))
            else {
                continue;
            };
            match role {
                Role::Down => {
                    let rank = file.info(name).and_then(|info| info.shape.first().copied()).unwrap_or_default();
                    *found.ranks.entry(rank).or_default() += 1;
                    *found.targets.entry(kind(module)).or_default() += 1;
                    let form = FORMS.iter().find(|(prefix, _)| module.starts_with(prefix));
                    found.form = form.map_or("of sd3pipe, as it lies in the store", |(_, form)| form);
                }
                Role::Alpha => {
                    let alpha = file.info(name).zip(file.bytes(name).ok());
                    let alpha = alpha.and_then(|(info, bytes)| tensors::decode(info.dtype, bytes)?.first().copied());
                    *found.alphas.entry(alpha.unwrap_or(f32::NAN).to_string()).or_default() += 1;
                }
                Role::Magnitude | Role::DoraScale => found.magnitudes = true,
                Role::Up => {}
            }
        }
        (!found.ranks.is_empty()).then_some(found)
    }
}

/// A module's name without what says whose form it is, and with `*` for the number of its block.
fn kind(module: &str) -> String {
    let known = PREFIXES.iter().find_map(|(prefix, ours)| Some((*ours, module.strip_prefix(prefix)?)));
    let (ours, rest) = known.unwrap_or(("", module));
    let separator = if rest.contains('.') { "." } else { "_" };
    let mut steps: Vec<&str> = rest.split(separator).collect();
    let is_number = |step: &&str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(number) = steps.iter().position(is_number) {
        steps[number] = "*";
    }
    format!("{ours}{}", steps.join(separator))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(tensors: &[(&str, &[usize])]) -> Option<Description> {
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (name, shape) in tensors {
            let start = end;
            end += shape.iter().product::<usize>() * 4;
            header.insert(
                (*name).to_owned(),
                serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }),
            );
        }
        let header = serde_json::Value::Object(header).to_string();
        let ones: Vec<u8> = std::iter::repeat_n(1.0_f32.to_le_bytes(), end / 4).flatten().collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.safetensors");
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &ones].concat()).unwrap();
        Description::of(&TensorFile::open(path).unwrap())
    }

    #[test]
    fn forms_ranks_and_targets_are_told() {
        let kohya = described(&[
            ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", &[4, 64]),
            ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight", &[192, 4]),
            ("lora_unet_joint_blocks_0_x_block_attn_qkv.alpha", &[]),
            ("lora_unet_joint_blocks_11_x_block_attn_qkv.lora_down.weight", &[8, 64]),
            ("lora_te1_text_model_encoder_layers_3_mlp_fc1.lora_down.weight", &[4, 64]),
            ("lora_te1_text_model_encoder_layers_3_mlp_fc1.dora_scale", &[64, 1]),
        ]);
        let count = |name: &str, count| (name.to_owned(), count);
        let expected = Description {
            form: "of sd-scripts and ComfyUI",
            magnitudes: true,
            ranks: [(4, 2), (8, 1)].into(),
            alphas: [count("1", 1)].into(),
            targets: [
                count("clip_l_text_model_encoder_layers_*_mlp_fc1", 1),
                count("joint_blocks_*_x_block_attn_qkv", 2),
            ]
            .into(),
        };
        assert_eq!(kohya, Some(expected));
        let diffusers =
            described(&[("transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight", &[4, 64])]).unwrap();
        assert_eq!(diffusers.form, "of diffusers");
        assert_eq!(diffusers.targets, [count("transformer_blocks.*.attn.to_out.0", 1)].into());
        assert_eq!(described(&[("x_embedder.proj.weight", &[4, 4])]), None);
    }
}
