//! The norm of all gradients.

use crate::{
    error::StageError,
    train::{parallel::Rank, state::State},
};
use burn::tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// The squares of gradients.
#[derive(Clone, Debug, Default)]
pub(super) struct Squares {
    /// The sum of each gradient's, `[1]`.
    sums: BTreeMap<String, Tensor<1>>,
    /// On a GPU a row for each, in which the sum is in parts, and how many of them there are.
    #[cfg(feature = "cuda")]
    rows: Option<(Tensor<2>, usize)>,
}

impl Squares {
    /// Adds those of gradients of the state's weights, each by its name, or of several by the name of one of them.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "only GPUs have rows"))]
    pub(super) fn add<'g>(&mut self, state: &State, gradients: impl IntoIterator<Item = (&'g String, &'g Tensor<1>)>) {
        for (name, gradient) in gradients {
            #[cfg(feature = "cuda")]
            if crate::device::is_gpu(&gradient.device()) {
                use sd3pipe_kernels::{PARTS, square_sums};
                let (device, count) = (gradient.device(), state.weights.len());
                let (rows, filled) =
                    self.rows.take().unwrap_or_else(|| (Tensor::zeros([count, PARTS], (&device, DType::F32)), 0));
                self.rows = Some((square_sums(gradient.clone(), rows, filled), filled + 1));
                continue;
            }
            let gradient = gradient.clone().cast(DType::F32);
            self.sums.insert(name.to_owned(), (gradient.clone() * gradient).sum());
        }
    }

    /// The L2 norm of all gradients together, of all devices, `[1]`, left on the device. The squares are added up in the order of the
    /// names, on a GPU in the order that they came in.
    ///
    /// # Errors
    /// When another device has failed.
    pub(super) fn norm(self, rank: &Rank) -> Result<Option<Tensor<1>>, StageError> {
        let own = self.sums.into_values().reduce(|total, square| total + square);
        #[cfg(feature = "cuda")]
        let own = self.rows.map(|(rows, _)| rows.sum()).or(own);
        Ok(rank.sum(own)?.map(Tensor::sqrt))
    }
}
