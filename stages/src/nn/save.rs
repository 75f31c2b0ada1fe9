//! Tensors of a device as a file on the host.

use super::{Weight, to_host};
use crate::{error::StageError, precision::Precision, tensors};
use safetensors::{Dtype, View};
use std::{borrow::Cow, collections::BTreeMap, path::Path};

/// Writes weights as safetensors of this precision, one at a time: no more than one of them is on the host at once.
pub fn save(
    weights: impl Iterator<Item = (String, Weight)>,
    precision: Precision,
    note: Option<(&str, String)>,
    path: &Path,
) -> Result<(), StageError> {
    let tensors = weights.map(|(name, weight)| (name, OnDevice { weight, precision })).collect();
    let notes: BTreeMap<_, _> = note.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    tensors::write_file(path, tensors, &notes)
}

struct OnDevice {
    weight: Weight,
    precision: Precision,
}

impl View for OnDevice {
    fn dtype(&self) -> Dtype {
        self.precision.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.weight.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.precision.encode(&to_host(self.weight.values.clone())).into()
    }

    fn data_len(&self) -> usize {
        self.weight.shape.iter().product::<usize>() * self.precision.bytes()
    }
}
