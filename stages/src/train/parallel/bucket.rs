//! Tensors that travel together.

#[cfg(feature = "cuda")]
use super::collective::STREAM;
use burn::tensor::{DType, Device, Tensor};
use std::{collections::BTreeMap, ops::Range};

/// Tensors begin at multiples of so many values, which is where GPUs can look at a part of their memory without copying it.
const ALIGNED: usize = 256;

/// Tensors of one type, in rows of equal length.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) dtype: DType,
    pub(super) device: Device,
    pub(super) rows: Vec<Vec<Place>>,
}

/// Where a tensor lies in its row.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Place {
    pub(super) fn end(&self) -> usize {
        (self.start + self.length).next_multiple_of(ALIGNED)
    }

    pub(super) fn of(&self, row: &Tensor<1>, offset: usize) -> Tensor<1> {
        row.clone().narrow(0, offset + self.start, self.length)
    }
}

impl Bucket {
    pub(super) fn width(&self) -> usize {
        self.rows.iter().filter_map(|row| row.last()).map(Place::end).max().unwrap_or_default()
    }

    /// The tensors of these rows, one row after the other.
    pub(super) fn lay_out(&self, rows: Range<usize>, tensors: &BTreeMap<String, Tensor<1>>) -> Tensor<1> {
        #[cfg(feature = "cuda")]
        if matches!(self.dtype, DType::BF16 | DType::F32) && crate::device::is_gpu(&self.device) {
            let (width, count) = (self.width(), rows.len());
            let places = self.rows[rows.clone()].iter().enumerate().flat_map(|(row, places)| {
                places
                    .iter()
                    .filter_map(move |place| Some((row * width + place.start, tensors.get(&place.name)?.clone())))
            });
            if let Some(whole) = sd3pipe_kernels::lay_out(&places.collect::<Vec<_>>(), count * width, STREAM) {
                return whole;
            }
        }
        Tensor::cat(rows.flat_map(|row| self.row(row, tensors)).collect(), 0)
    }

    /// The tensors of a row, and zeros between them and behind them.
    fn row(&self, row: usize, tensors: &BTreeMap<String, Tensor<1>>) -> Vec<Tensor<1>> {
        let mut parts = Vec::new();
        let pad = |parts: &mut Vec<Tensor<1>>, count: usize| {
            if count > 0 {
                parts.push(Tensor::zeros([count], (&self.device, self.dtype)));
            }
        };
        let mut end = 0;
        for place in &self.rows[row] {
            parts.extend(tensors.get(&place.name).cloned());
            pad(&mut parts, place.end() - place.start - place.length);
            end = place.end();
        }
        pad(&mut parts, self.width() - end);
        parts
    }
}
