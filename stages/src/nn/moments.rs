//! What the values of images are like, channel by channel, found strip by strip.

use burn::tensor::{DType, Tensor, TensorData};

/// Of each channel of some pixels its mean, and the sum of the squares of what its values are apart from that: `[B, C]` in f32.
#[derive(Clone, Debug)]
pub struct Moments {
    /// How many pixels of each image they are.
    pub pixels: usize,
    /// The mean.
    pub mean_bc: Tensor<2>,
    /// The sum of squares.
    pub spread_bc: Tensor<2>,
}

impl Moments {
    /// Those of `[B, C, H, W]`.
    pub fn of(x_bchw: Tensor<4>) -> Self {
        let [batch, channels, rows, columns] = x_bchw.dims();
        #[cfg(feature = "cuda")]
        if sd3pipe_kernels::takes_groups(x_bchw.dtype(), channels) && crate::device::is_gpu(&x_bchw.device()) {
            let (pixels, moments) = sd3pipe_kernels::channel_moments(x_bchw);
            let [means, spreads] = [0, 1].map(|which| moments.clone().narrow(0, which, 1).squeeze_dim::<3>(0));
            return Self::together(&pixels, means, spreads);
        }
        let x_bcn = x_bchw.cast(DType::F32).reshape([batch, channels, rows * columns]);
        let mean = x_bcn.clone().mean_dim(2);
        let spread = (x_bcn - mean.clone()).square().sum_dim(2);
        Self { pixels: rows * columns, mean_bc: mean.squeeze_dim(2), spread_bc: spread.squeeze_dim(2) }
    }

    /// Those of the pixels of all parts, of which there is one at least.
    pub fn total(parts: Vec<Self>) -> Self {
        let pixels: Vec<usize> = parts.iter().map(|part| part.pixels).collect();
        let (means, spreads) = parts.into_iter().map(|part| (part.mean_bc, part.spread_bc)).unzip();
        Self::together(&pixels, Tensor::stack(means, 1), Tensor::stack(spreads, 1))
    }

    /// Those of all pixels, of what they are in parts of so many pixels: `[B, parts, C]`. Chan, Golub and LeVeque, "Updating formulae and a
    /// pairwise algorithm for computing sample variances".
    fn together(pixels: &[usize], means_bpc: Tensor<3>, spreads_bpc: Tensor<3>) -> Self {
        let total: usize = pixels.iter().sum();
        let counts: Vec<f32> = pixels.iter().map(|count| *count as f32).collect();
        let counts = TensorData::new(counts, [1, pixels.len(), 1]);
        let counts = Tensor::<3>::from_data(counts, (&means_bpc.device(), DType::F32));
        // From the first part's mean, so that values far from zero lose nothing.
        let origin = means_bpc.clone().narrow(1, 0, 1);
        let apart = means_bpc - origin.clone();
        let mean = (apart.clone() * counts.clone()).sum_dim(1).div_scalar(total as f64);
        let spread = (spreads_bpc + (apart - mean.clone()).square() * counts).sum_dim(1);
        Self { pixels: total, mean_bc: (origin + mean).squeeze_dim(1), spread_bc: spread.squeeze_dim(1) }
    }
}
