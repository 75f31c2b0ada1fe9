//! The weights of a convolution by 3×3 over an image whose pixels are repeated, for the image as it is.

use crate::vectors::{EACH, Narrow, Wide, empty_like, narrow, widen};
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

const UNITS: u32 = 256;

/// `[4·outputs, 2·2·C]` of a contiguous weight `[outputs, 3·3·C]`: for each pixel of a square that a pixel is repeated to, a weight by 2×2
/// in which taps that fall on the same pixel are added up.
pub(super) fn launch(weight: &CubeTensor) -> CubeTensor {
    let [outputs, inner] = [0, 1].map(|dimension| weight.meta.shape()[dimension]);
    let channels = inner / 9;
    let out = empty_like(weight, Shape::from([4 * outputs, 4 * channels]), DType::BF16);
    let vectors = 16 * outputs * channels / EACH;
    // SAFETY: units past the last vector do nothing.
    unsafe {
        fold::launch_unchecked(
            &out.client,
            CubeCount::Static(vectors.div_ceil(UNITS as usize) as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            weight.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            vectors as u32,
            outputs as u32,
            (channels / EACH) as u32,
        );
    }
    out
}

#[cube(launch_unchecked)]
fn fold(weight: &[Narrow], out: &mut [Narrow], vectors: u32, outputs: u32, channels: u32) {
    let position = CUBE_POS_X * UNITS + UNIT_POS;
    if position < vectors {
        let tap = position / channels;
        let output = tap / 4 % outputs;
        let (down, across) = (tap / 2 % 2, tap % 2);
        let (below, beside) = (tap / 4 / outputs / 2, tap / 4 / outputs % 2);
        let mut sum = Wide::new(0f32);
        #[unroll]
        for row in 0..3u32 {
            #[unroll]
            for column in 0..3u32 {
                let at = ((output * 3 + row) * 3 + column) * channels + position % channels;
                let here =
                    (below + row).div_ceil(2) - below == down && (beside + column).div_ceil(2) - beside == across;
                sum += select(here, widen(weight[at as usize]), Wide::new(0f32));
            }
        }
        out[position as usize] = narrow(sum);
    }
}
