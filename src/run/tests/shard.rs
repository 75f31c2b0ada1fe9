//! Runs that make a share each, at once, on one store.

use super::*;
use crate::run::Shard;
use std::thread;

/// A space with so many more pictures, each with a caption of its own.
fn space(pictures: usize) -> Space {
    let space = Space::new();
    for number in 0..pictures {
        let path = space.path(&format!("photos/{number:03}.png"));
        image::RgbImage::from_pixel(64, 96, image::Rgb([9, 9, number as u8])).save(&path).unwrap();
        fs::write(path.with_extension("txt"), format!("picture {number}")).unwrap();
    }
    space
}

fn share(number: u32, count: u32) -> Options {
    Options { shard: Shard::new(number, count), ..Options::default() }
}

/// How many actions of a stage a run has carried out.
fn made(journal: &Journal, name: &str) -> usize {
    journal.stages.iter().find(|stage| stage.name == name).unwrap().executed.len()
}

/// How many it has left to others.
fn left(journal: &Journal, name: &str) -> Option<usize> {
    journal.stages.iter().find(|stage| stage.name == name).unwrap().left
}

fn names(journal: &Journal) -> Vec<&str> {
    journal.stages.iter().map(|stage| stage.name.as_str()).collect()
}

#[test]
fn shards_at_once_make_everything_and_nothing_twice() {
    for count in [2, 4] {
        let space = space(40);
        let folder = space.folder.path();
        let journals: Vec<Journal> = thread::scope(|scope| {
            let make = |number| {
                let (journal, result, _) = run(folder, &Keys::default(), &Interrupt::new(), &[], share(number, count));
                result.unwrap();
                journal
            };
            let runs: Vec<_> = (1..=count).map(|number| scope.spawn(move || make(number))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        assert!(journals.iter().all(|journal| made(journal, "text") > 0 && made(journal, "latents") > 0));
        let mut all: Vec<String> = journals.iter().flat_map(lines).collect();
        all.sort();
        let several = all.len();
        all.dedup();
        assert_eq!((several, all.len()), (44 + 43, 44 + 43));
        // Whoever came last has found nothing left, and has written the lists down.
        for stage in ["text", "latents"] {
            assert!(journals.iter().any(|journal| left(journal, stage).is_none()));
        }
        let (journal, result) = space.run(&[], Options::default());
        result.unwrap();
        assert!(journal.stages[..3].iter().all(|stage| stage.actions.is_none()), "{:?}", &journal.stages[..3]);
        assert_eq!(lines(&journal)[0], "train: epoch 1");
    }
}

#[test]
fn a_shard_makes_no_whole_stage_and_says_what_others_have_left() {
    let space = space(20);
    let (journal, result) = space.run(&[], share(1, 3));
    result.unwrap();
    assert_eq!(names(&journal), ["captions", "text", "latents"]);
    let (texts, latents) = (made(&journal, "text"), made(&journal, "latents"));
    assert_eq!((left(&journal, "text"), left(&journal, "latents")), (Some(24 - texts), Some(23 - latents)));
    // Once more there is nothing to do, and as much is left.
    let (again, result) = space.run(&[], share(1, 3));
    result.unwrap();
    assert_eq!((lines(&again).len(), left(&again, "latents")), (0, Some(23 - latents)));
    let until = space.resolve(&[]).index("latents").into_iter().collect();
    let (second, _) = space.run(&[], Options { until, ..share(2, 3) });
    assert_eq!(names(&second), ["captions", "latents"]);
    // A run without a share makes what nobody has made.
    let (rest, result) = space.run(&[], Options::default());
    result.unwrap();
    assert_eq!((made(&rest, "text"), made(&rest, "latents")), (24 - texts, 23 - latents - made(&second, "latents")));
}

#[test]
fn what_a_broken_shard_has_left_is_made_when_it_is_run_again() {
    let latents = |space: &Space, number| {
        let until = space.resolve(&[]).index("latents").into_iter().collect();
        space.run(&[], Options { until, ..share(number, 2) })
    };
    let (whole, _) = latents(&space(40), 2);
    let last = whole.stages.last().unwrap().executed.last().unwrap().clone();
    let space = space(40);
    *space.engine.broken.borrow_mut() = Some(last.clone());
    let (broken, result) = latents(&space, 2);
    assert!(matches!(result, Err(RunError::Stage { stage, .. }) if stage == "latents"));
    assert_eq!(made(&broken, "latents"), made(&whole, "latents") - 1);
    let (other, result) = latents(&space, 1);
    result.unwrap();
    assert_eq!(left(&other, "latents"), Some(1));
    *space.engine.broken.borrow_mut() = None;
    let (again, result) = latents(&space, 2);
    result.unwrap();
    assert_eq!((lines(&again), left(&again, "latents")), (vec![format!("latents: {last}")], None));
}

#[test]
fn a_forced_stage_is_made_anew_share_by_share() {
    let space = space(20);
    space.executed(&[]);
    let force: std::collections::BTreeSet<usize> = space.resolve(&[]).index("text").into_iter().collect();
    let again = [1, 2].map(|number| {
        let (journal, result) = space.run(&[], Options { force: force.clone(), ..share(number, 2) });
        result.unwrap();
        (made(&journal, "text"), left(&journal, "text"))
    });
    assert_eq!((again[0].0 + again[1].0, again[0].1, again[1].1), (24, None, None));
}
