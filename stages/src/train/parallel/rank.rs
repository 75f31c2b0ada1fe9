//! A device's place among those that train together.

use super::{
    bucket::{Bucket, Place},
    collective::{Link, Part, Pending, links},
};
use crate::{
    error::StageError,
    nn::{Weight, Weights},
    train::{blocks::Section, state::State},
};
use burn::tensor::{DType, Device, Tensor};
use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

/// Which of the devices this is, and what it owns. By default it is alone, and owns everything.
#[derive(Clone, Debug, Default)]
pub struct Rank {
    index: usize,
    group: Option<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    /// Which device moves a tensor and keeps what the optimizer keeps of it.
    owners: Arc<BTreeMap<String, usize>>,
    devices: usize,
    /// This one.
    device: Device,
    link: Link,
}

impl Rank {
    /// Those of so many devices, and what carries out what they do together, in a thread of its own until one of them is no more.
    /// `trained` has the number of values of each tensor that is trained.
    pub fn group(devices: &[Device], trained: Vec<(String, usize)>) -> (Vec<Self>, impl FnOnce() + Send + use<>) {
        let owners = Arc::new(owners(trained, devices.len()));
        let (links, serve) = links(devices.len());
        let ranks = links.into_iter().zip(devices).enumerate().map(|(index, (link, device))| {
            let (owners, device) = (Arc::clone(&owners), device.clone());
            Self { index, group: Some(Group { owners, devices: devices.len(), device, link }) }
        });
        (ranks.collect(), serve)
    }

    /// Its place among them, from 0.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Whether it moves this tensor, and keeps what the optimizer keeps of it.
    pub fn owns(&self, name: &str) -> bool {
        self.group.as_ref().is_none_or(|group| group.owners.get(name) == Some(&self.index))
    }

    /// Numbers, added up over all devices.
    ///
    /// # Errors
    /// When another device has failed.
    pub(in crate::train) fn total<const N: usize>(&self, numbers: [f64; N]) -> Result<[f64; N], StageError> {
        let Some(group) = &self.group else { return Ok(numbers) };
        let totals = group.link.hand_in(|| Part::Total(numbers.to_vec()))?.numbers()?;
        totals.try_into().map_err(|_| StageError::LostDevice)
    }

    /// A value, `[1]`, added up over all devices and left on each. One that has none adds nothing.
    ///
    /// # Errors
    /// When another device has failed.
    pub(in crate::train) fn sum(&self, value: Option<Tensor<1>>) -> Result<Option<Tensor<1>>, StageError> {
        let Some(group) = &self.group else { return Ok(value) };
        let value = value.unwrap_or_else(|| Tensor::zeros([1], (&group.device, DType::F32)));
        group.link.hand_in(|| Part::AllReduce(value))?.value(0..1).map(Some)
    }

    /// The names of all that is trained, of what travels together; none if it is alone.
    pub(in crate::train) fn sections(&self) -> Vec<Vec<String>> {
        let Some(group) = &self.group else { return Vec::new() };
        by_section(group.owners.keys().map(|name| (name.clone(), ())))
            .map(|section| section.into_keys().collect())
            .collect()
    }

    /// Gradients of this device's own tensors, added up over all devices.
    ///
    /// # Errors
    /// When another device has failed.
    pub(in crate::train) fn reduce_all(
        &self,
        gradients: BTreeMap<String, Tensor<1>>,
    ) -> Result<BTreeMap<String, Tensor<1>>, StageError> {
        if self.group.is_none() {
            return Ok(gradients);
        }
        let (mut reducing, mut own) = (Reducing::default(), BTreeMap::new());
        for gradients in by_section(gradients) {
            own.extend(reducing.next(self, gradients)?.unwrap_or_default().own);
        }
        own.extend(reducing.last()?.unwrap_or_default().own);
        Ok(own)
    }
}

impl Group {
    /// How tensors are sent: those of one type together, a row for each device that owns some.
    fn buckets<'t>(&self, tensors: impl Iterator<Item = (&'t str, &'t Tensor<1>)>) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        for (name, tensor) in tensors {
            let (dtype, [length]) = (tensor.dtype(), tensor.dims());
            let at = buckets.iter().position(|bucket| bucket.dtype == dtype).unwrap_or_else(|| {
                buckets.push(Bucket { dtype, device: tensor.device(), rows: vec![Vec::new(); self.devices] });
                buckets.len() - 1
            });
            let owner = self.owners.get(name).copied().unwrap_or_default();
            let row = &mut buckets[at].rows[owner];
            let start = row.last().map_or(0, Place::end);
            row.push(Place { name: name.to_owned(), start, length });
        }
        buckets
    }
}

/// Gradients of a section, added up over all devices.
#[derive(Debug, Default)]
pub(in crate::train) struct Summed {
    /// The names of all devices'.
    pub(in crate::train) names: Vec<String>,
    /// Those of this device's own tensors.
    pub(in crate::train) own: BTreeMap<String, Tensor<1>>,
    /// The same as they came, with zeros between them, each by the name of its first: of a device alone the gradients themselves.
    pub(in crate::train) rows: Vec<(String, Tensor<1>)>,
}

/// Gradients on their way, those of a section at a time.
#[derive(Debug, Default)]
pub(in crate::train) struct Reducing {
    coming: Option<(Vec<String>, Vec<Travelling>)>,
}

/// The row that is this device's own, and what is on its way.
type Travelling = (usize, Bucket, Pending);

impl Reducing {
    /// Begins to add up those of a section over all devices, and gives those of the section before, if there is one. On a device
    /// alone they are given at once.
    ///
    /// # Errors
    /// When another device has failed.
    pub(in crate::train) fn next(
        &mut self,
        rank: &Rank,
        gradients: BTreeMap<String, Tensor<1>>,
    ) -> Result<Option<Summed>, StageError> {
        let names = gradients.keys().cloned().collect();
        let Some(group) = &rank.group else {
            let rows = gradients.iter().map(|(name, gradient)| (name.clone(), gradient.clone())).collect();
            return Ok(Some(Summed { names, own: gradients, rows }));
        };
        let before = self.last()?;
        let mut coming = Vec::new();
        for bucket in group.buckets(gradients.iter().map(|(name, gradient)| (name.as_str(), gradient))) {
            let pending = group.link.hand_in(|| Part::ReduceScatter(bucket.lay_out(0..group.devices, &gradients)))?;
            coming.push((rank.index, bucket, pending));
        }
        self.coming = Some((names, coming));
        Ok(before)
    }

    /// Those that are still on their way.
    ///
    /// # Errors
    /// When another device has failed.
    pub(in crate::train) fn last(&mut self) -> Result<Option<Summed>, StageError> {
        let Some((names, coming)) = self.coming.take() else { return Ok(None) };
        let mut summed = Summed { names, ..Summed::default() };
        for (index, bucket, pending) in coming {
            let row = pending.value(0..bucket.width())?;
            let own = bucket.rows[index].iter().map(|place| (place.name.clone(), place.of(&row, 0)));
            summed.own.extend(own);
            if let Some(first) = bucket.rows[index].first() {
                summed.rows.push((first.name.clone(), row));
            }
        }
        Ok(Some(summed))
    }
}

/// Weights on their way from the devices that have moved them.
#[derive(Debug, Default)]
pub(in crate::train) struct Moving {
    coming: Vec<Travelling>,
}

impl Moving {
    /// Begins to tell the other devices those of these weights that this one has moved, and puts what has come of those before in its
    /// place.
    ///
    /// # Errors
    /// When another device has failed.
    pub(in crate::train) fn send(&mut self, state: &mut State, names: &[String]) -> Result<(), StageError> {
        let Rank { index, group: Some(group) } = state.rank.clone() else { return Ok(()) };
        self.put(&mut state.weights)?;
        let here =
            |name: &String| Some((name.clone(), state.weights.get(name)?.values.clone().to_device(&group.device)));
        let tensors: BTreeMap<String, Tensor<1>> = names.iter().filter_map(here).collect();
        for bucket in group.buckets(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))) {
            let pending = group.link.hand_in(|| Part::AllGather(bucket.lay_out(index..index + 1, &tensors)))?;
            self.coming.push((index, bucket, pending));
        }
        Ok(())
    }

    /// Puts what is still on its way in its place.
    ///
    /// # Errors
    /// When another device has failed.
    pub(in crate::train) fn finish(mut self, weights: &mut Weights) -> Result<(), StageError> {
        self.put(weights)
    }

    /// The weights of the others are then parts of their rows; the device's own stay where they are.
    fn put(&mut self, weights: &mut Weights) -> Result<(), StageError> {
        for (own, bucket, pending) in self.coming.drain(..) {
            let width = bucket.width();
            let others = [0..own, own + 1..bucket.rows.len()];
            let others = others.into_iter().filter(|rows| !rows.is_empty());
            let places = others.clone().map(|rows| rows.start * width..rows.end * width);
            for (values, rows) in pending.values(places)?.iter().zip(others) {
                for (row, places) in bucket.rows[rows].iter().enumerate() {
                    for place in places {
                        let Some(Weight { values: old, shape }) = weights.remove(&place.name) else { continue };
                        let values = place.of(values, row * width).to_device(&old.device());
                        weights.insert(&place.name, Weight { values, shape });
                    }
                }
            }
        }
        Ok(())
    }
}

/// What belongs to tensors, by the sections whose gradients are known together, from the last to the first.
fn by_section<T>(tensors: impl IntoIterator<Item = (String, T)>) -> impl Iterator<Item = BTreeMap<String, T>> {
    let mut sections: BTreeMap<Section, BTreeMap<String, T>> = BTreeMap::new();
    for (name, tensor) in tensors {
        sections.entry(Section::of(&name)).or_default().insert(name, tensor);
    }
    sections.into_values().rev()
}

/// Within each section, whose tensors travel together, the largest first to the device that has the least.
fn owners(trained: impl IntoIterator<Item = (String, usize)>, devices: usize) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    let mut total = vec![0; devices];
    for section in by_section(trained) {
        let mut tensors: Vec<_> = section.into_iter().map(|(name, length)| (Reverse(length), name)).collect();
        tensors.sort();
        let mut held = vec![0; devices];
        for (Reverse(length), name) in tensors {
            let least = (0..devices).min_by_key(|device| (held[*device], total[*device])).unwrap_or_default();
            held[least] += length;
            total[least] += length;
            owners.insert(name, least);
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::to_host;

    fn names() -> Vec<(String, usize)> {
        let block = |index: usize| {
            [("attn.qkv", 300), ("attn.proj", 100), ("mlp.fc1", 400), ("mlp.fc2", 400)]
                .map(|(name, length)| (format!("joint_blocks.{index}.x_block.{name}.weight"), length))
        };
        (0..3).flat_map(block).chain([("final_layer.linear.bias".to_owned(), 7)]).collect()
    }

    #[test]
    fn devices_own_about_equal_shares_of_each_section() {
        let owners = owners(names(), 2);
        for block in 0..3 {
            let held = [0, 1].map(|device| {
                let of_block =
                    names().into_iter().filter(|(name, _)| name.starts_with(&format!("joint_blocks.{block}.")));
                of_block.filter(|(name, _)| owners[name] == device).map(|(_, length)| length).sum::<usize>()
            });
            assert_eq!(held.iter().sum::<usize>(), 1200);
            assert!(held[0].abs_diff(held[1]) <= 200, "{held:?}");
        }
    }

    /// Each of three devices has its number as the gradient of everything, and moves its own weights to what it was given.
    #[test]
    fn gradients_come_to_their_owners_and_moved_weights_to_everybody() {
        let (ranks, serve) = Rank::group(&[Device::flex(), Device::flex(), Device::flex()], names());
        let all = std::thread::scope(|scope| {
            scope.spawn(serve);
            let threads = ranks.into_iter().enumerate().map(|(index, rank)| {
                scope.spawn(move || {
                    let device = Device::flex();
                    let values = |value: f32| {
                        move |(name, length): (String, usize)| {
                            (name, Tensor::<1>::full([length], value, &device.clone()))
                        }
                    };
                    let gradients: BTreeMap<_, _> = names().into_iter().map(values(1.0 + index as f32)).collect();
                    let weights = gradients.iter().map(|(name, gradient)| {
                        (name.clone(), Weight { values: gradient.zeros_like(), shape: gradient.dims().to_vec() })
                    });
                    let mut state = State { rank: rank.clone(), ..State::start(weights.collect()) };
                    let mut moving = Moving::default();
                    let mut reducing = Reducing::default();
                    let mut sums: Vec<Summed> =
                        by_section(gradients).filter_map(|section| reducing.next(&rank, section).unwrap()).collect();
                    sums.extend(reducing.last().unwrap());
                    for Summed { names, own, .. } in sums {
                        assert!(own.keys().all(|name| rank.owns(name)));
                        for (name, gradient) in own {
                            let shape = gradient.dims().to_vec();
                            state.weights.insert(name, Weight { values: gradient, shape });
                        }
                        moving.send(&mut state, &names).unwrap();
                    }
                    moving.finish(&mut state.weights).unwrap();
                    state
                        .weights
                        .iter()
                        .map(|(name, weight)| (name.to_owned(), to_host(weight.values.clone())))
                        .collect::<Vec<_>>()
                })
            });
            threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(all.iter().all(|weights| weights.len() == names().len()));
        assert!(all.iter().flatten().all(|(_, values)| values.iter().all(|value| *value == 6.0)));
    }

    #[test]
    fn numbers_and_values_are_added_up() {
        let (ranks, serve) = Rank::group(&[Device::flex(), Device::flex()], names());
        std::thread::scope(|scope| {
            scope.spawn(serve);
            for (index, rank) in ranks.into_iter().enumerate() {
                scope.spawn(move || {
                    assert_eq!(rank.total([1.0, index as f64]).unwrap(), [2.0, 1.0]);
                    let value = Tensor::from_floats([1.0 + index as f32], &Device::flex());
                    assert_eq!(to_host(rank.sum(Some(value)).unwrap().unwrap()), [3.0]);
                });
            }
        });
    }
}
