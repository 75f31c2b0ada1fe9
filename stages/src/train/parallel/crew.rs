//! The other devices of a training: a thread each, which does what the first has it do.

use super::{Hands, Rank};
use crate::{
    error::StageError,
    nn::Weights,
    train::{TrainJob, optimizer::Kept, replica::Replica, state::State},
};
use burn::tensor::Device;
use sd3pipe_cache::Store;
use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, Sender, channel},
    thread::Scope,
};

/// The threads, in the order of their devices.
#[derive(Default)]
pub(in crate::train) struct Crew {
    others: Vec<Other>,
}

struct Other {
    orders: Sender<Order>,
    answers: Receiver<Result<Share, StageError>>,
}

enum Order {
    /// To load the nearest state to an epoch.
    Load(usize),
    /// To take part in a step of so many samples.
    Step { hands: Hands, samples: usize, step: u64 },
    /// To say what it alone has.
    Tell,
}

/// What a device alone has of a state.
#[derive(Default)]
struct Share {
    kept: BTreeMap<String, Kept>,
    average: Weights,
}

impl Crew {
    /// Starts a thread for each of several devices but the first, and gives that one's rank. They end when this is dropped.
    ///
    /// # Errors
    /// When the adapter's tensors don't follow from the model.
    pub(in crate::train) fn start<'s, 'e>(
        scope: &'s Scope<'s, 'e>,
        job: &'e TrainJob,
        devices: &[Device],
        store: &'e Store,
    ) -> Result<(Self, Rank), StageError> {
        if devices.len() < 2 {
            return Ok((Self::default(), Rank::default()));
        }
        let tensors = job.parameters.tensors(&job.facts.geometry, &job.facts.clips)?.into_iter();
        let trained = tensors.filter(|(name, _)| job.parameters.trains(name));
        let trained = trained.map(|(name, shape)| (name, shape.iter().product())).collect();
        let (ranks, serve) = Rank::group(devices, trained);
        scope.spawn(move || catch_unwind(AssertUnwindSafe(serve)));
        let mut ranks = ranks.into_iter();
        let first = ranks.next().unwrap_or_default();
        let others = ranks.zip(&devices[1..]).enumerate().map(|(index, (rank, device))| {
            let ((orders, received), (answer, answers), device) = (channel(), channel(), device.clone());
            scope.spawn(move || {
                let work = || follow(job, &device, rank, store, &received, &answer);
                if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                    // Nobody listens any more if the first device failed too.
                    let _ = answer.send(Err(failed(index + 1, text_of(panic.as_ref()))));
                }
            });
            Other { orders, answers }
        });
        Ok((Self { others: others.collect() }, first))
    }

    /// How many devices there are with the first.
    pub(in crate::train) fn devices(&self) -> usize {
        1 + self.others.len()
    }

    /// Has all devices load the nearest state to an epoch, the first one by `here`.
    ///
    /// # Errors
    /// The first that one of them met with.
    pub(in crate::train) fn load(
        &self,
        epoch: usize,
        here: impl FnOnce() -> Result<State, StageError>,
    ) -> Result<State, StageError> {
        self.together(|_| Order::Load(epoch), here)
    }

    /// Has all devices take a step of so many samples, the first one by `here`.
    ///
    /// # Errors
    /// The first that one of them met with.
    pub(in crate::train) fn step<T>(
        &self,
        hands: &[Hands],
        (samples, step): (usize, u64),
        here: impl FnOnce() -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        self.together(|index| Order::Step { hands: hands[index + 1].clone(), samples, step }, here)
    }

    /// The state with what the other devices have of it.
    ///
    /// # Errors
    /// When one of them has failed.
    pub(in crate::train) fn whole<'s>(&self, state: &'s State) -> Result<Cow<'s, State>, StageError> {
        let mut whole = Cow::Borrowed(state);
        for other in &self.others {
            other.orders.send(Order::Tell).map_err(|_| StageError::LostDevice)?;
            let Share { kept, average } = other.answer()?;
            let whole = whole.to_mut();
            whole.kept.extend(kept);
            whole.average = whole.average.with(&average);
        }
        Ok(whole)
    }

    fn together<T>(
        &self,
        order: impl Fn(usize) -> Order,
        here: impl FnOnce() -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        for (index, other) in self.others.iter().enumerate() {
            // One that has failed says so below.
            let _ = other.orders.send(order(index));
        }
        let mut done = here();
        for other in &self.others {
            match (&done, other.answer()) {
                (_, Ok(_)) | (Err(_), Err(StageError::LostDevice)) => {}
                (Ok(_) | Err(StageError::LostDevice), Err(error)) => done = Err(error),
                (Err(_), Err(_)) => {}
            }
        }
        done
    }
}

impl Other {
    fn answer(&self) -> Result<Share, StageError> {
        self.answers.recv().unwrap_or(Err(StageError::LostDevice))
    }
}

/// What a thread does until there are no more orders.
fn follow(
    job: &TrainJob,
    device: &Device,
    rank: Rank,
    store: &Store,
    orders: &Receiver<Order>,
    answer: &Sender<Result<Share, StageError>>,
) {
    let mut known: Option<(Replica<'_>, State)> = None;
    for order in orders {
        let done = match (order, &mut known) {
            (Order::Load(epoch), _) => Replica::new(job, device.clone(), rank.clone()).and_then(|replica| {
                let state = replica.nearest_state(epoch, store, &|_| ())?;
                known = Some((replica, state));
                Ok(Share::default())
            }),
            (Order::Step { hands, samples, step }, Some((replica, state))) => {
                replica.step(state, &hands, samples, step, store).map(|_| Share::default())
            }
            // Another thread is to read what this one's stream may still be writing.
            (Order::Tell, Some((_, state))) => device
                .sync()
                .map(|()| Share { kept: state.kept.clone(), average: state.average.clone() })
                .map_err(|error| failed(rank.index(), &error.to_string())),
            (_, None) => Err(StageError::LostDevice),
        };
        if answer.send(done).is_err() {
            return;
        }
    }
}

/// What a device that has failed leaves behind.
fn failed(index: usize, reason: &str) -> StageError {
    StageError::Unfit(format!(
        "device {} of the training has failed: {reason}; run again, with fewer `devices` if it fails again: the training goes on from the \
         last state that was saved",
        index + 1,
    ))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason is known")
}
