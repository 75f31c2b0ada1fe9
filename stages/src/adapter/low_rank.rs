//! An adapter on the host, and what it makes of the weights that it belongs to.

use super::{Base, Part, Site};
use crate::tensors::{self, Array};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The adapter of one site: `scale·up·down` is added to the weight.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// The half that reads, `[rank, inputs]`.
    pub down: Array,
    /// The half that writes, `[outputs, rank]`.
    pub up: Array,
    /// alpha/rank.
    pub scale: f32,
    /// The length that each row of the weight has afterwards, `[outputs]`, in a DoRA.
    pub magnitude: Option<Vec<f32>>,
}

impl LowRank {
    /// Its rank.
    pub fn rank(&self) -> usize {
        self.down.shape[0]
    }

    /// Changes the rows of a weight, `strength` of the way from what they are to what a DoRA makes of them; a LoRA's part is added
    /// `strength` times. At 0 they are what they were, bit for bit.
    fn apply(&self, rows: &mut [f32], strength: f32) {
        let inputs = self.down.shape[1].max(1);
        rows.par_chunks_mut(inputs).enumerate().for_each(|(row, weight)| {
            let mut delta = self.delta(row);
            if let Some(magnitude) = &self.magnitude {
                let merged = || weight.iter().zip(&delta).map(|(weight, delta)| weight + delta);
                let gain = magnitude[row] / length(merged());
                delta = merged().zip(&*weight).map(|(merged, weight)| merged * gain - weight).collect();
            }
            weight.iter_mut().zip(delta).for_each(|(weight, delta)| *weight += strength * delta);
        });
    }

    /// One row of `scale·up·down`.
    fn delta(&self, row: usize) -> Vec<f32> {
        let (rank, inputs) = (self.rank(), self.down.shape[1]);
        let mut delta = vec![0.0; inputs];
        for (direction, up) in self.up.values[row * rank..][..rank].iter().enumerate() {
            let factor = self.scale * up;
            let down = &self.down.values[direction * inputs..][..inputs];
            delta.iter_mut().zip(down).for_each(|(delta, down)| *delta += factor * down);
        }
        delta
    }

    /// The lengths of the rows of a weight, and of the same rows with the adapter's part added.
    pub(super) fn lengths(&self, rows: &[f32]) -> Vec<(f32, f32)> {
        let inputs = self.down.shape[1].max(1);
        let both = |(row, weight): (usize, &[f32])| {
            let merged = weight.iter().zip(self.delta(row)).map(|(weight, delta)| weight + delta);
            (length(weight.iter().copied()), length(merged))
        };
        rows.par_chunks(inputs).enumerate().map(both).collect()
    }
}

/// The Euclidean length, never quite 0: lengths are divided by.
pub(super) fn length(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt().max(1e-12) as f32
}

/// A whole adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    /// What it has at each site.
    pub sites: BTreeMap<Site, LowRank>,
}

impl Adapter {
    /// The layers that it changes, sorted.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        let mut last = "";
        self.sites
            .keys()
            .map(|site| site.layer.as_str())
            .filter(move |layer| std::mem::replace(&mut last, layer) != *layer)
    }

    /// A tensor of the base model, by its name in an adapter, with the adapter in it; nothing when it's none that the adapter changes.
    pub fn merged(&self, base: &Base<'_>, name: &str, strength: f32) -> Option<Array> {
        let layer = name.strip_suffix(".weight")?;
        self.of_layer(layer).next()?;
        merged_all(&[(self, strength)], base, layer)
    }

    /// What it has at the sites of one layer.
    pub(super) fn of_layer(&self, layer: &str) -> impl Iterator<Item = (Option<Part>, &LowRank)> {
        let first = Site { layer: layer.to_owned(), part: None };
        let last = Site { layer: layer.to_owned(), part: Some(Part::Value) };
        self.sites.range(first..=last).map(|(site, low_rank)| (site.part, low_rank))
    }
}

/// The weight of a layer with adapters in it, one on the other, each at its strength.
pub fn merged_all(adapters: &[(&Adapter, f32)], base: &Base<'_>, layer: &str) -> Option<Array> {
    let mut weight = weight(base, layer)?;
    for (adapter, strength) in adapters {
        for (part, low_rank) in adapter.of_layer(layer) {
            low_rank.apply(rows_mut(&mut weight.values, part), *strength);
        }
    }
    Some(weight)
}

/// The weight of a layer, in 32 bits.
pub(super) fn weight(base: &Base<'_>, layer: &str) -> Option<Array> {
    let name = format!("{layer}.weight");
    let view = base.tensor(&name)?;
    let values = tensors::decode(view.dtype, &view.bytes())?;
    base.release(&name);
    Some(Array { shape: view.shape, values })
}

/// The rows of a weight that a part of its layer has.
pub(super) fn rows_mut(values: &mut [f32], part: Option<Part>) -> &mut [f32] {
    let third = values.len() / 3;
    match part {
        Some(part) => &mut values[part as usize * third..][..third],
        None => values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low_rank(magnitude: Option<Vec<f32>>) -> LowRank {
        LowRank {
            down: Array { shape: vec![1, 2], values: vec![1.0, 2.0] },
            up: Array { shape: vec![2, 1], values: vec![3.0, 0.0] },
            scale: 0.5,
            magnitude,
        }
    }

    #[test]
    fn a_part_of_the_way_is_that_part_of_the_change() {
        let applied = |low_rank: &LowRank, strength| {
            let mut weight = vec![1.0, -1.0, 3.0, 4.0];
            low_rank.apply(&mut weight, strength);
            weight
        };
        assert_eq!(applied(&low_rank(None), 1.0), [2.5, 2.0, 3.0, 4.0]);
        assert_eq!(applied(&low_rank(None), -2.0), [-2.0, -7.0, 3.0, 4.0]);
        assert_eq!(applied(&low_rank(None), 0.0), [1.0, -1.0, 3.0, 4.0]);
        // The first row has the direction (2.5, 2) and the length 2√10.25, the second its own direction and the length 10.
        let dora = low_rank(Some(vec![2.0 * 10.25f32.sqrt(), 10.0]));
        assert!(
            applied(&dora, 1.0)
                .iter()
                .zip([5.0, 4.0, 6.0, 8.0])
                .all(|(found, expected)| (found - expected).abs() < 1e-5)
        );
        assert!(
            applied(&dora, 0.5)
                .iter()
                .zip([3.0, 1.5, 4.5, 6.0])
                .all(|(found, expected)| (found - expected).abs() < 1e-5)
        );
        assert_eq!(applied(&dora, 0.0), [1.0, -1.0, 3.0, 4.0]);
    }
}
