//! Adapters as other programs read them.

use super::{
    ALPHA, Adapter, Base, DOWN, LowRank, MAGNITUDE, UP,
    base::network_of,
    low_rank::{length, rows_mut, weight},
    site::layers,
};
use crate::{
    checkpoint::{Component, Form, Layout},
    tensors::Array,
};

/// Tensors by name.
type Tensors = Vec<(String, Array)>;

impl Adapter {
    /// In the form of sd-scripts, as it and ComfyUI read it: `lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight`, `.lora_up.weight`,
    /// `.alpha`, and of a DoRA `.dora_scale`; of CLIP-L `lora_te1_text_model_…`, of CLIP-G `lora_te2_text_model_…`.
    ///
    /// Adapters of the thirds of a layer become one of the sum of their ranks, each writing to its own rows, with an alpha that
    /// is larger by as much: sd-scripts leaves alpha as it is there, so that its own readers apply a third of what was trained.
    ///
    /// ComfyUI divides a DoRA's rows by their lengths *before* the adapter is added, and means the lengths afterwards: the
    /// magnitudes are written such that it comes to what was trained, on the model that it was trained on.
    pub fn to_kohya(&self, base: &Base<'_>) -> Tensors {
        let mut tensors = Vec::new();
        for (layer, shape) in layers(base.geometry, base.clips) {
            let Some(whole) = self.whole(&layer, base) else { continue };
            let (network, own) = network_of(&layer);
            let prefix = match network {
                Component::ClipL => "lora_te1_",
                Component::ClipG => "lora_te2_",
                _ => "lora_unet_",
            };
            let name = format!("{prefix}{}", own.replace('.', "_"));
            let rank = whole.rank();
            if let Some(magnitude) = &whole.magnitude {
                let lengths = whole.lengths(&weight(base, &layer).unwrap_or_default().values);
                let values =
                    magnitude.iter().zip(lengths).map(|(magnitude, (plain, merged))| magnitude * plain / merged);
                let values = values.collect();
                let mut shape = shape.clone();
                shape[1..].fill(1);
                tensors.push((format!("{name}.dora_scale"), Array { shape, values }));
            }
            tensors
                .push((format!("{name}{ALPHA}"), Array { shape: Vec::new(), values: vec![whole.scale * rank as f32] }));
            tensors.push((format!("{name}{DOWN}"), like_kernel(whole.down, &shape)));
            tensors.push((format!("{name}{UP}"), writing(whole.up, &shape)));
        }
        tensors
    }

    /// In the form of PEFT, as diffusers' `load_lora_weights` reads it: `transformer.transformer_blocks.0.attn.to_q.lora_A.weight`,
    /// `.lora_B.weight`, and of a DoRA `.lora_magnitude_vector`; of CLIP-L `text_encoder.text_model.…`, of CLIP-G `text_encoder_2.text_model.…`.
    ///
    /// There is no alpha in it: the half that writes is scaled by alpha/rank, and all ranks are filled up with zeros to the
    /// largest, because releases of diffusers take one alpha for all.
    pub fn to_diffusers(&self, base: &Base<'_>) -> Tensors {
        let rank = self.sites.values().map(LowRank::rank).max().unwrap_or_default();
        let mut tensors = Vec::new();
        for (layer, shape) in layers(base.geometry, base.clips) {
            let Some((modules, form)) = modules(&layer, base.geometry.depth) else { continue };
            let (network, _) = network_of(&layer);
            for (part, low_rank) in self.of_layer(&layer) {
                let chosen = match part {
                    Some(part) => &modules[part as usize..=part as usize],
                    None => &modules[..],
                };
                let mut low_rank = low_rank.scaled().widened(rank);
                if form == Form::Swapped {
                    let half = low_rank.up.values.len() / 2;
                    low_rank.up.values.rotate_left(half);
                    low_rank.magnitude.iter_mut().for_each(|magnitude| magnitude.rotate_left(shape[0] / 2));
                }
                let outputs = low_rank.up.shape[0] / chosen.len();
                for (index, module) in chosen.iter().enumerate() {
                    let up = low_rank.up.values[index * outputs * rank..][..outputs * rank].to_vec();
                    let up = Array { shape: vec![outputs, rank], values: up };
                    tensors.push((format!("{module}.lora_A.weight"), like_kernel(low_rank.down.clone(), &shape)));
                    tensors.push((format!("{module}.lora_B.weight"), writing(up, &shape)));
                    if let Some(magnitude) = &low_rank.magnitude {
                        let values = magnitude[index * outputs..][..outputs].to_vec();
                        // PEFT has a convolution's along its second side.
                        let shape = if shape.len() == 4 { vec![1, outputs, 1, 1] } else { vec![outputs] };
                        // transformers finds an encoder's only with one part more (`build_peft_weight_mapping` of PEFT).
                        let ending = if network == Component::Mmdit { "" } else { ".weight" };
                        tensors.push((format!("{module}{MAGNITUDE}{ending}"), Array { shape, values }));
                    }
                }
            }
        }
        tensors
    }

    /// The adapter of a whole layer, put together of those of its thirds where they are apart; nothing when it has none.
    fn whole(&self, layer: &str, base: &Base<'_>) -> Option<LowRank> {
        let parts: Vec<_> = self.of_layer(layer).collect();
        let (first, one) = *parts.first()?;
        if first.is_none() {
            return Some(one.clone());
        }
        let rank: usize = parts.iter().map(|(_, part)| part.rank()).sum();
        let (inputs, third) = (one.down.shape[1], one.up.shape[0]);
        let (mut down, mut up) = (Vec::new(), vec![0.0; 3 * third * rank]);
        // Rows of a third without an adapter keep their lengths.
        let mut magnitude = one.magnitude.is_some().then(|| {
            let weight = weight(base, layer).unwrap_or_default().values;
            weight.chunks(inputs).map(|row| length(row.iter().copied())).collect::<Vec<_>>()
        });
        let mut before = 0;
        for (part, low_rank) in parts {
            let low_rank = low_rank.scaled();
            down.extend(&low_rank.down.values);
            let rows = rows_mut(&mut up, part).chunks_mut(rank);
            for (row, values) in rows.zip(low_rank.up.values.chunks(low_rank.rank())) {
                row[before..][..values.len()].copy_from_slice(values);
            }
            before += low_rank.rank();
            if let (Some(whole), Some(own)) = (&mut magnitude, &low_rank.magnitude) {
                rows_mut(whole, part).copy_from_slice(own);
            }
        }
        Some(LowRank {
            down: Array { shape: vec![rank, inputs], values: down },
            up: Array { shape: vec![3 * third, rank], values: up },
            scale: 1.0,
            magnitude,
        })
    }
}

impl LowRank {
    /// The same with a scale of 1.
    fn scaled(&self) -> Self {
        let mut scaled = Self { scale: 1.0, ..self.clone() };
        scaled.up.values.iter_mut().for_each(|value| *value *= self.scale);
        scaled
    }

    /// The same with a larger rank.
    fn widened(mut self, rank: usize) -> Self {
        let (own, inputs, outputs) = (self.rank(), self.down.shape[1], self.up.shape[0]);
        self.down.values.resize(rank * inputs, 0.0);
        let row = |row: &[f32]| [row, &vec![0.0; rank - own]].concat();
        let up = self.up.values.chunks(own).flat_map(row).collect();
        Self {
            down: Array { shape: vec![rank, inputs], ..self.down },
            up: Array { shape: vec![outputs, rank], values: up },
            ..self
        }
    }
}

/// The modules of diffusers that a layer is there, and how its rows lie in them.
fn modules(layer: &str, depth: usize) -> Option<(Vec<String>, Form)> {
    let (network, own) = network_of(layer);
    let folder = match network {
        Component::ClipL => "text_encoder",
        Component::ClipG => "text_encoder_2",
        _ => {
            let place = Layout::DiffusersMmdit { depth }.place(&format!("{layer}.weight"))?;
            let modules = place.names.iter().filter_map(|name| name.strip_suffix(".weight"));
            return Some((modules.map(|module| format!("transformer.{module}")).collect(), place.form));
        }
    };
    Some((vec![format!("{folder}.{own}")], Form::Same))
}

/// The half that reads, with the sides that the weight has after its first.
fn like_kernel(down: Array, shape: &[usize]) -> Array {
    Array { shape: [&[down.shape[0]], &shape[1..]].concat(), ..down }
}

/// The half that writes, with as many sides as the weight.
fn writing(up: Array, shape: &[usize]) -> Array {
    Array { shape: [&up.shape[..], &vec![1; shape.len() - 2]].concat(), ..up }
}
