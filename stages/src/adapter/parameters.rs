//! What a pipeline may say about what is trained: every weight, or a low-rank adapter.

use crate::problem::Problem;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// What of the MMDiT is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// Every weight.
    #[default]
    Full,
    /// A low-rank adapter beside weights that stay as they are: `y = W·x + (alpha/rank)·up·down·x` (Hu et al. 2021,
    /// arXiv:2106.09685). It needs no gradients and no optimizer's state of the weights themselves, and its checkpoints are small.
    LoRA(Lora),
}

/// How an adapter is made. The text encoders get none: training reads their outputs, which are cached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// How many directions a layer can learn. 16 holds a style or a subject; more learns more and needs more pictures.
    pub rank: u32,
    /// The adapter's output is scaled by alpha/rank. When left out it is each layer's own rank, a scale of 1, so that another rank
    /// needs no other learning rate.
    pub alpha: Option<f64>,
    /// The kinds of layers that get an adapter. All layers of the joint blocks, as in sd-scripts, when left out.
    pub targets: BTreeSet<Layers>,
    /// Ranks of kinds of layers that differ from `rank`: `{ImageModulation: 4}`.
    pub ranks: BTreeMap<Layers, u32>,
    /// The joint blocks that get an adapter, counted from 0: `"0-11,23"`. All of them when left out.
    pub blocks: Option<String>,
    /// Gives queries, keys and values an adapter each, as diffusers does. Otherwise the three share the half that reads, as in
    /// sd-scripts: fewer weights, and one file of the same rank for both. Kinds of which only some are targets are always apart.
    pub split_qkv: bool,
    /// The share of the adapter's inner values that are left out in each sample of a step, the others being scaled up
    /// (sd-scripts' `network_dropout`). 0 when left out; it helps against learning few pictures by heart.
    pub dropout: f64,
    /// Trains the length of each row of a weight apart from its direction (DoRA, Liu et al. 2024, arXiv:2402.09353, as PEFT
    /// has it). Learns more like a full fine-tuning does at small ranks; each step takes longer.
    pub dora: bool,
    /// Goes on from an adapter in a file, in sd-scripts' or in diffusers' form; without one it begins with no effect. Its content is in
    /// the key, its path is not.
    pub from: Option<PathBuf>,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: None,
            targets: Layers::BLOCKS.into(),
            ranks: BTreeMap::new(),
            blocks: None,
            split_qkv: false,
            dropout: 0.0,
            dora: false,
            from: None,
        }
    }
}

/// A kind of layers. The image's queries, keys, values and outputs are those of the second attention too, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layers {
    /// The queries of image tokens.
    ImageQuery,
    /// The keys of image tokens.
    ImageKey,
    /// The values of image tokens.
    ImageValue,
    /// What follows the attention in the image stream.
    ImageOutput,
    /// The two layers of the image stream's feed-forward network.
    ImageFeedForward,
    /// The layer that shifts, scales and gates the image stream.
    ImageModulation,
    /// The queries of text tokens.
    TextQuery,
    /// The keys of text tokens.
    TextKey,
    /// The values of text tokens.
    TextValue,
    /// What follows the attention in the text stream.
    TextOutput,
    /// The two layers of the text stream's feed-forward network.
    TextFeedForward,
    /// The layer that shifts, scales and gates the text stream.
    TextModulation,
    /// The layers before the first block: of patches, timestep, pooled text and text tokens.
    Embedders,
    /// The two layers after the last block.
    FinalLayer,
}

impl Layers {
    /// All that lie in joint blocks.
    pub const BLOCKS: [Self; 12] = [
        Self::ImageQuery,
        Self::ImageKey,
        Self::ImageValue,
        Self::ImageOutput,
        Self::ImageFeedForward,
        Self::ImageModulation,
        Self::TextQuery,
        Self::TextKey,
        Self::TextValue,
        Self::TextOutput,
        Self::TextFeedForward,
        Self::TextModulation,
    ];
}

/// More than any layer of a released model has inputs.
const LARGEST_RANK: u32 = 4096;

impl Lora {
    /// Values out of range, and those that have no effect.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: String, hint: &str| {
            problems.push(Problem::new(format!("method.{field}"), message).hint(hint));
        };
        let ranks = self.ranks.values().map(|rank| ("ranks", *rank));
        for (field, rank) in std::iter::once(("rank", self.rank)).chain(ranks) {
            if !(1..=LARGEST_RANK).contains(&rank) {
                add(
                    field,
                    format!("{rank} is not from 1 to {LARGEST_RANK}"),
                    "16 is usual; kinds are left out in `targets`",
                );
            }
        }
        if self.alpha.is_some_and(|alpha| !(f64::MIN_POSITIVE..=1e6).contains(&alpha)) {
            add("alpha", "it is not above 0".to_owned(), "leave it out for a scale of 1");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            add("dropout", format!("{} is not from 0 to below 1", self.dropout), "0.1, say");
        }
        if self.targets.is_empty() {
            add("targets", "there is nothing to adapt".to_owned(), "leave it out for all layers of the blocks");
        }
        if let Some(target) = self.ranks.keys().find(|target| !self.targets.contains(target)) {
            add("ranks", format!("{target:?} is not among the targets: its rank has no effect"), "add it to `targets`");
        }
        let of = |targets: &[Layers]| targets.iter().all(|target| self.targets.contains(target));
        let whole = of(&[Layers::ImageQuery, Layers::ImageKey, Layers::ImageValue])
            || of(&[Layers::TextQuery, Layers::TextKey, Layers::TextValue]);
        if self.split_qkv && !whole {
            add("split_qkv", "has no effect: the targets are apart anyway".to_owned(), "leave it out");
        }
        match self.chosen_blocks() {
            Err(reason) => add("blocks", reason, "blocks: \"0-11,23\", say"),
            Ok(Some(_)) if !self.targets.iter().any(|target| Layers::BLOCKS.contains(target)) => {
                add("blocks", "has no effect: no target lies in a block".to_owned(), "leave it out");
            }
            Ok(_) => {}
        }
        problems
    }

    /// The blocks that are named, if some are.
    ///
    /// # Errors
    /// With a sentence when the text is no list of numbers and ranges.
    pub fn chosen_blocks(&self) -> Result<Option<BTreeSet<usize>>, String> {
        const MOST: usize = 10_000;
        let Some(text) = &self.blocks else { return Ok(None) };
        let mut blocks = BTreeSet::new();
        for range in text.split(',').map(str::trim) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < MOST => blocks.extend(first..=last),
                _ => return Err(format!("`{range}` is no block and no range of blocks")),
            }
        }
        Ok(Some(blocks))
    }

    /// The rank of a kind of layers; none when it gets no adapter.
    pub fn rank_of(&self, target: Layers) -> Option<u32> {
        self.targets.contains(&target).then(|| self.ranks.get(&target).copied().unwrap_or(self.rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lora: &Lora) -> Vec<String> {
        lora.problems().into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn blocks_are_numbers_and_ranges() {
        let blocks = |text: &str| Lora { blocks: Some(text.into()), ..Lora::default() }.chosen_blocks();
        assert_eq!(blocks("0-2, 5").unwrap().unwrap(), BTreeSet::from([0, 1, 2, 5]));
        for text in ["", "a", "3-1", "1-", "-2", "0-99999999999", "1,,2"] {
            assert!(blocks(text).is_err(), "{text}");
        }
        assert_eq!(Lora::default().chosen_blocks(), Ok(None));
    }

    #[test]
    fn what_has_no_effect_is_a_problem() {
        assert!(Lora::default().problems().is_empty());
        let only = |targets: &[Layers]| Lora { targets: targets.iter().copied().collect(), ..Lora::default() };
        let lora = Lora { ranks: [(Layers::Embedders, 4)].into(), ..Lora::default() };
        assert_eq!(fields(&lora), ["method.ranks"]);
        let lora = Lora { split_qkv: true, ..only(&[Layers::ImageQuery, Layers::TextKey]) };
        assert_eq!(fields(&lora), ["method.split_qkv"]);
        let lora = Lora { blocks: Some("0".into()), ..only(&[Layers::FinalLayer]) };
        assert_eq!(fields(&lora), ["method.blocks"]);
        assert_eq!(fields(&only(&[])), ["method.targets"]);
        let lora = Lora { rank: 0, alpha: Some(0.0), dropout: 1.0, ..Lora::default() };
        assert_eq!(fields(&lora), ["method.rank", "method.alpha", "method.dropout"]);
    }
}
