//! What goes into the first block: positions, timesteps and pooled text.

use burn::tensor::activation::silu;
use burn::tensor::{DType, Tensor, TensorData};

use super::super::linear::Linear;
use super::super::weights::{Scope, WeightsError};
use crate::checkpoint::{POSITION_TABLE, TIMESTEP_FEATURES};

/// Which part of the table of positions an image takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PositionCrop {
    /// The middle, as in inference.
    #[default]
    Centre,
    /// The part that begins at this patch. `top + rows` and `left + columns` must stay inside the table.
    Offset {
        /// Rows of patches above it.
        top: usize,
        /// Columns of patches before it.
        left: usize,
    },
}

/// The learned network's table of positions; it is loaded and never trained.
#[derive(Debug, Clone)]
pub(super) struct PositionTable {
    table: Tensor<3>,
}

impl PositionTable {
    pub(super) fn new(scope: &Scope<'_>, side: usize, width: usize) -> Result<Self, WeightsError> {
        let table = scope.shaped(POSITION_TABLE, [1, side * side, width])?.reshape([side, side, width]);
        Ok(Self { table })
    }

    /// The positions of `rows` × `columns` patches, `[1, rows·columns, D]`.
    pub(super) fn crop(&self, rows: usize, columns: usize, crop: PositionCrop) -> Tensor<3> {
        let [side, _, width] = self.table.dims();
        let (top, left) = match crop {
            PositionCrop::Centre => ((side - rows) / 2, (side - columns) / 2),
            PositionCrop::Offset { top, left } => (top, left),
        };
        let part = self.table.clone().narrow(0, top, rows).narrow(1, left, columns);
        part.reshape([1, rows * columns, width])
    }
}

/// Two linear layers with a SiLU between them.
#[derive(Debug, Clone)]
pub(super) struct Embedder {
    first: Linear,
    second: Linear,
}

impl Embedder {
    pub(super) fn new(scope: &Scope<'_>, inputs: usize, width: usize) -> Result<Self, WeightsError> {
        let first = Linear::new(&scope.child("mlp.0"), inputs, width)?;
        Ok(Self { first, second: Linear::new(&scope.child("mlp.2"), width, width)? })
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.second.forward(silu(self.first.forward(x)))
    }
}

/// The sinusoid of timesteps: `[B]` to `[B, 256]` in f32, cosines first, at frequencies `10000^(-i/128)`
/// (sd-scripts' `timestep_embedding`).
pub(super) fn timestep_features(timesteps_b: Tensor<1>) -> Tensor<2> {
    const HALF: usize = TIMESTEP_FEATURES / 2;
    // Rounded to f32 at each step, as in the code that the models were trained with.
    let step = -libm::log(10000.0) as f32;
    let frequencies = (0..HALF).map(|i| libm::exp(f64::from(step * i as f32 / HALF as f32)) as f32).collect::<Vec<_>>();
    let device = timesteps_b.device();
    let frequencies = Tensor::<2>::from_data(TensorData::new(frequencies, [1, HALF]), (&device, DType::F32));
    let angles = turn_once(timesteps_b.cast(DType::F32).unsqueeze_dim::<2>(1) * frequencies);
    Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1)
}

/// Takes whole turns off angles up to some thousands: GPUs' fast sines are only good within a turn.
///
/// 2π is taken as 6.28125, of which 10 bits are set so that its multiples are exact, and a small rest.
fn turn_once(angles: Tensor<2>) -> Tensor<2> {
    const COARSE: f64 = 6.28125;
    const REST: f64 = std::f64::consts::TAU - COARSE;
    let turns = (angles.clone() * (1.0 / std::f64::consts::TAU)).round();
    angles - turns.clone() * COARSE - turns * REST
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_sinusoid_is_right_over_all_timesteps() {
        let timesteps = [0.0, 0.5, 1.0, 3.0, 250.5, 999.0, 1000.0f32];
        let input = Tensor::<1>::from_data(timesteps, (&Device::flex(), DType::F32));
        let features = timestep_features(input).into_data();
        for (row, t) in features.as_slice::<f32>().unwrap().chunks(256).zip(timesteps) {
            for i in [0, 1, 17, 64, 127] {
                let angle = f64::from(t) * 10000f64.powf(-(i as f64) / 128.0);
                // Frequencies are off by f32's rounding, up to 2e-5 radians at t = 1000.
                assert!((f64::from(row[i]) - angle.cos()).abs() < 5e-5, "cos at {t}, {i}");
                assert!((f64::from(row[128 + i]) - angle.sin()).abs() < 5e-5, "sin at {t}, {i}");
            }
        }
    }
}
