//! The matrix product of bf16 matrices by Hopper's warpgroup instructions, summed in f32.
//!
//! One unit has the copy engine bring tiles of both operands into a ring of stages in shared memory; the warpgroups of the cube
//! multiply what has arrived. An operand may lie in memory either way: along the dimension that is summed, or across it.

use super::left::{Left, Patches, PatchesLaunch, bring};
use super::tiling::{DEPTH, GROUP_ROWS, Tiling, sides};
use super::{Across, Window};
use crate::vectors::{Narrow, empty_like};
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use cubecl::wgmma::{Accumulator, Major, MatrixDescriptor, Swizzle, WgmmaTileLayout};
use half::bf16;

const BYTES: usize = 2;
const GROUP_UNITS: u32 = 128;
/// Tiles down that neighbouring cubes take before they go on to the next columns, so that both operands stay in the L2 cache.
const STRIP: u32 = 8;

impl Tiling {
    fn left_tile(&self) -> WgmmaTileLayout {
        WgmmaTileLayout { major: self.left, swizzle: Swizzle::B128, rows: self.rows(), k: DEPTH }
    }

    fn right_tile(&self) -> WgmmaTileLayout {
        WgmmaTileLayout { major: self.right, swizzle: Swizzle::B128, rows: self.columns, k: DEPTH }
    }

    fn left_elements(&self) -> usize {
        self.rows() * DEPTH
    }

    fn right_elements(&self) -> usize {
        self.columns * DEPTH
    }

    fn stage_bytes(&self) -> usize {
        (self.left_elements() + self.right_elements()) * BYTES
    }
}

/// What a kernel does beside the product of two matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Beside {
    /// Pixels on a side of the patches that the left matrix has.
    kernel: u32,
    biased: bool,
    adds: bool,
    /// Rows are pixels of images whose lines, and pixels in a line, are twice as far from each other as they would be.
    spreads: bool,
}

/// Puts the kernel in the queue. The matrices are bf16, contiguous, and as [`Tiling::of`] wants them; a bias, of bf16 too, is added to
/// each row of the result before it is rounded, and so is another matrix like it.
pub(super) fn launch(
    left: CubeTensor,
    right: CubeTensor,
    bias: Option<CubeTensor>,
    onto: Option<CubeTensor>,
    across: Across,
    tiling: Tiling,
) -> CubeTensor {
    let ([rows, depth], [columns, _]) = (sides(&left, across.left), sides(&right, across.right));
    let left = tiled(left, loaded(tiling.left, tiling.rows()));
    let out = empty_like(&right, Shape::from([rows, columns]), DType::BF16);
    put(left, right, [bias, onto], out.clone(), [rows, columns, 1, depth], Window::default(), tiling);
    out
}

/// The same with the patches of an image `[B, H, W, C]` as the left matrix, each `kernel·kernel·C` long. The result has a row for each
/// patch, or, where the window has a corner, for each pixel of an image twice as large, of which every fourth is written.
pub(super) fn launch_patches(
    image: CubeTensor,
    right: CubeTensor,
    added: [Option<CubeTensor>; 2],
    out: CubeTensor,
    window: Window,
    tiling: Tiling,
) {
    let [batch, height, width, channels] = [0, 1, 2, 3].map(|dimension| image.meta.shape()[dimension]);
    let [down, across] = window.output;
    let sizes = [batch * down * across, right.meta.shape()[0], window.kernel * window.kernel, channels];
    // How far the window's first corner goes, from the image's first pixel and from its last.
    let first = window.before.map(|pixels| -(pixels as i32));
    let last = |places: usize, side: usize, first: i32| ((places - 1) * window.stride) as i32 + first + 1 - side as i32;
    let boxes = Im2colArgs {
        pixel_box_lower_corner: first.to_vec(),
        pixel_box_upper_corner: vec![last(down, height, first[0]), last(across, width, first[1])],
        channels_per_pixel: DEPTH as u32,
        pixels_per_column: tiling.rows() as u32,
    };
    let image = TensorMapArg::<Im2col>::new(boxes, image.into_tensor_arg(), bf16::elem_type_native())
        .with_elem_stride(cubecl::zspace::strides![1, window.stride, window.stride, 1])
        .with_swizzle(Swizzle::B128.into());
    put(image, right, added, out, sizes, window, tiling);
}

/// A matrix that is read or written in tiles of this height and width.
fn tiled(matrix: CubeTensor, [height, width]: [usize; 2]) -> TensorMapArg<Tiled> {
    let boxes = TiledArgs { tile_size: cubecl::zspace::shape![height, width] };
    TensorMapArg::new(boxes, matrix.into_tensor_arg(), bf16::elem_type_native()).with_swizzle(Swizzle::B128.into())
}

fn loaded(major: Major, extent: usize) -> [usize; 2] {
    match major {
        Major::K => [extent, DEPTH],
        Major::MN => [DEPTH, DEPTH],
    }
}

/// A row of the left matrix is so many `pieces`, one after the other, of so many columns.
fn put<L: Left>(
    left: TensorMapArg<L>,
    right: CubeTensor,
    added: [Option<CubeTensor>; 2],
    out: CubeTensor,
    [rows, columns, pieces, piece]: [usize; 4],
    window: Window,
    tiling: Tiling,
) {
    let tiles = rows.div_ceil(tiling.rows()) * columns.div_ceil(tiling.columns);
    let [biased, adds] = [0, 1].map(|index| added[index].is_some());
    let beside = Beside { kernel: window.kernel as u32, biased, adds, spreads: window.corner.is_some() };
    let [bias, onto] = added.map(|tensor| tensor.unwrap_or_else(|| right.clone()));
    let [down, across, stride] = [window.output[0], window.output[1], window.stride].map(|count| count as u32);
    let patches = PatchesLaunch::new(down, across, stride, window.before[0] as u32, window.before[1] as u32);
    // SAFETY: the copy engine clips what it reads and writes to the tensors; of what is added nothing past its end is read, and past the
    // end of a spread result nothing is written.
    unsafe {
        multiply::launch_unchecked::<L>(
            &out.client.clone(),
            CubeCount::Static(tiles as u32, 1, 1),
            CubeDim::new_1d(tiling.groups as u32 * GROUP_UNITS + 32),
            left,
            tiled(right, loaded(tiling.right, tiling.columns)),
            tiled(out.clone(), [tiling.rows(), DEPTH]),
            out.into_buffer_arg(),
            bias.into_buffer_arg(),
            onto.into_buffer_arg(),
            rows as u32,
            columns as u32,
            pieces as u32,
            piece as u32,
            patches,
            window.corner.unwrap_or_default() as u32,
            tiling,
            beside,
        );
    }
}

/// `out = left · right`, `rows × columns`, and the bias, and what it is added `onto`. It is summed over `pieces` of so many columns,
/// beyond which the copy engine finds zeros. `whole` is `out` too, for what is spread from its pixel `corner` on.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn multiply<L: Left>(
    left: &TensorMap<bf16, L>,
    right: &TensorMap<bf16, Tiled>,
    out: &mut TensorMap<bf16, Tiled>,
    whole: &mut [Narrow],
    bias: &[Vector<bf16, Const<2>>],
    onto: &[Vector<bf16, Const<2>>],
    rows: u32,
    columns: u32,
    pieces: u32,
    piece: u32,
    patches: Patches,
    corner: u32,
    #[comptime] tiling: Tiling,
    #[comptime] beside: Beside,
) {
    let left_elements = comptime![tiling.left_elements()];
    let right_elements = comptime![tiling.right_elements()];
    let tile_rows = comptime![tiling.rows() as u32];
    let tile_columns = comptime![tiling.columns as u32];
    let stages = comptime![tiling.stages as u32];

    // In pairs, because the result passes through here too.
    let mut lefts: Shared<[Vector<bf16, Const<2>>]> =
        Shared::new_aligned_slice(comptime![left_elements * tiling.stages / 2], 1024usize);
    let mut rights: Shared<[bf16]> = Shared::new_aligned_slice(comptime![right_elements * tiling.stages], 1024usize);
    let mut full = Sequence::<Shared<Barrier>>::new();
    let mut empty = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..comptime![tiling.stages] {
        full.push(Barrier::shared_uninit());
        empty.push(Barrier::shared_uninit());
    }
    let read_out = Barrier::shared_uninit();
    let laid_out = Barrier::shared_uninit();
    if UNIT_POS == 0 {
        let fills = comptime![tiling.groups as u32 * GROUP_UNITS];
        read_out.init_manual(fills);
        laid_out.init_manual(fills);
        #[unroll]
        for stage in 0..comptime![tiling.stages] {
            full[stage].init_manual(1u32);
            empty[stage].init_manual(comptime![tiling.groups as u32]);
        }
        sync_async_proxy_shared();
    }
    sync_cube();

    // Cubes go down a strip of rows, then to the next columns, then to the next strip.
    let across = columns.div_ceil(tile_columns);
    let down = rows.div_ceil(tile_rows);
    let position = CUBE_POS as u32;
    let of_strip = STRIP * across;
    let first = position / of_strip * STRIP;
    let height = select(down - first < STRIP, down - first, STRIP);
    let within = position % of_strip;
    let row = (first + within % height) * tile_rows;
    let column = within / height * tile_columns;

    // Whole turns of the ring: what lies past the end of the matrices arrives as zeros.
    let steps = piece.div_ceil(comptime![DEPTH as u32]);
    let turns = (pieces * steps).div_ceil(stages);
    let fills = comptime![tiling.groups as u32 * GROUP_UNITS];
    if UNIT_POS >= fills {
        if UNIT_POS == fills {
            let place = L::place(row, &patches);
            let piece_end = steps * comptime![DEPTH as u32];
            let mut index = 0u32;
            let mut at = 0u32;
            for turn in 0..turns {
                #[unroll]
                for stage in 0..comptime![tiling.stages] {
                    empty[stage].wait_parity((turn & 1) ^ 1);
                    full[stage].arrive_and_expect_tx(1u32, comptime![tiling.stage_bytes() as u32]);
                    let from = comptime![stage * left_elements / 2];
                    let to = comptime![(stage + 1) * left_elements / 2];
                    let from_piece = select(index < pieces, at, piece_end);
                    L::bring(&full[stage], left, &mut lefts[from..to], place, index, from_piece, tiling, beside.kernel);
                    let from = comptime![stage * right_elements];
                    let to = comptime![(stage + 1) * right_elements];
                    bring(
                        &full[stage],
                        right,
                        &mut rights[from..to],
                        column,
                        index * piece + at,
                        tiling.right,
                        tiling.columns,
                        1usize,
                    );
                    at += comptime![DEPTH as u32];
                    let ended = at == piece_end;
                    index += select(ended, 1u32, 0u32);
                    at = select(ended, 0u32, at);
                }
            }
        }
    } else {
        let group = UNIT_POS / GROUP_UNITS;
        let unit = UNIT_POS % GROUP_UNITS;
        let left_layout = comptime![tiling.left_tile()];
        let right_layout = comptime![tiling.right_tile()];
        let mut sum = Accumulator::<f32>::new(tiling.columns).start();
        let mut released = sum.commit();
        for turn in 0..turns {
            #[unroll]
            for stage in 0..comptime![tiling.stages] {
                full[stage].wait_parity(turn & 1);
                let from = comptime![stage * left_elements / 2];
                let to = comptime![(stage + 1) * left_elements / 2];
                let a = MatrixDescriptor::new(&lefts[from..to], left_layout);
                let from = comptime![stage * right_elements];
                let to = comptime![(stage + 1) * right_elements];
                let b = MatrixDescriptor::new(&rights[from..to], right_layout);
                #[unroll]
                for slice in 0..comptime![DEPTH / 16] {
                    sum.execute(&a.at(group as usize * GROUP_ROWS, slice * 16), &b.at(0usize, slice * 16));
                }
                let read = sum.commit();
                // The instructions of the step before are done now: its stage may be filled again.
                released.wait();
                released = read;
                let before = comptime![(stage + tiling.stages - 1) % tiling.stages];
                if unit == 0 && (turn > 0 || comptime![stage > 0]) {
                    empty[before].arrive();
                }
            }
        }
        let sum = sum.wait();

        // The ring is free once every warpgroup is done with it: the tile is laid out there for the copy engine, in panels of 64
        // columns whose 16-byte chunks are swizzled by their row.
        read_out.arrive();
        read_out.wait_parity(0u32);
        let group_row = group * comptime![GROUP_ROWS as u32];
        #[unroll]
        for pair in 0..comptime![tiling.columns / 4] {
            let (r, c) = sum.position_of_nth(unit, comptime![2 * pair as u32]);
            let r = group_row + r;
            let panel = c / comptime![DEPTH as u32];
            let chunk = ((c % comptime![DEPTH as u32]) / 8) ^ (r % 8);
            let at = (panel * tile_rows + r) * comptime![DEPTH as u32] + chunk * 8 + c % 8;
            let mut values = Vector::<f32, Const<2>>::empty();
            values.insert(0usize, sum.get(2 * pair));
            values.insert(1usize, sum.get(2 * pair + 1));
            if comptime![beside.biased] {
                let of_column = select(column + c < columns, column + c, 0u32) / 2;
                values += Vector::<f32, Const<2>>::cast_from(bias[of_column as usize]);
            }
            if comptime![beside.adds] {
                let here = row + r < rows && column + c < columns;
                let beneath = select(here, (row + r) * (columns / 2) + (column + c) / 2, 0u32);
                values += Vector::<f32, Const<2>>::cast_from(onto[beneath as usize]);
            }
            lefts[(at / 2) as usize] = Vector::<bf16, Const<2>>::cast_from(values);
        }
        sync_async_proxy_shared();
        laid_out.arrive();
        laid_out.wait_parity(0u32);
        if comptime![beside.spreads] {
            let chunks = comptime![tiling.columns as u32 / 8];
            for turn in 0..comptime![tile_rows * chunks / fills] {
                let r = (turn * fills + UNIT_POS) / chunks;
                let c = (turn * fills + UNIT_POS) % chunks * 8;
                if row + r < rows && column + c < columns {
                    let chunk = ((c % comptime![DEPTH as u32]) / 8) ^ (r % 8);
                    let from = (c / comptime![DEPTH as u32] * tile_rows + r) * comptime![DEPTH as u32 / 2] + chunk * 4;
                    let mut values = Narrow::empty();
                    #[unroll]
                    for index in 0..8usize {
                        let pair = lefts[from as usize + comptime![index / 2]];
                        values.insert(index, pair.extract(comptime![index % 2]));
                    }
                    let line = (row + r) / patches.across;
                    let to = (line * 2 * patches.across + (row + r) % patches.across) * 2 + corner;
                    whole[(to * (columns / 8) + (column + c) / 8) as usize] = values;
                }
            }
        } else if UNIT_POS == 0 {
            #[unroll]
            for panel in 0..comptime![tiling.columns / DEPTH] {
                let from = comptime![panel * tiling.rows() * DEPTH / 2];
                let to = comptime![(panel + 1) * tiling.rows() * DEPTH / 2];
                let stored = tma_store_2d(
                    &lefts[from..to],
                    out,
                    row as i32,
                    (column + comptime![(panel * DEPTH) as u32]) as i32,
                );
                if comptime![(panel + 1) * DEPTH == tiling.columns] {
                    stored.wait_complete();
                }
            }
        }
    }
}
