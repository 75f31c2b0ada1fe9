//! What is in a safetensors file, for people: networks, an adapter, precision, and what it says of where it comes from.

use crate::{
    adapter::Description,
    checkpoint::{CheckpointError, Component, ComponentSource, Dtype, MmditGeometry, TensorFile},
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Everything that is found out about a file without its values.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Tensors and values by type, the most values first.
    pub precisions: Vec<(Dtype, usize, u64)>,
    /// The networks of Stable Diffusion 3 that it holds.
    pub networks: Vec<Network>,
    /// The adapter that it is.
    pub adapter: Option<Description>,
    /// What it is of when it's no Stable Diffusion 3, if that is known.
    pub other: Option<&'static str>,
    /// The free-form strings of its header.
    pub notes: BTreeMap<String, String>,
}

/// One network in a file.
#[derive(Clone, Debug)]
pub struct Network {
    /// Which.
    pub component: Component,
    /// What size it is: `sd3-medium: 24 blocks of width 1536, …`; or why it can't be used.
    pub size: Result<String, String>,
    /// Values in its tensors.
    pub values: u64,
}

const ALL: [Component; 6] =
    [Component::Mmdit, Component::VaeEncoder, Component::VaeDecoder, Component::ClipL, Component::ClipG, Component::T5];

/// Tensors that only models of other kinds have.
const OTHERS: [(&str, &str); 6] = [
    ("model.diffusion_model.label_emb.0.0.weight", "Stable Diffusion XL"),
    ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion 1 or 2"),
    ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
    ("double_blocks.0.img_attn.qkv.weight", "Flux"),
    ("add_embedding.linear_1.weight", "Stable Diffusion XL, in diffusers' layout"),
    ("down_blocks.0.attentions.0.proj_in.weight", "Stable Diffusion 1, 2 or XL, in diffusers' layout"),
];

impl Inspection {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// When it is no safetensors file, or can't be read.
    pub fn of(path: &Path) -> Result<Self, CheckpointError> {
        let file = Arc::new(TensorFile::open(path)?);
        let infos = || file.names().filter_map(|name| file.info(name));
        let mut precisions: Vec<(Dtype, usize, u64)> = Vec::new();
        for info in infos() {
            let values = values(&info.shape);
            match precisions.iter_mut().find(|(dtype, ..)| *dtype == info.dtype) {
                Some((_, tensors, all)) => (*tensors, *all) = (*tensors + 1, *all + values),
                None => precisions.push((info.dtype, 1, values)),
            }
        }
        precisions.sort_by_key(|(_, _, values)| std::cmp::Reverse(*values));
        let adapter = Description::of(&file);
        // An adapter has names that those of networks are part of.
        let networks = if adapter.is_some() { &[][..] } else { &ALL };
        let networks = networks.iter().filter_map(|component| network(&file, *component)).collect();
        let other = OTHERS.iter().find(|(name, _)| file.info(name).is_some()).map(|(_, other)| *other);
        Ok(Self { precisions, networks, adapter, other, notes: file.metadata().clone() })
    }
}

fn values(shape: &[usize]) -> u64 {
    shape.iter().map(|side| *side as u64).product()
}

fn network(file: &Arc<TensorFile>, component: Component) -> Option<Network> {
    let source = match ComponentSource::find(Arc::clone(file), component) {
        Ok(source) => source,
        Err(CheckpointError::NoComponent { .. }) => return None,
        Err(error) => return Some(Network { component, size: Err(error.to_string()), values: 0 }),
    };
    let shape = |name: &str| source.shape(name).map(<[usize]>::to_vec);
    let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|index| shape(&name(*index)).is_some()).count();
    let side = |name: &str, side: usize| shape(name).and_then(|shape| shape.get(side).copied()).unwrap_or_default();
    let size = match component {
        Component::Mmdit => {
            MmditGeometry::of(shape).map(|geometry| sizes(&geometry)).map_err(|error| error.to_string())
        }
        Component::VaeEncoder => Ok(format!("{} latent channels", side("conv_out.weight", 0) / 2)),
        Component::VaeDecoder => Ok(format!("{} latent channels", side("conv_in.weight", 1))),
        Component::ClipL | Component::ClipG => {
            let layers = count(&|layer| format!("text_model.encoder.layers.{layer}.mlp.fc1.weight"));
            Ok(format!("{layers} layers of width {}", side("text_model.embeddings.token_embedding.weight", 1)))
        }
        Component::T5 => {
            let layers = count(&|layer| format!("encoder.block.{layer}.layer.0.SelfAttention.q.weight"));
            Ok(format!("{layers} layers of width {}", side("shared.weight", 1)))
        }
    };
    let values = source.names().filter_map(|name| source.shape(name)).map(values).sum();
    Some(Network { component, size, values })
}

fn sizes(geometry: &MmditGeometry) -> String {
    let MmditGeometry { depth, width, heads, position_grid, patch, .. } = geometry;
    let dual = match geometry.dual_attention.len() {
        0 => String::new(),
        dual => format!(", a second attention in {dual} of them"),
    };
    let largest = position_grid * patch * 8;
    format!("{geometry}: {depth} blocks of width {width}, {heads} heads{dual}; pictures up to {largest} × {largest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Inspection {
        Inspection::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/model").join(name)).unwrap()
    }

    #[test]
    fn networks_are_told_with_their_sizes() {
        let found = model("sd3_tiny.safetensors");
        let networks: Vec<Component> = found.networks.iter().map(|network| network.component).collect();
        assert_eq!(networks, [Component::Mmdit, Component::VaeEncoder, Component::VaeDecoder]);
        assert!(
            found.networks[0].size.as_ref().unwrap().starts_with("custom: 2 blocks of width 64, 1 heads"),
            "{found:?}"
        );
        assert!(found.networks[1].size.as_ref().unwrap().contains("16 latent channels"), "{found:?}");
        assert!(found.networks[0].values > 100_000 && found.adapter.is_none());
        let (tensors, values) =
            (found.precisions.iter().map(|(_, tensors, _)| tensors).sum::<usize>(), found.precisions[0].2);
        assert!(tensors > 100 && values > 100_000);
        let t5 = model("t5xxl.safetensors").networks;
        assert_eq!((t5.len(), t5[0].component), (1, Component::T5));
        assert!(t5[0].size.as_ref().unwrap().contains("layers of width"), "{t5:?}");
    }
}
