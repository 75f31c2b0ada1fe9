//! What each pixel of a convolution's output is a product of, laid out as the rows of a matrix.

use crate::vectors::{EACH, Narrow, empty_like};
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

const UNITS: u32 = 256;

/// How a convolution goes over an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Rows and columns of the weight.
    pub(super) kernel: usize,
    /// Pixels from one place to the next.
    pub(super) stride: usize,
    /// Zeros on all sides.
    pub(super) padding: usize,
    /// Rows and columns of the output.
    pub(super) output: [usize; 2],
}

/// `[count, kernel·kernel·C]`: the patches of `count` pixels of the output from pixel `first` on, all images one after the other, of
/// contiguous bf16 `[B, H, W, C]` with a number of channels that vectors divide.
pub(super) fn launch(x_bhwc: &CubeTensor, walk: Walk, first: usize, count: usize) -> CubeTensor {
    let [height, width, channels] = [1, 2, 3].map(|dimension| x_bhwc.meta.shape()[dimension]);
    let inner = walk.kernel * walk.kernel * channels;
    let out = empty_like(x_bhwc, Shape::from([count, inner]), DType::BF16);
    let vectors = count * inner / EACH;
    // SAFETY: units past the last vector do nothing, and what lies beside the image is not read.
    unsafe {
        gather::launch_unchecked(
            &out.client,
            CubeCount::Static(vectors.div_ceil(UNITS as usize) as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            x_bhwc.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            vectors as u32,
            first as u32,
            height as u32,
            width as u32,
            (channels / EACH) as u32,
            walk.output[0] as u32,
            walk.output[1] as u32,
            walk.kernel as u32,
            walk.stride as u32,
            walk.padding as u32,
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
        let here = row < height && column < width;
        let at = ((image * height + row) * width + column) * channels + place % channels;
        let found = x[select(here, at, 0u32) as usize];
        out[position as usize] = select(here, found, Narrow::empty());
    }
}
