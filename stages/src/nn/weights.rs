//! A network's tensors by the checkpoint's own names, and the scopes by which networks pick them up.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use burn::tensor::{DType, Device, Tensor};

use crate::checkpoint::GeometryError;

/// Why a network can't be built from its weights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// A tensor is not there.
    #[error("the weights have no {name}; use the model's original single file")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor is there with another shape.
    #[error("{name} has shape {found:?}, expected {expected:?}; use the model's original single file")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the network's geometry asks for.
        expected: Vec<usize>,
    },
    /// A tensor is there with another number of dimensions.
    #[error("{name} has shape {found:?}, expected {expected} dimensions; use the model's original single file")]
    Rank {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// How many dimensions the network asks for.
        expected: usize,
    },
    /// The sizes contradict each other.
    #[error("the network's sizes don't fit: {reason}; use the model's original single file")]
    Sizes {
        /// What doesn't fit.
        reason: String,
    },
    /// No geometry follows from the shapes.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

/// One tensor of a network, kept flat so that all of them are of one type.
#[derive(Debug, Clone)]
pub struct Weight {
    /// The values, row-major in `shape`.
    pub values: Tensor<1>,
    /// The dimensions in the checkpoint's own layout: `[out, in]` for a linear layer, `[out, in, rows, columns]` for a
    /// convolution.
    pub shape: Vec<usize>,
}

impl Weight {
    /// The same on a device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        Self { values: self.values.to_device(device), shape: self.shape }
    }
}

/// The tensors of one network under the checkpoint's own names, in sorted order.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Weight>,
}

impl Weights {
    /// One tensor, by its name.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.tensors.get(name)
    }

    /// Adds a tensor, or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, weight: Weight) {
        self.tensors.insert(name.into(), weight);
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<Weight> {
        self.tensors.remove(name)
    }

    /// All tensors with their names, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.tensors.iter().map(|(name, weight)| (name.as_str(), weight))
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The same tensors with other values of the same length, such as a cast, or copies that track gradients.
    #[must_use]
    pub fn map(&self, mut values: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        let tensors = self.tensors.iter().map(|(name, weight)| {
            let mapped = Weight { values: values(name, weight.values.clone()), shape: weight.shape.clone() };
            (name.clone(), mapped)
        });
        Self { tensors: tensors.collect() }
    }

    /// These tensors and others; of those with the same name, the others.
    #[must_use]
    pub fn with(&self, others: &Self) -> Self {
        let both = self.tensors.iter().chain(&others.tensors);
        both.map(|(name, weight)| (name.clone(), weight.clone())).collect()
    }

    /// The view from which a network is built.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new(), read: Rc::default() }
    }
}

impl FromIterator<(String, Weight)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, Weight)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect() }
    }
}

/// The weights below a prefix. All scopes of one root share the account of what has been read.
#[derive(Debug, Clone)]
pub struct Scope<'w> {
    weights: &'w Weights,
    prefix: String,
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl Scope<'_> {
    /// The scope one name further down: `child("attn")` reads `attn.qkv.weight` as `qkv.weight`.
    #[must_use]
    pub fn child(&self, name: impl std::fmt::Display) -> Self {
        Self { weights: self.weights, prefix: format!("{}{name}.", self.prefix), read: Rc::clone(&self.read) }
    }

    /// A tensor of any size.
    ///
    /// # Errors
    /// When it is missing or doesn't have `D` dimensions.
    pub fn tensor<const D: usize>(&self, name: &str) -> Result<Tensor<D>, WeightsError> {
        self.optional(name)?.ok_or_else(|| WeightsError::Missing { name: self.full(name) })
    }

    /// A tensor of exactly this shape.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn shaped<const D: usize>(&self, name: &str, expected: [usize; D]) -> Result<Tensor<D>, WeightsError> {
        match self.shape(name) {
            Some(found) if found != expected => {
                Err(WeightsError::Shape { name: self.full(name), found: found.to_vec(), expected: expected.to_vec() })
            }
            _ => self.tensor(name),
        }
    }

    /// A tensor of any size, or nothing when it is missing.
    ///
    /// # Errors
    /// When it doesn't have `D` dimensions.
    pub fn optional<const D: usize>(&self, name: &str) -> Result<Option<Tensor<D>>, WeightsError> {
        let name = self.full(name);
        let Some(weight) = self.weights.get(&name) else { return Ok(None) };
        let Ok(shape) = <[usize; D]>::try_from(weight.shape.as_slice()) else {
            return Err(WeightsError::Rank { name, found: weight.shape.clone(), expected: D });
        };
        self.read.borrow_mut().insert(name);
        Ok(Some(weight.values.clone().reshape(shape)))
    }

    /// The shape of a tensor; this doesn't count as reading it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.weights.get(&self.full(name)).map(|weight| weight.shape.as_slice())
    }

    /// The shape of a tensor that must be there, with exactly `D` dimensions.
    ///
    /// # Errors
    /// When it is missing or has another number of dimensions.
    pub fn dims<const D: usize>(&self, name: &str) -> Result<[usize; D], WeightsError> {
        let found = self.shape(name).ok_or_else(|| WeightsError::Missing { name: self.full(name) })?;
        let rank = |_| WeightsError::Rank { name: self.full(name), found: found.to_vec(), expected: D };
        found.try_into().map_err(rank)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// How many of `name(0)`, `name(1)`, ... there are without a gap.
    pub fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&index| self.has(&name(index))).count()
    }

    /// The names below this scope that no scope of the same root has read yet, sorted.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let unread = self.weights.names().filter(|name| name.starts_with(&self.prefix) && !read.contains(*name));
        unread.map(str::to_owned).collect()
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Where a tensor lives and in which type it computes.
pub(super) fn place<const D: usize>(tensor: &Tensor<D>) -> (Device, DType) {
    (tensor.device(), tensor.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights() -> Weights {
        let device = Device::flex();
        [("a.x", vec![2, 3]), ("a.y", vec![4]), ("b", vec![1])]
            .into_iter()
            .map(|(name, shape)| {
                let values = Tensor::ones([shape.iter().product::<usize>()], (&device, DType::F32));
                (name.to_owned(), Weight { values, shape })
            })
            .collect()
    }

    #[test]
    fn a_scope_reads_below_its_prefix_and_knows_what_was_not_read() {
        let weights = weights();
        let root = weights.root();
        let child = root.child("a");
        assert_eq!(child.tensor::<2>("x").unwrap().dims(), [2, 3]);
        assert_eq!(root.unread(), ["a.y", "b"]);
        assert_eq!(child.unread(), ["a.y"]);
    }

    #[test]
    fn missing_and_misshapen_tensors_are_told_apart() {
        let weights = weights();
        let scope = weights.root().child("a");
        assert!(matches!(scope.tensor::<1>("z"), Err(WeightsError::Missing { name }) if name == "a.z"));
        assert!(matches!(scope.tensor::<1>("x"), Err(WeightsError::Rank { expected: 1, .. })));
        assert!(matches!(scope.shaped("x", [3, 2]), Err(WeightsError::Shape { .. })));
        assert!(scope.optional::<1>("z").unwrap().is_none());
    }

    #[test]
    fn gradients_arrive_under_their_names() {
        let tracked = weights().map(|_, values| values.autodiff().require_grad());
        let product = tracked.root().tensor::<2>("a.x").unwrap() * 3.0;
        let gradients = product.sum().backward();
        let gradient = tracked.get("a.x").unwrap().values.grad(&gradients).unwrap();
        assert_eq!(gradient.into_data().as_slice::<f32>().unwrap(), [3.0; 6]);
        assert!(tracked.get("b").unwrap().values.grad(&gradients).is_none());
    }
}
