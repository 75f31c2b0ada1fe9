//! Items that are made one by one, spread over the devices of a run.

use crate::{
    error::StageError,
    train::metrics::Scalar,
    work::{Progress, Work},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Has each device make a part of `items`, neighbours together, and gives what came of each part, in order. All that a device has made
/// is kept, whatever happens to another.
///
/// # Errors
/// The first that a device met with.
pub fn spread<T: Send>(
    items: &[usize],
    work: &mut Work<'_>,
    make: impl Fn(&[usize], &mut Work<'_>) -> Result<T, StageError> + Sync,
) -> Result<Vec<T>, StageError> {
    let count = work.devices.len().min(items.len());
    if count < 2 {
        return Ok(vec![make(items, work)?]);
    }
    work.flush()?;
    let (store, interrupt, continues) = (work.store, work.interrupt, work.continues);
    let together = Together { inner: work.progress, parts: Mutex::new(vec![Part::default(); count]) };
    let ends: Vec<usize> = (0..=count).map(|part| part * items.len() / count).collect();
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads = work.devices.iter().take(count).enumerate().map(|(part, device)| {
            let (own, together, make, device) = (&items[ends[part]..ends[part + 1]], &together, &make, *device);
            scope.spawn(move || {
                let progress = OfPart { part, together };
                let mut work = Work::new(store, &progress, interrupt, vec![device]);
                work.continues = continues;
                let made = make(own, &mut work);
                let changed = std::mem::take(&mut work.changed);
                (made, work.take_executed(), changed)
            })
        });
        threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join()).collect()
    });
    let mut made = Vec::new();
    for done in done {
        match done {
            Ok((part, executed, changed)) => {
                work.add_executed(executed);
                work.changed.extend(changed);
                made.push(part);
            }
            // As if it had happened here.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    made.into_iter().collect()
}

/// How far the parts are, as one stretch of work.
struct Together<'p> {
    inner: &'p dyn Progress,
    parts: Mutex<Vec<Part>>,
}

#[derive(Clone, Copy, Default)]
struct Part {
    total: u64,
    done: u64,
    ended: bool,
}

impl Together<'_> {
    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct OfPart<'t> {
    part: usize,
    together: &'t Together<'t>,
}

impl Progress for OfPart<'_> {
    fn begin(&self, what: &str, total: u64, unit: &str) {
        let mut parts = self.together.parts();
        parts[self.part] = Part { total, ..Part::default() };
        self.together.inner.begin(what, parts.iter().map(|part| part.total).sum(), unit);
    }

    fn advance(&self, done: u64, note: &str) {
        let mut parts = self.together.parts();
        parts[self.part].done = done;
        self.together.inner.advance(parts.iter().map(|part| part.done).sum(), note);
    }

    fn end(&self) {
        let mut parts = self.together.parts();
        parts[self.part].ended = true;
        if parts.iter().all(|part| part.ended) {
            self.together.inner.end();
        }
    }

    fn line(&self, text: &str) {
        self.together.inner.line(text);
    }

    fn measured(&self, scalars: &[Scalar]) {
        self.together.inner.measured(scalars);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{device::Device, work::Interrupt};
    use sd3pipe_cache::Store;

    #[derive(Default)]
    struct Heard(Mutex<Vec<u64>>);

    impl Progress for Heard {
        fn begin(&self, _: &str, total: u64, _: &str) {
            self.0.lock().unwrap().push(100 + total);
        }
        fn advance(&self, done: u64, _: &str) {
            self.0.lock().unwrap().push(done);
        }
        fn end(&self) {
            self.0.lock().unwrap().push(1000);
        }
        fn line(&self, _: &str) {}
    }

    #[test]
    fn every_item_is_made_once_and_progress_is_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let (heard, interrupt) = (Heard::default(), Interrupt::new());
        let mut work = Work::new(&store, &heard, &interrupt, vec![Device::Cpu; 3]);
        let made = spread(&[5, 6, 7, 8, 9], &mut work, |own, work| {
            work.progress.begin("items", own.len() as u64, "items");
            work.executed.extend(own.iter().map(ToString::to_string));
            work.progress.advance(own.len() as u64, "");
            work.progress.end();
            Ok(own.to_vec())
        });
        assert_eq!(made.unwrap().concat(), [5, 6, 7, 8, 9]);
        let heard = heard.0.into_inner().unwrap();
        assert_eq!((heard.iter().max(), heard.iter().filter(|heard| **heard == 1000).count()), (Some(&1000), 1));
        assert!(heard.contains(&105) && heard.contains(&5));
    }

    #[test]
    fn an_error_of_one_device_leaves_what_others_have_made() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let (heard, interrupt) = (Heard::default(), Interrupt::new());
        let mut work = Work::new(&store, &heard, &interrupt, vec![Device::Cpu; 2]);
        let made = spread(&[0, 1], &mut work, |own, work| {
            work.executed.push(own[0].to_string());
            if own[0] == 0 { Err(StageError::Unfit("no".to_owned())) } else { Ok(()) }
        });
        assert_eq!(made.unwrap_err().to_string(), "no");
        assert_eq!(work.take_executed(), ["0", "1"]);
    }
}
