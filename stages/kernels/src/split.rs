//! Parts of a tensor whose gradients are put side by side, in one pass: by burn's slices each is put into zeros, and these are added up.

use crate::vectors::register;
use burn::backend::{
    Autodiff, Backend, Dispatch, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    backend_extension,
    tensor::FloatTensor,
};
use burn::tensor::{DType, Shape, Slice, Tensor};
use burn_cubecl::CubeBackend;
use std::{
    any::Any,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Parts of so many places along a dimension, one after the other, which together are the whole.
pub fn split<const D: usize, const N: usize>(x: Tensor<D>, dimension: usize, lengths: [usize; N]) -> [Tensor<D>; N] {
    let mut end = 0;
    let ranges = lengths.map(|length| {
        end += length;
        end - length..end
    });
    let parts = Parts { dimension, ranges: ranges.to_vec(), gradients: Arc::default() };
    let whole = Dispatch::split_whole(x.into_dispatch(), parts.clone());
    std::array::from_fn(|index| Tensor::from_dispatch(Dispatch::split_part(whole.clone(), parts.clone(), index)))
}

/// Where the parts of a tensor lie, and the gradients of those that have been on the way back.
#[derive(Clone, Debug)]
pub struct Parts {
    dimension: usize,
    ranges: Vec<Range<usize>>,
    gradients: Arc<Mutex<Vec<Found>>>,
}

/// The index of a part, and its gradient: a tensor of the backend.
type Found = (usize, Box<dyn Any + Send>);

/// Backends that have the operation, which is two, because none of burn's has two outputs.
#[backend_extension(Cube, Autodiff, Fusion)]
pub trait SplitBackend: Backend {
    /// What parts are taken of, as it is.
    #[fusion(default)]
    fn split_whole(x: FloatTensor<Self>, _parts: Parts) -> FloatTensor<Self> {
        x
    }

    /// One of the parts of what came out of [`split_whole`](Self::split_whole).
    #[fusion(default)]
    fn split_part(x: FloatTensor<Self>, parts: Parts, index: usize) -> FloatTensor<Self> {
        let mut slices = vec![Slice::full(); x.shape().num_dims()];
        slices[parts.dimension] = parts.ranges[index].clone().into();
        Self::float_slice(x, &slices)
    }
}

impl SplitBackend for CubeBackend {}

#[derive(Debug)]
struct Part;

impl<B: Backend> Backward<B, 1> for Part {
    type State = (Parts, usize);

    /// The gradient waits for those of the other parts.
    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (parts, index) = ops.state;
        let gradient: Box<dyn Any + Send> = Box::new(gradients.consume::<B>(&ops.node));
        parts.gradients.lock().unwrap_or_else(PoisonError::into_inner).push((index, gradient));
    }
}

#[derive(Debug)]
struct Whole;

impl<B: Backend> Backward<B, 1> for Whole {
    type State = (Parts, Shape, B::Device, DType);

    /// It comes after all parts, because they are made of it. What nobody used has a gradient of zero.
    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (Parts { dimension, ranges, gradients: found }, shape, device, dtype) = ops.state;
        let mut found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        let of_part = |(index, range): (usize, Range<usize>)| {
            let place = found.iter().position(|(part, _)| *part == index);
            let gradient = place.and_then(|place| found.swap_remove(place).1.downcast::<FloatTensor<B>>().ok());
            gradient.map(|gradient| *gradient).unwrap_or_else(|| {
                let mut shape = shape.clone();
                shape[dimension] = range.len();
                B::float_zeros(shape, &device, dtype.into())
            })
        };
        let whole = B::float_cat(ranges.into_iter().enumerate().map(of_part).collect(), dimension);
        register::<B, 1>(gradients, ops.parents.map(|parent| parent.map(|parent| parent.id)), [whole]);
    }
}

impl<B: SplitBackend, C: CheckpointStrategy> SplitBackend for Autodiff<B, C> {
    fn split_whole(x: FloatTensor<Self>, parts: Parts) -> FloatTensor<Self> {
        let prepared = Whole.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((parts, x.shape(), x.device(), x.dtype()), x),
            OpsKind::UnTracked(prepared) => prepared.finish(x),
        }
    }

    fn split_part(x: FloatTensor<Self>, parts: Parts, index: usize) -> FloatTensor<Self> {
        let prepared = Part.prepare::<C>([x.node()]).compute_bound().stateful();
        let part = B::split_part(x.into_primitive(), parts.clone(), index);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((parts, index), part),
            OpsKind::UnTracked(prepared) => prepared.finish(part),
        }
    }
}
