//! What the tiles of a product's operands are brought from.

use super::tiling::{DEPTH, Tiling};
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use cubecl::wgmma::Major;
use half::bf16;

/// How patches lie in an image.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Patches {
    /// Patches of an image.
    pub(super) down: u32,
    pub(super) across: u32,
    /// Pixels from one to the next.
    pub(super) stride: u32,
    /// Pixels from an image's first corner back to that of its first patch.
    pub(super) above: u32,
    pub(super) beside: u32,
}

/// What the left matrix is in memory.
#[cube]
pub(super) trait Left: TensorMapKind {
    /// Where a row of the matrix lies.
    fn place(row: u32, patches: &Patches) -> (i32, i32, i32);

    /// Brings a tile into shared memory, from a row at this place on and from a column of a piece on. Patches have `kernel` pixels
    /// on a side.
    #[allow(clippy::too_many_arguments, reason = "kernels know few structs")]
    fn bring(
        barrier: &Barrier,
        source: &TensorMap<bf16, Self>,
        stage: &mut [Vector<bf16, Const<2>>],
        place: (i32, i32, i32),
        piece: u32,
        column: u32,
        #[comptime] tiling: Tiling,
        #[comptime] kernel: u32,
    );
}

/// A matrix, whose rows are one piece.
#[cube]
impl Left for Tiled {
    fn place(row: u32, _patches: &Patches) -> (i32, i32, i32) {
        (row as i32, 0i32, 0i32)
    }

    fn bring(
        barrier: &Barrier,
        source: &TensorMap<bf16, Self>,
        stage: &mut [Vector<bf16, Const<2>>],
        place: (i32, i32, i32),
        _piece: u32,
        column: u32,
        #[comptime] tiling: Tiling,
        #[comptime] _kernel: u32,
    ) {
        bring(barrier, source, stage, place.0 as u32, column, tiling.left, comptime![tiling.rows()], 2usize);
    }
}

/// An image: a row is a patch, one pixel after the other and one image after the other, and a piece is a pixel of the patch.
#[cube]
impl Left for Im2col {
    fn place(row: u32, patches: &Patches) -> (i32, i32, i32) {
        let line = row / patches.across;
        let down = line % patches.down * patches.stride;
        let across = row % patches.across * patches.stride;
        ((line / patches.down) as i32, down as i32 - patches.above as i32, across as i32 - patches.beside as i32)
    }

    fn bring(
        barrier: &Barrier,
        source: &TensorMap<bf16, Self>,
        stage: &mut [Vector<bf16, Const<2>>],
        place: (i32, i32, i32),
        piece: u32,
        column: u32,
        #[comptime] _tiling: Tiling,
        #[comptime] kernel: u32,
    ) {
        let (image, down, across) = place;
        let (below, beside) = ((piece / kernel) as u16, (piece % kernel) as u16);
        barrier.tma_load_im2col_4d(source, stage, image, down, across, column as i32, below, beside);
    }
}

/// Brings a tile into shared memory: its first row (or column) is `at` and its first summed index is `depth`.
#[cube]
pub(super) fn bring<E: CubePrimitive<Scalar = bf16>>(
    barrier: &Barrier,
    source: &TensorMap<bf16, Tiled>,
    stage: &mut [E],
    at: u32,
    depth: u32,
    #[comptime] major: Major,
    #[comptime] extent: usize,
    #[comptime] pack: usize,
) {
    if comptime![major == Major::K] {
        barrier.tma_load_2d(source, stage, at as i32, depth as i32);
    } else {
        #[unroll]
        for panel in 0..comptime![extent / DEPTH] {
            let start = comptime![panel * DEPTH * DEPTH / pack];
            let end = comptime![(panel + 1) * DEPTH * DEPTH / pack];
            barrier.tma_load_2d(
                source,
                &mut stage[start..end],
                depth as i32,
                (at + comptime![(panel * DEPTH) as u32]) as i32,
            );
        }
    }
}
