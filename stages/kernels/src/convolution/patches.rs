//! What each pixel of a convolution's output is a product of, laid out as the rows of a matrix.

use crate::product::Window;
use crate::vectors::{EACH, Narrow, empty_like};
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use std::ops::Range;

const UNITS: u32 = 256;

/// `[rows, kernel·kernel·C]`: the patches of some pixels of the output, all images one after the other, of contiguous bf16 `[B, H, W, C]`
/// with a number of channels that vectors divide. Each pixel counts as a square of `scale` on a side.
pub(super) fn launch(x_bhwc: &CubeTensor, window: Window, scale: usize, rows: Range<usize>) -> CubeTensor {
    let Window { kernel, stride, before, output, .. } = window;
    let [height, width, channels] = [1, 2, 3].map(|dimension| x_bhwc.meta.shape()[dimension]);
    let inner = kernel * kernel * channels;
    let out = empty_like(x_bhwc, Shape::from([rows.len(), inner]), DType::BF16);
    let vectors = rows.len() * inner / EACH;
    // SAFETY: units past the last vector do nothing, and what lies beside the image is not read.
    unsafe {
        gather::launch_unchecked(
            &out.client,
            CubeCount::Static(vectors.div_ceil(UNITS as usize) as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            x_bhwc.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            vectors as u32,
            rows.start as u32,
            height as u32,
            width as u32,
            (channels / EACH) as u32,
            output[0] as u32,
            output[1] as u32,
            kernel as u32,
            stride as u32,
            before[0] as u32,
            scale as u32,
        );
    }
    out
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn gather(
    x: &[Narrow],
    out: &mut [Narrow],
    vectors: u32,
    first: u32,
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
    #[comptime] kernel: u32,
    #[comptime] stride: u32,
    #[comptime] padding: u32,
    #[comptime] scale: u32,
) {
    let position = CUBE_POS_X * UNITS + UNIT_POS;
    if position < vectors {
        let of_pixel = channels * comptime![kernel * kernel];
        let pixel = first + position / of_pixel;
        let place = position % of_pixel;
        let tap = place / channels;
        // Rows and columns in the padded image: what lies beside it is known by being too large once the padding is taken off.
        let row = pixel / out_width % out_height * stride + tap / kernel - padding;
        let column = pixel % out_width * stride + tap % kernel - padding;
        let image = pixel / out_width / out_height;
        let here = row < height * scale && column < width * scale;
        let at = ((image * height + row / scale) * width + column / scale) * channels + place % channels;
        let found = x[select(here, at, 0u32) as usize];
        out[position as usize] = select(here, found, Narrow::empty());
    }
}
