//! The order of the data: a function of the items, the seed and the epoch, never of what was asked before.

use crate::random::Draws;
use std::collections::BTreeMap;

/// One of the times that an item is seen in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The item, by its index.
    pub item: usize,
    /// Which of its repeats.
    pub repeat: u32,
}

/// The batches of an epoch (counted from 0). `items` gives each item's repeats and bucket; a batch never mixes buckets, and the
/// last of a bucket may be short.
pub fn batches(items: &[(u32, (u32, u32))], seed: u64, epoch: u32, batch: u32) -> Vec<Vec<Turn>> {
    let mut buckets: BTreeMap<(u32, u32), Vec<Turn>> = BTreeMap::new();
    for (item, (repeats, bucket)) in items.iter().enumerate() {
        buckets.entry(*bucket).or_default().extend((0..*repeats).map(|repeat| Turn { item, repeat }));
    }
    let mut batches = Vec::new();
    for ((width, height), mut turns) in buckets {
        Draws::new(seed, "order in bucket", epoch.into(), &format!("{width}x{height}")).shuffle(&mut turns);
        batches.extend(turns.chunks(batch.max(1) as usize).map(<[Turn]>::to_vec));
    }
    Draws::new(seed, "order of batches", epoch.into(), "").shuffle(&mut batches);
    batches
}

/// How many batches an epoch has: the same for each.
pub fn batch_count(items: &[(u32, (u32, u32))], batch: u32) -> u64 {
    let mut buckets: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for (repeats, bucket) in items {
        *buckets.entry(*bucket).or_default() += u64::from(*repeats);
    }
    buckets.values().map(|turns| turns.div_ceil(batch.max(1).into())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: [(u32, (u32, u32)); 4] = [(3, (64, 64)), (1, (64, 96)), (2, (64, 64)), (4, (64, 96))];

    #[test]
    fn an_epoch_sees_every_repeat_of_every_item_once_and_never_mixes_buckets() {
        let batches = batches(&ITEMS, 1, 0, 2);
        assert!(batches.iter().all(|batch| batch.iter().all(|turn| ITEMS[turn.item].1 == ITEMS[batch[0].item].1)));
        let mut turns: Vec<_> = batches.concat().iter().map(|turn| (turn.item, turn.repeat)).collect();
        turns.sort_unstable();
        let all: Vec<_> = ITEMS
            .iter()
            .enumerate()
            .flat_map(|(item, (repeats, _))| (0..*repeats).map(move |repeat| (item, repeat)))
            .collect();
        assert_eq!(turns, all);
        assert_eq!(batches.len() as u64, batch_count(&ITEMS, 2));
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let order = |seed, epoch| batches(&ITEMS, seed, epoch, 1);
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }
}
