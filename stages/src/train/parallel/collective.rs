//! What the devices of a training do together, and the thread that has them do it.
//!
//! That thread has a stream of its own on every device, so that each goes on computing while its gradients are on their way.

use crate::error::StageError;
use burn::tensor::{Tensor, distributed::ReduceOperation};
use std::sync::mpsc::{Receiver, Sender, channel};

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
pub(super) struct Link(Sender<Call>);

/// What is on its way.
#[derive(Debug)]
pub(super) struct Pending(Receiver<Whole>);

impl Link {
    /// # Errors
    /// When another device has left.
    pub(super) fn hand_in(&self, part: Part) -> Result<Pending, StageError> {
        let (reply, pending) = channel();
        self.0.send(Call { part, reply }).map_err(|_| StageError::LostDevice)?;
        Ok(Pending(pending))
    }
}

impl Pending {
    /// # Errors
    /// When another device has left.
    pub(super) fn values(self) -> Result<Tensor<1>, StageError> {
        match self.0.recv() {
            Ok(Whole::Values(values)) => Ok(*values),
            _ => Err(StageError::LostDevice),
        }
    }

    /// # Errors
    /// When another device has left.
    pub(super) fn numbers(self) -> Result<Vec<f64>, StageError> {
        match self.0.recv() {
            Ok(Whole::Numbers(numbers)) => Ok(numbers),
            _ => Err(StageError::LostDevice),
        }
    }
}

/// The links of so many devices, and what serves them until one of them leaves; it wants a thread of its own.
pub(super) fn links(devices: usize) -> (Vec<Link>, impl FnOnce() + Send + use<>) {
    let (links, calls): (Vec<_>, Vec<_>) = (0..devices).map(|_| channel()).unzip();
    (links.into_iter().map(Link).collect(), move || while serve(&calls).is_some() {})
}

/// Carries out what all hand in next. Nothing when one has left, or they are not of one mind.
fn serve(calls: &[Receiver<Call>]) -> Option<()> {
    let calls: Vec<Call> = calls.iter().map(|calls| calls.recv().ok()).collect::<Option<_>>()?;
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
    for (reply, whole) in replies.into_iter().zip(wholes) {
        // One that has left since is noticed at the next call.
        let _ = reply.send(whole);
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

    /// What each of two devices gets for its part.
    fn both(parts: [Part; 2]) -> Vec<Vec<f32>> {
        let (links, serve) = links(2);
        let server = std::thread::spawn(serve);
        let pending: Vec<Pending> = links.iter().zip(parts).map(|(link, part)| link.hand_in(part).unwrap()).collect();
        let found = pending.into_iter().map(|pending| to_host(pending.values().unwrap())).collect();
        drop(links);
        server.join().unwrap();
        found
    }

    #[test]
    fn sums_are_scattered_and_parts_are_gathered() {
        let scattered =
            [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]].map(|values| Part::ReduceScatter(tensor(values)));
        assert_eq!(both(scattered), [[11.0, 22.0], [33.0, 44.0]]);
        assert_eq!(both([[1.0], [2.0]].map(|values| Part::AllGather(tensor(values)))), [[1.0, 2.0]; 2]);
        assert_eq!(both([[1.0], [2.0]].map(|values| Part::AllReduce(tensor(values)))), [[3.0]; 2]);
    }

    #[test]
    fn whoever_waits_for_a_device_that_has_left_is_told() {
        let (mut links, serve) = links(2);
        let server = std::thread::spawn(serve);
        let waiting = links[0].hand_in(Part::Total(vec![1.0])).unwrap();
        links.pop();
        assert!(matches!(waiting.numbers(), Err(StageError::LostDevice)));
        server.join().unwrap();
        assert!(matches!(links[0].hand_in(Part::Total(vec![1.0])), Err(StageError::LostDevice)));
    }

    #[test]
    fn devices_that_hand_in_different_things_get_nothing() {
        let (links, serve) = links(2);
        let server = std::thread::spawn(serve);
        let parts = [Part::Total(vec![1.0]), Part::AllReduce(tensor([1.0]))];
        let pending: Vec<Pending> = links.iter().zip(parts).map(|(link, part)| link.hand_in(part).unwrap()).collect();
        assert!(pending.into_iter().all(|pending| pending.values().is_err()));
        server.join().unwrap();
    }
}
