//! How a product is cut into the tiles that cubes compute.

use super::Across;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::Tma;
use cubecl::wgmma::Major;

/// Elements of the summed dimension in a stage: one line of the widest swizzle, 128 bytes.
pub(super) const DEPTH: usize = 64;
/// Rows that a warpgroup multiplies.
pub(super) const GROUP_ROWS: usize = 64;

/// How a product is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tiling {
    /// Warpgroups of a cube, 64 rows each.
    pub(super) groups: usize,
    /// Columns of a cube's tile.
    pub(super) columns: usize,
    /// Stages in the ring of tiles that are read.
    pub(super) stages: usize,
    /// Which dimension of the left matrix is contiguous.
    pub(super) left: Major,
    /// Which dimension of the right matrix is contiguous.
    pub(super) right: Major,
}

/// A tile that is tried: warpgroups, columns, stages; and what it costs, in microseconds: of a step of [`DEPTH`], and of a tile
/// beside its steps. Measured on an H100, launched back to back.
const TRIED: [(usize, usize, usize, f64, f64); 4] =
    [(2, 256, 4, 0.61, 9.4), (2, 192, 4, 0.55, 5.8), (2, 128, 6, 0.45, 2.8), (1, 128, 4, 0.26, 4.0)];

impl Tiling {
    /// The cheapest tiling of this product; nothing if the kernel can't compute it.
    pub(super) fn of(left: &CubeTensor, right: &CubeTensor, across: Across) -> Option<Self> {
        let [rows, depth] = sides(left, across.left);
        let [columns, _] = sides(right, across.right);
        Self::cheapest([left, right], [rows, columns], depth.div_ceil(DEPTH), across)
    }

    /// The same for patches of an image `[B, H, W, C]`, each `pieces` pixels.
    pub(super) fn of_patches(image: &CubeTensor, right: &CubeTensor, rows: usize, pieces: usize) -> Option<Self> {
        let steps = pieces * image.meta.shape()[3].div_ceil(DEPTH);
        Self::cheapest([image, right], [rows, right.meta.shape()[0]], steps, Across::default())
    }

    fn cheapest(operands: [&CubeTensor; 2], [rows, columns]: [usize; 2], steps: usize, across: Across) -> Option<Self> {
        let of_bf16 = operands.iter().all(|operand| operand.dtype == DType::BF16 && operand.is_contiguous());
        // The copy engine takes rows of whole 16 bytes alone.
        let aligned = operands.iter().all(|operand| operand.meta.shape().iter().last().is_some_and(|row| row % 8 == 0));
        let client = &operands[0].client;
        let features = client.features();
        let able = features.tma.contains(Tma::Base) && features.matmul.wgmma.iter().next().is_some();
        if !of_bf16 || !aligned || !columns.is_multiple_of(8) || rows * columns * steps == 0 || !able {
            return None;
        }
        let processors = client.properties().hardware.num_streaming_multiprocessors.unwrap_or(132) as usize;
        let major = |across| if across { Major::MN } else { Major::K };
        let cost = |tile: &(usize, usize, usize, f64, f64)| {
            let (groups, width, _, step, rest) = *tile;
            let tiles = rows.div_ceil(groups * GROUP_ROWS) * columns.div_ceil(width);
            tiles.div_ceil(processors) as f64 * (steps as f64 * step + rest)
        };
        let best = TRIED.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
        let (groups, columns, stages, ..) = *best;
        Some(Self { groups, columns, stages, left: major(across.left), right: major(across.right) })
    }

    /// Rows of a cube's tile.
    pub(super) fn rows(&self) -> usize {
        self.groups * GROUP_ROWS
    }
}

/// A matrix' own extent, and that of the summed dimension.
pub(super) fn sides(matrix: &CubeTensor, across: bool) -> [usize; 2] {
    let shape = matrix.meta.shape();
    if across { [shape[1], shape[0]] } else { [shape[0], shape[1]] }
}
