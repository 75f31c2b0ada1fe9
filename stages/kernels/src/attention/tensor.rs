//! What both passes of attention have in common: heads of 64 features, and how they lie in memory.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::wgmma::{Major, Swizzle, WgmmaTileLayout};
use cubecl::zspace::metadata::Metadata;
use half::bf16;

/// Features of a head.
pub(super) const WIDTH: usize = 64;
/// Rows that a warpgroup multiplies.
pub(super) const GROUP_ROWS: usize = 64;
/// Units of a warpgroup.
pub(super) const GROUP_UNITS: u32 = 128;

/// `[B, S, parts·heads·E]`, for the copy engine to bring `rows` tokens of a head at a time: coordinates are batch, part·heads + head,
/// token, feature.
pub(super) fn map(mut tensor: CubeTensor, heads: usize, parts: usize, rows: usize) -> TensorMapArg<Tiled> {
    let [batch, tokens] = [0, 1].map(|dimension| tensor.meta.shape()[dimension]);
    let heads = parts * heads;
    *tensor.meta = Metadata::new([batch, heads, tokens, WIDTH], [tokens * heads * WIDTH, WIDTH, heads * WIDTH, 1]);
    let boxes = TiledArgs { tile_size: cubecl::zspace::shape![1, 1, rows, WIDTH] };
    TensorMapArg::new(boxes, tensor.into_tensor_arg(), bf16::elem_type_native()).with_swizzle(Swizzle::B128.into())
}

/// A tile in shared memory.
pub(super) fn tile(major: Major, rows: usize, k: usize) -> WgmmaTileLayout {
    WgmmaTileLayout { major, swizzle: Swizzle::B128, rows, k }
}
