//! Which samples of a step each device computes.

use crate::train::Turn;

/// A device's part of an optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::train) struct Hand<T> {
    /// Its batches.
    pub(in crate::train) batches: Vec<Vec<T>>,
    /// Whether they count. A device for which there is no sample computes one of another's, for nothing: all take part in what they
    /// do together.
    pub(in crate::train) counts: bool,
}

/// A device's parts of a step and of the one after it, if there is one in the epoch.
#[derive(Clone, Debug)]
pub(in crate::train) struct Hands {
    pub(in crate::train) now: Hand<(Turn, f32)>,
    pub(in crate::train) next: Option<Hand<(Turn, f32)>>,
}

/// Deals the samples of a step's batches to so many devices, in their order and cut where the cost comes to equal shares: batches
/// stay whole where they can, and samples of large images weigh more.
pub(in crate::train) fn deal<T: Clone>(batches: &[Vec<T>], cost: impl Fn(&T) -> u64, devices: usize) -> Vec<Hand<T>> {
    let total: u64 = batches.iter().flatten().map(&cost).sum();
    let mut hands: Vec<Vec<Vec<T>>> = vec![Vec::new(); devices];
    let mut before = 0;
    for batch in batches {
        let mut last = None;
        for sample in batch {
            // Where the middle of it lies, in shares of a device.
            let middle = 2 * before + cost(sample);
            before += cost(sample);
            let device = (middle as u128 * devices as u128 / (2 * total.max(1)) as u128) as usize;
            let hand = &mut hands[device.min(devices - 1)];
            match hand.last_mut().filter(|_| last == Some(device)) {
                Some(batch) => batch.push(sample.clone()),
                None => hand.push(vec![sample.clone()]),
            }
            last = Some(device);
        }
    }
    let spare = batches.iter().flatten().next().map(|sample| vec![vec![sample.clone()]]).unwrap_or_default();
    let hand = |batches: Vec<Vec<T>>| match batches.is_empty() {
        true => Hand { batches: spare.clone(), counts: false },
        false => Hand { batches, counts: true },
    };
    hands.into_iter().map(hand).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dealt(batches: &[&[u64]], devices: usize) -> Vec<Vec<Vec<u64>>> {
        let batches: Vec<Vec<u64>> = batches.iter().map(|batch| batch.to_vec()).collect();
        deal(&batches, |cost| *cost, devices).into_iter().map(|hand| hand.batches).collect()
    }

    #[test]
    fn one_device_is_dealt_the_step_as_it_is() {
        assert_eq!(dealt(&[&[1, 1], &[3]], 1), [vec![vec![1, 1], vec![3]]]);
    }

    #[test]
    fn equal_batches_go_one_to_a_device_and_a_large_batch_is_cut() {
        assert_eq!(dealt(&[&[2], &[2], &[2], &[2]], 4), [[[2]], [[2]], [[2]], [[2]]]);
        assert_eq!(dealt(&[&[1, 1, 1, 1]], 2), [[[1, 1]], [[1, 1]]]);
        assert_eq!(dealt(&[&[1, 1, 1], &[1, 1, 1]], 2), [[[1, 1, 1]], [[1, 1, 1]]]);
    }

    #[test]
    fn samples_weigh_what_they_cost() {
        assert_eq!(dealt(&[&[6], &[2], &[2], &[2]], 2), [vec![vec![6]], vec![vec![2], vec![2], vec![2]]]);
    }

    #[test]
    fn a_device_without_a_sample_computes_one_that_does_not_count() {
        let hands = deal(&[vec![7u64]], |_| 1, 3);
        assert_eq!(hands.iter().filter(|hand| hand.counts).count(), 1);
        assert!(hands.iter().all(|hand| hand.batches == [[7]]));
    }

    #[test]
    fn every_sample_is_dealt_once() {
        let batches: Vec<Vec<u64>> =
            (0..9).map(|batch| (0..=batch % 4).map(|index| 1 + batch * 7 + index).collect()).collect();
        for devices in 1..7 {
            let hands = deal(&batches, |sample| 1 + sample % 5, devices);
            let all: Vec<u64> =
                hands.into_iter().filter(|hand| hand.counts).flat_map(|hand| hand.batches.concat()).collect();
            assert_eq!(all, batches.concat());
        }
    }
}
