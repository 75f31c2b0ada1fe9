//! What an optimizer keeps of one tensor: tensors of its own, by name.

use burn::tensor::{Device, Int, Tensor};
use std::collections::BTreeMap;

/// A flat tensor of floats or of codes.
#[derive(Clone, Debug)]
pub enum Stored {
    /// Numbers in 32 bits.
    Floats(Tensor<1>),
    /// Whole numbers in 8 bits.
    Codes(Tensor<1, Int>),
}

/// What is kept of one tensor between steps; nothing before the first.
#[derive(Clone, Debug, Default)]
pub struct Kept(BTreeMap<String, Stored>);

impl Kept {
    /// All of it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Stored)> {
        self.0.iter().map(|(name, stored)| (name.as_str(), stored))
    }

    /// Puts something by.
    pub fn insert(&mut self, name: &str, stored: Stored) {
        self.0.insert(name.to_owned(), stored);
    }

    /// The same on a device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        let moved = self.0.into_iter().map(|(name, stored)| {
            let stored = match stored {
                Stored::Floats(values) => Stored::Floats(values.to_device(device)),
                Stored::Codes(values) => Stored::Codes(values.to_device(device)),
            };
            (name, stored)
        });
        Self(moved.collect())
    }

    /// Floats, which stay.
    pub(super) fn get(&self, name: &str) -> Option<Tensor<1>> {
        match self.0.get(name) {
            Some(Stored::Floats(values)) => Some(values.clone()),
            _ => None,
        }
    }

    /// Floats, taken out so that they can be computed with in place.
    pub(super) fn take_if(&mut self, name: &str) -> Option<Tensor<1>> {
        match self.0.remove(name) {
            Some(Stored::Floats(values)) => Some(values),
            _ => None,
        }
    }

    /// Floats, taken out, or zeros as many as `like` has.
    pub(super) fn take(&mut self, name: &str, like: &Tensor<1>) -> Tensor<1> {
        self.take_if(name).unwrap_or_else(|| like.zeros_like())
    }

    pub(super) fn take_codes(&mut self, name: &str) -> Option<Tensor<1, Int>> {
        match self.0.remove(name) {
            Some(Stored::Codes(values)) => Some(values),
            _ => None,
        }
    }

    pub(super) fn put(&mut self, name: &str, values: Tensor<1>) {
        self.insert(name, Stored::Floats(values));
    }

    pub(super) fn put_codes(&mut self, name: &str, values: Tensor<1, Int>) {
        self.insert(name, Stored::Codes(values));
    }
}
