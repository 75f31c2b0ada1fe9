//! What the devices of a training do together, and the thread that has them do it.
//!
//! What travels has a stream of its own on every device, so that each goes on computing meanwhile. A stream waits for another when it
//! uses memory that is younger than the last time that it did, for all that the other was given by then; it knows nothing of what
//! was written into older memory since (CubeCL 0.12). So while something is carried out its devices neither make what they hand in
//! next nor read what came: either would be taken for waited for, or waited for too long.

use crate::error::StageError;
use burn::tensor::{StreamId, Tensor, distributed::ReduceOperation};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};

/// The stream of what travels.
pub(super) const STREAM: StreamId = StreamId { value: u64::MAX };

/// What a device hands in; the others hand in the same.
#[derive(Debug)]
pub(super) enum Part {
    /// `[devices·n]`: of the sum each device is given its `[n]`.
    ReduceScatter(Tensor<1>),
    /// `[n]`: all are given those of all, `[devices·n]`.
    AllGather(Tensor<1>),
    /// `[n]`: all are given the sum.
    AllReduce(Tensor<1>),
    /// Numbers, added up in the order of the devices.
    Total(Vec<f64>),
}

/// What it gets for it.
enum Whole {
    Values(Box<Tensor<1>>),
    Numbers(Vec<f64>),
}

struct Call {
    part: Part,
    reply: Sender<Whole>,
}

/// A device's way to the others.
#[derive(Clone, Debug)]
pub(super) struct Link {
    calls: Sender<Call>,
    carried_out: Arc<Mutex<CarriedOut>>,
}

/// Hears of each call that was carried out.
#[derive(Debug)]
struct CarriedOut {
    heard: Receiver<()>,
    /// Calls of which it has not heard yet.
    outstanding: usize,
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Pending {
    reply: Receiver<Whole>,
    link: Link,
}

impl Link {
    /// Hands in what is made when nothing else is being carried out.
    ///
    /// # Errors
    /// When another device has left.
    pub(super) fn hand_in(&self, make: impl FnOnce() -> Part) -> Result<Pending, StageError> {
        self.settle()?;
        let (sender, reply) = channel();
        self.calls.send(Call { part: make(), reply: sender }).map_err(|_| StageError::LostDevice)?;
        self.carried_out.lock().unwrap_or_else(PoisonError::into_inner).outstanding += 1;
        Ok(Pending { reply, link: self.clone() })
    }

    /// Waits until all that was handed in is in the queues of the devices.
    fn settle(&self) -> Result<(), StageError> {
        let mut carried_out = self.carried_out.lock().unwrap_or_else(PoisonError::into_inner);
        while carried_out.outstanding > 0 {
            carried_out.heard.recv().map_err(|_| StageError::LostDevice)?;
            carried_out.outstanding -= 1;
        }
        Ok(())
    }
}

impl Pending {
    /// Those of the values in this place, as [`values`](Self::values) gives them.
    ///
    /// # Errors
    /// When another device has left.
    pub(super) fn value(self, place: Range<usize>) -> Result<Tensor<1>, StageError> {
        self.values(std::iter::once(place))?.pop().ok_or(StageError::LostDevice)
    }

    /// Those of the values in these places, in memory of the calling thread's stream, which waits for another's at each use.
    ///
    /// # Errors
    /// When another device has left.
    pub(super) fn values(self, places: impl IntoIterator<Item = Range<usize>>) -> Result<Vec<Tensor<1>>, StageError> {
        self.link.settle()?;
        match self.reply.recv() {
            Ok(Whole::Values(values)) => {
                Ok(places.into_iter().map(|place| copied(values.clone().slice(place))).collect())
            }
            _ => Err(StageError::LostDevice),
        }
    }

    /// # Errors
    /// When another device has left.
    pub(super) fn numbers(self) -> Result<Vec<f64>, StageError> {
        match self.reply.recv() {
            Ok(Whole::Numbers(numbers)) => Ok(numbers),
            _ => Err(StageError::LostDevice),
        }
    }
}

fn copied(values: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "cuda")]
    if crate::device::is_gpu(&values.device()) {
        return sd3pipe_kernels::copied(values);
    }
    values
}

/// The links of so many devices, and what serves them until one of them leaves; it wants a thread of its own.
pub(super) fn links(devices: usize) -> (Vec<Link>, impl FnOnce() + Send + use<>) {
    let (links, calls): (Vec<_>, Vec<_>) = (0..devices)
        .map(|_| {
            let ((calls, served), (done, heard)) = (channel(), channel());
            let carried_out = Arc::new(Mutex::new(CarriedOut { heard, outstanding: 0 }));
            (Link { calls, carried_out }, (served, done))
        })
        .unzip();
    (links, move || while STREAM.executes(|| serve(&calls)).is_some() {})
}

/// Carries out what all hand in next. Nothing when one has left, or they are not of one mind.
fn serve(links: &[(Receiver<Call>, Sender<()>)]) -> Option<()> {
    let calls: Vec<Call> = links.iter().map(|(calls, _)| calls.recv().ok()).collect::<Option<_>>()?;
    let (parts, replies): (Vec<Part>, Vec<_>) = calls.into_iter().map(|call| (call.part, call.reply)).unzip();
    let values =
        |tensors: Vec<Tensor<1>>| tensors.into_iter().map(|values| Whole::Values(Box::new(values))).collect::<Vec<_>>();
    let wholes = match parts.first()? {
        Part::ReduceScatter(_) => {
            let parts =
                tensors(parts, |part| if let Part::ReduceScatter(values) = part { Some(values) } else { None })?;
            values(Tensor::reduce_scatter(parts, 0, ReduceOperation::Sum))
        }
        Part::AllGather(_) => {
            let parts = tensors(parts, |part| if let Part::AllGather(values) = part { Some(values) } else { None })?;
            values(Tensor::all_gather(parts, 0))
        }
        Part::AllReduce(_) => {
            let parts = tensors(parts, |part| if let Part::AllReduce(values) = part { Some(values) } else { None })?;
            values(Tensor::all_reduce(parts, ReduceOperation::Sum))
        }
        Part::Total(_) => {
            let mut totals: Vec<f64> = Vec::new();
            for part in parts {
                let Part::Total(numbers) = part else { return None };
                totals.resize(numbers.len(), 0.0);
                totals.iter_mut().zip(numbers).for_each(|(total, number)| *total += number);
            }
            replies.iter().map(|_| Whole::Numbers(totals.clone())).collect()
        }
    };
    for ((reply, whole), (_, done)) in replies.into_iter().zip(wholes).zip(links) {
        // One that has left since is noticed at the next call.
        let _ = reply.send(whole);
        let _ = done.send(());
    }
    Some(())
}

/// All of one kind and one length.
fn tensors(parts: Vec<Part>, of_kind: impl Fn(Part) -> Option<Tensor<1>>) -> Option<Vec<Tensor<1>>> {
    let tensors = parts.into_iter().map(of_kind).collect::<Option<Vec<_>>>()?;
    let alike = tensors.windows(2).all(|pair| pair[0].dims() == pair[1].dims() && pair[0].dtype() == pair[1].dtype());
    alike.then_some(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::to_host;
    use burn::tensor::Device;

    fn tensor<const N: usize>(values: [f32; N]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    /// What each of two devices gets for its part, so many values.
    fn both(parts: [Part; 2], length: usize) -> Vec<Vec<f32>> {
        let (links, serve) = links(2);
        let server = std::thread::spawn(serve);
        let pending: Vec<_> = links.iter().zip(parts).map(|(link, part)| link.hand_in(|| part).unwrap()).collect();
        let values = |pending: Pending| to_host(pending.value(0..length).unwrap());
        let found = pending.into_iter().map(values).collect();
        drop(links);
        server.join().unwrap();
        found
    }

    #[test]
    fn sums_are_scattered_and_parts_are_gathered() {
        let scattered =
            [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]].map(|values| Part::ReduceScatter(tensor(values)));
        assert_eq!(both(scattered, 2), [[11.0, 22.0], [33.0, 44.0]]);
        assert_eq!(both([[1.0], [2.0]].map(|values| Part::AllGather(tensor(values))), 2), [[1.0, 2.0]; 2]);
        assert_eq!(both([[1.0], [2.0]].map(|values| Part::AllReduce(tensor(values))), 1), [[3.0]; 2]);
    }

    #[test]
    fn whoever_waits_for_a_device_that_has_left_is_told() {
        let (mut links, serve) = links(2);
        let server = std::thread::spawn(serve);
        let waiting = links[0].hand_in(|| Part::Total(vec![1.0])).unwrap();
        links.pop();
        assert!(matches!(waiting.numbers(), Err(StageError::LostDevice)));
        server.join().unwrap();
        assert!(matches!(links[0].hand_in(|| Part::Total(vec![1.0])), Err(StageError::LostDevice)));
    }

    #[test]
    fn devices_that_hand_in_different_things_get_nothing() {
        let (links, serve) = links(2);
        let server = std::thread::spawn(serve);
        let parts = [Part::Total(vec![1.0]), Part::AllReduce(tensor([1.0]))];
        let pending: Vec<_> = links.iter().zip(parts).map(|(link, part)| link.hand_in(|| part).unwrap()).collect();
        assert!(pending.into_iter().all(|pending| pending.value(0..1).is_err()));
        server.join().unwrap();
    }
}
