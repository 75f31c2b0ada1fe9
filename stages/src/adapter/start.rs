//! An adapter before the first step: drawn, or out of a file.

use super::{
    Adapter, AdapterError, LowRank, Place,
    low_rank::{length, rows_mut, weight},
};
use crate::{checkpoint::ComponentSource, random::Draws, tensors::Array};
use std::path::Path;

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
        let mut sites = std::collections::BTreeMap::new();
        for (site, low_rank) in self.sites {
            let apart = || pattern.of_layer(&site.layer).filter_map(|(part, ours)| Some((part?, ours.rank())));
            if site.part.is_some() || apart().next().is_none() {
                sites.insert(site, low_rank);
                continue;
            }
            for (part, rank) in apart() {
                let site = super::Site { layer: site.layer.clone(), part: Some(part) };
                sites.insert(site, low_rank.third(part as usize, rank));
            }
        }
        Self { sites }
    }
}

impl LowRank {
    /// One of three equal parts of the rows. Of several adapters side by side, each for a third (what sd-scripts' form makes of
    /// them), it leaves out the directions that the third does not use, as far as `rank` asks for.
    fn third(&self, part: usize, rank: usize) -> Self {
        let (all, inputs, outputs) = (self.rank(), self.down.shape[1], self.up.shape[0] / 3);
        let up = &self.up.values[part * outputs * all..][..outputs * all];
        let used = |direction: &usize| all <= rank || up.chunks(all).any(|row| row[*direction] != 0.0);
        let kept: Vec<usize> = (0..all).filter(used).collect();
        let down =
            kept.iter().flat_map(|direction| &self.down.values[direction * inputs..][..inputs]).copied().collect();
        let up = up.chunks(all).flat_map(|row| kept.iter().map(|direction| row[*direction])).collect();
        Self {
            down: Array { shape: vec![kept.len(), inputs], values: down },
            up: Array { shape: vec![outputs, kept.len()], values: up },
            scale: self.scale,
            magnitude: self.magnitude.as_ref().map(|magnitude| magnitude[part * outputs..][..outputs].to_vec()),
        }
    }
}

fn row_lengths(place: &Place, base: &ComponentSource) -> Vec<f32> {
    // A layer that is missing was refused when the network was found.
    let mut weight = weight(base, &place.site.layer).unwrap_or_default().values;
    rows_mut(&mut weight, place.site.part).chunks(place.inputs).map(|row| length(row.iter().copied())).collect()
}
