//! Where an adapter sits: the layers of an MMDiT by their kinds.

use super::{
    AdapterError, DOWN, MAGNITUDE, UP,
    parameters::{Layers, Lora},
};
use crate::checkpoint::{MmditGeometry, POSITION_TABLE, mmdit_names};
use std::{collections::BTreeMap, fmt};

/// A third of a layer that makes queries, keys and values at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The first third of its rows.
    Query,
    /// The second third.
    Key,
    /// The last third.
    Value,
}

impl Part {
    /// In the order of the rows.
    pub const ALL: [Self; 3] = [Self::Query, Self::Key, Self::Value];

    /// What it is called after its layer's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q",
            Self::Key => "k",
            Self::Value => "v",
        }
    }
}

/// A layer that has an adapter, or the third of one that has its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The layer's canonical name: `joint_blocks.0.x_block.attn.qkv`.
    pub layer: String,
    /// The third of its rows; none for all of them.
    pub part: Option<Part>,
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            Some(part) => write!(formatter, "{}.{}", self.layer, part.name()),
            None => formatter.write_str(&self.layer),
        }
    }
}

/// A site with the sizes of what sits there.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The site.
    pub site: Site,
    /// The adapter's rank.
    pub rank: usize,
    /// alpha/rank.
    pub scale: f32,
    /// Inputs of the layer.
    pub inputs: usize,
    /// Outputs of the layer, or of its third.
    pub outputs: usize,
}

/// Every layer that can have an adapter, with the shape of its weight.
pub(super) fn layers(geometry: &MmditGeometry) -> BTreeMap<String, Vec<usize>> {
    let names = mmdit_names(geometry).into_iter().filter(|(name, shape)| name != POSITION_TABLE && shape.len() > 1);
    names.filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?.to_owned(), shape))).collect()
}

/// The places of an adapter, sorted by site.
///
/// # Errors
/// When blocks are named that the model has not, or no layer is left.
pub fn places(lora: &Lora, geometry: &MmditGeometry) -> Result<Vec<Place>, AdapterError> {
    let chosen = lora.chosen_blocks().map_err(AdapterError::Nowhere)?;
    let last = geometry.depth - 1;
    if let Some(block) = chosen.iter().flatten().find(|block| **block > last) {
        let message = format!("blocks: there is no block {block}: the model's blocks are 0 to {last}");
        return Err(AdapterError::Nowhere(message));
    }
    let mut places = Vec::new();
    for (layer, shape) in layers(geometry) {
        let (block, targets) = kind(&layer);
        if block.is_some_and(|block| chosen.as_ref().is_some_and(|chosen| !chosen.contains(&block))) {
            continue;
        }
        let mut add = |part, rank: u32, outputs| {
            let scale = lora.alpha.map_or(1.0, |alpha| alpha / f64::from(rank)) as f32;
            let site = Site { layer: layer.clone(), part };
            places.push(Place { site, rank: rank as usize, scale, inputs: shape[1..].iter().product(), outputs });
        };
        match targets.map(|target| target.map(|target| lora.rank_of(target))) {
            [Some(rank), None, None] => rank.into_iter().for_each(|rank| add(None, rank, shape[0])),
            [Some(Some(query)), Some(Some(key)), Some(Some(value))]
                if query == key && key == value && !lora.split_qkv =>
            {
                add(None, query, shape[0]);
            }
            ranks => {
                for (part, rank) in Part::ALL.into_iter().zip(ranks) {
                    rank.flatten().into_iter().for_each(|rank| add(Some(part), rank, shape[0] / 3));
                }
            }
        }
    }
    if places.is_empty() {
        let message = "the targets have no layer in these blocks (the last block's text ends with keys and values)";
        return Err(AdapterError::Nowhere(message.to_owned()));
    }
    places.sort_by(|left, right| left.site.cmp(&right.site));
    Ok(places)
}

/// The block that a layer lies in, and its kind: one, or those of its three thirds.
fn kind(layer: &str) -> (Option<usize>, [Option<Layers>; 3]) {
    use Layers::*;
    let one = |target| [Some(target), None, None];
    let Some((block, rest)) = layer.strip_prefix("joint_blocks.").and_then(|layer| layer.split_once('.')) else {
        return (None, one(if layer.starts_with("final_layer") { FinalLayer } else { Embedders }));
    };
    let image = rest.starts_with("x_block");
    let either = |of_image, of_text| one(if image { of_image } else { of_text });
    let targets = match rest.rsplit('.').next() {
        Some("qkv") if image => [ImageQuery, ImageKey, ImageValue].map(Some),
        Some("qkv") => [TextQuery, TextKey, TextValue].map(Some),
        Some("proj") => either(ImageOutput, TextOutput),
        Some("fc1" | "fc2") => either(ImageFeedForward, TextFeedForward),
        _ => either(ImageModulation, TextModulation),
    };
    (block.parse().ok(), targets)
}

/// The tensors of an adapter at these places, or of a DoRA, with their shapes.
pub fn tensors(places: &[Place], dora: bool) -> Vec<(String, Vec<usize>)> {
    let of_place = |Place { site, rank, inputs, outputs, .. }: &Place| {
        let halves = [(format!("{site}{DOWN}"), vec![*rank, *inputs]), (format!("{site}{UP}"), vec![*outputs, *rank])];
        halves.into_iter().chain(dora.then(|| (format!("{site}{MAGNITUDE}"), vec![*outputs])))
    };
    places.iter().flat_map(of_place).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn geometry(depth: usize, width: usize, dual: &[usize]) -> MmditGeometry {
        MmditGeometry {
            depth,
            width,
            heads: width / 64,
            qk_norm: true,
            dual_attention: dual.to_vec(),
            position_grid: 192,
            context_width: 4096,
            pooled_width: 2048,
            patch: 2,
            channels: 16,
        }
    }

    fn sites(lora: &Lora, geometry: &MmditGeometry) -> Vec<String> {
        places(lora, geometry).unwrap().iter().map(|place| place.site.to_string()).collect()
    }

    /// sd-scripts' modules, counted in the reference: 237 of SD3-medium, 263 of SD3.5-medium, 377 of SD3.5-large.
    #[test]
    fn the_default_adapts_as_many_layers_as_sd_scripts() {
        for (depth, dual, expected) in [(24, 0, 237), (24, 13, 263), (38, 0, 377)] {
            let geometry = geometry(depth, 64 * depth, &(0..dual).collect::<Vec<_>>());
            assert_eq!(places(&Lora::default(), &geometry).unwrap().len(), expected);
        }
    }

    #[test]
    fn targets_and_blocks_choose_layers() {
        let geometry = geometry(3, 64, &[0]);
        let lora = |targets: &[Layers], blocks: Option<&str>| Lora {
            targets: targets.iter().copied().collect(),
            blocks: blocks.map(str::to_owned),
            ..Lora::default()
        };
        let found = sites(&lora(&[Layers::TextOutput, Layers::FinalLayer], Some("1-2")), &geometry);
        assert_eq!(
            found,
            ["final_layer.adaLN_modulation.1", "final_layer.linear", "joint_blocks.1.context_block.attn.proj"]
        );
        let found = sites(&lora(&[Layers::ImageQuery, Layers::ImageValue], Some("0")), &geometry);
        let block = "joint_blocks.0.x_block";
        assert_eq!(
            found,
            ["attn.qkv.q", "attn.qkv.v", "attn2.qkv.q", "attn2.qkv.v"].map(|part| format!("{block}.{part}"))
        );
        let all = lora(&[Layers::TextQuery, Layers::TextKey, Layers::TextValue], Some("2"));
        assert_eq!(sites(&all, &geometry), ["joint_blocks.2.context_block.attn.qkv"]);
        assert_eq!(sites(&Lora { split_qkv: true, ..all.clone() }, &geometry).len(), 3);
        assert_eq!(sites(&Lora { ranks: [(Layers::TextKey, 4)].into(), ..all }, &geometry).len(), 3);
        assert_eq!(sites(&lora(&[Layers::Embedders], None), &geometry).len(), 6);
    }

    #[test]
    fn blocks_that_are_not_there_and_an_empty_choice_are_errors() {
        let geometry = geometry(3, 64, &[]);
        let lora = Lora { blocks: Some("1-3".into()), ..Lora::default() };
        assert!(places(&lora, &geometry).unwrap_err().to_string().contains("no block 3"));
        let lora = Lora { blocks: Some("2".into()), targets: [Layers::TextOutput].into(), ..Lora::default() };
        assert!(places(&lora, &geometry).unwrap_err().to_string().contains("no layer"));
    }
}
