//! Which images a validation measures: those that are held out, and as many of those that are trained.

use crate::{
    random::Draws,
    train::{TrainItem, validation::Validation},
};

/// What a validation measures is the same for every training, whatever its seed.
const SEED: u64 = 0;

impl Validation {
    /// Whether an image is held out, by its file's digest. Whatever is held out at some share is at a larger one too.
    fn holds_out(&self, image: &str) -> bool {
        Draws::new(SEED, "held out", 0, image).uniform() < self.share
    }

    /// The images that are trained, and those that are held out.
    pub(super) fn split(&self, items: Vec<TrainItem>) -> (Vec<TrainItem>, Vec<TrainItem>) {
        items.into_iter().partition(|item| item.regularisation || !self.holds_out(&item.image))
    }
}

/// As many of the trained images, always the same as long as they are there.
pub(super) fn seen(trained: &[TrainItem], count: usize) -> Vec<TrainItem> {
    let rank = |item: &TrainItem| Draws::new(SEED, "measured though trained", 0, &item.image).bits();
    let mut ranked: Vec<_> =
        trained.iter().filter(|item| !item.regularisation).map(|item| (rank(item), item)).collect();
    ranked.sort_by(|one, other| (one.0, &one.1.id).cmp(&(other.0, &other.1.id)));
    ranked.into_iter().take(count).map(|(_, item)| item.clone()).collect()
}

/// What is drawn of the noise of an image: the same at every timestep, so that these differ in nothing else.
#[cfg(feature = "compute")]
pub(super) fn noise(item: &TrainItem, index: u32) -> Draws {
    Draws::new(SEED, "validation noise", index.into(), &item.image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sd3pipe_cache::Digest;

    fn items(numbers: impl Iterator<Item = u32>) -> Vec<TrainItem> {
        let item = |number: u32| TrainItem {
            id: format!("{number:05}.png"),
            image: Digest::of(&number.to_le_bytes()).to_string(),
            repeats: 1,
            captions: Vec::new(),
            texts: Vec::new(),
            latents: Digest::of(b""),
            mask: None,
            flipped: None,
            bucket: (64, 64),
            further: false,
            weight: 1.0,
            regularisation: number >= 1_000_000,
        };
        numbers.map(item).collect()
    }

    fn held_out(share: f64, items: Vec<TrainItem>) -> Vec<String> {
        let validation = Validation { share, ..Validation::default() };
        validation.split(items).1.into_iter().map(|item| item.image).collect()
    }

    #[test]
    fn no_image_changes_sides_when_others_come_or_go() {
        let all = held_out(0.1, items(0..2000));
        // Five standard deviations of a count are 67.
        assert!((133..=267).contains(&all.len()), "{}", all.len());
        let some = held_out(0.1, items((0..2000).filter(|number| number % 3 != 0)));
        assert!(some.len() > 50 && some.iter().all(|image| all.contains(image)));
        let fewer: Vec<_> = all.iter().filter(|image| some.contains(image)).cloned().collect();
        assert_eq!(some, fewer);
        let more = held_out(0.2, items(0..2000));
        assert!(all.iter().all(|image| more.contains(image)), "a larger share holds out more, and nothing else");
    }

    #[test]
    fn an_image_is_known_by_its_bytes_and_not_by_its_name() {
        let mut renamed = items(0..500);
        renamed.iter_mut().for_each(|item| item.id = format!("other/{}", item.id));
        assert_eq!(held_out(0.1, renamed), held_out(0.1, items(0..500)));
        let copies = [items(0..500), items(0..500)].concat();
        assert_eq!(held_out(0.1, copies).len(), 2 * held_out(0.1, items(0..500)).len());
    }

    #[test]
    fn regularisation_images_are_neither_held_out_nor_measured() {
        assert!(held_out(0.5, items(1_000_000..1_000_100)).is_empty());
        assert!(seen(&items(1_000_000..1_000_100), 10).is_empty());
    }

    #[test]
    fn what_is_measured_of_the_trained_images_hardly_changes_as_they_grow() {
        let ids = |items: Vec<TrainItem>| items.into_iter().map(|item| item.id).collect::<Vec<_>>();
        let before = ids(seen(&items(0..500), 50));
        let after = ids(seen(&items(0..520), 50));
        let kept = before.iter().filter(|id| after.contains(id)).count();
        assert!((40..50).contains(&kept), "{kept}");
        assert_eq!(ids(seen(&items(0..3), 50)).len(), 3);
    }
}
