//! An adapter before the first step: drawn, or out of a file.

use super::{
    Adapter, AdapterError, LowRank, Part, Place, Site,
    low_rank::{length, rows_mut, weight},
};
use crate::{checkpoint::ComponentSource, random::Draws, tensors::Array};
use std::{collections::BTreeMap, ops::Range, path::Path};

impl Adapter {
    /// An adapter that changes nothing yet: what reads is drawn evenly from ±1/√inputs (PyTorch's `kaiming_uniform_(a=√5)`, as in
    /// sd-scripts and PEFT), what writes is 0, and a DoRA's magnitudes are the lengths of the rows as they are.
    pub fn start(places: &[Place], dora: bool, seed: u64, base: &ComponentSource) -> Self {
        let draw = |place: &Place| {
            let mut draws = Draws::new(seed, "adapter", 0, &place.site.to_string());
            let bound = 1.0 / libm::sqrt(place.inputs as f64);
            let down = (0..place.rank * place.inputs).map(|_| ((2.0 * draws.uniform() - 1.0) * bound) as f32).collect();
            LowRank {
                down: Array { shape: vec![place.rank, place.inputs], values: down },
                up: Array { shape: vec![place.outputs, place.rank], values: vec![0.0; place.outputs * place.rank] },
                scale: place.scale,
                magnitude: dora.then(|| row_lengths(place, base)),
            }
        };
        Self { sites: places.iter().map(|place| (place.site.clone(), draw(place))).collect() }
    }

    /// Takes what `other` has learnt, whatever its alpha. Sites that `other` has not are left as they are.
    ///
    /// # Errors
    /// When `other`, which was read from `path`, has another rank somewhere, is at sites that this adapter has not, or is a DoRA and
    /// this is none, or the other way round.
    pub fn take(&mut self, other: Self, path: &Path) -> Result<(), AdapterError> {
        let mut problems = Vec::new();
        for (site, theirs) in other.split_like(self).sites {
            let Some(ours) = self.sites.get_mut(&site) else {
                problems.push(format!(
                    "  {site} has an adapter there and none here: add its kind to `targets`, its block to `blocks`"
                ));
                continue;
            };
            if theirs.rank() != ours.rank() {
                problems.push(format!(
                    "  {site} has rank {} there and {} here: set `rank` or `ranks`",
                    theirs.rank(),
                    ours.rank()
                ));
            } else if theirs.magnitude.is_some() != ours.magnitude.is_some() {
                problems.push(format!("  {site}: one is a DoRA and the other is not: set `dora`"));
            } else {
                let factor = theirs.scale / ours.scale;
                let up = theirs.up.values.into_iter().map(|value| value * factor).collect();
                let up = Array { shape: theirs.up.shape, values: up };
                *ours = LowRank { up, scale: ours.scale, ..theirs };
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => {
                problems.truncate(10);
                Err(AdapterError::Other { path: path.to_owned(), problems })
            }
        }
    }

    /// The same changes, with adapters of whole layers cut into those of their thirds where `pattern` has them so.
    fn split_like(self, pattern: &Self) -> Self {
        let mut sites = BTreeMap::new();
        for (site, low_rank) in self.sites {
            let apart: BTreeMap<Part, usize> =
                pattern.of_layer(&site.layer).filter_map(|(part, ours)| Some((part?, ours.rank()))).collect();
            if site.part.is_some() || apart.is_empty() {
                sites.insert(site, low_rank);
                continue;
            }
            let side_by_side = apart.values().sum::<usize>() == low_rank.rank();
            let mut before = 0;
            for part in Part::ALL {
                let own = before..before + apart.get(&part).copied().unwrap_or_default();
                before = own.end;
                let third = low_rank.third(part, side_by_side.then_some(own));
                // One that is none of ours and does nothing is not missed.
                if apart.contains_key(&part) || third.up.values.iter().any(|value| *value != 0.0) {
                    sites.insert(Site { layer: site.layer.clone(), part: Some(part) }, third);
                }
            }
        }
        Self { sites }
    }
}

impl LowRank {
    /// The rows of a third of the layer. Of several adapters side by side, which is what sd-scripts' form makes of thirds, only the
    /// third's `own` directions, if its rows use no others.
    fn third(&self, part: Part, own: Option<Range<usize>>) -> Self {
        let (all, inputs, outputs) = (self.rank(), self.down.shape[1], self.up.shape[0] / 3);
        let start = part as usize * outputs;
        let rows = || self.up.values[start * all..][..outputs * all].chunks(all);
        let zero = |values: &[f32]| values.iter().all(|value| *value == 0.0);
        let own = own.filter(|own| rows().all(|row| zero(&row[..own.start]) && zero(&row[own.end..])));
        let own = own.unwrap_or(0..all);
        Self {
            down: Array {
                shape: vec![own.len(), inputs],
                values: self.down.values[own.start * inputs..own.end * inputs].to_vec(),
            },
            up: Array {
                shape: vec![outputs, own.len()],
                values: rows().flat_map(|row| &row[own.clone()]).copied().collect(),
            },
            scale: self.scale,
            magnitude: self.magnitude.as_ref().map(|magnitude| magnitude[start..][..outputs].to_vec()),
        }
    }
}

fn row_lengths(place: &Place, base: &ComponentSource) -> Vec<f32> {
    // A layer that is missing was refused when the network was found.
    let mut weight = weight(base, &place.site.layer).unwrap_or_default().values;
    rows_mut(&mut weight, place.site.part).chunks(place.inputs).map(|row| length(row.iter().copied())).collect()
}
