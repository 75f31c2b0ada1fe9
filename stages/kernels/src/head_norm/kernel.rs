//! The kernels: some neighbouring units a row, a vector each.

use crate::columns::{self, of_strip};
use crate::vectors::{EACH, Narrow, Wide, dot, empty_like, narrow, vectors, widen};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

const UNITS: u32 = columns::UNITS;
/// Rows that a unit takes part in backward, and those of them that it reads at once.
const TURNS: u32 = 2;
const AT_ONCE: u32 = 4;

/// Where rows lie: their number in the two inner dimensions that count them, and the steps of all three, in vectors.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Places {
    middle: u32,
    inner: u32,
    outer_step: u32,
    middle_step: u32,
    inner_step: u32,
}

#[cube]
impl Places {
    fn of(&self, row: u32) -> u32 {
        let rest = row / self.inner;
        rest / self.middle * self.outer_step
            + rest % self.middle * self.middle_step
            + row % self.inner * self.inner_step
    }
}

/// A tensor whose rows are contiguous, at most three dimensions of them, and begin at whole vectors.
struct Rows {
    tensor: CubeTensor,
    sizes: [usize; 3],
    steps: [usize; 3],
}

impl Rows {
    fn of(tensor: CubeTensor) -> Self {
        let outer = tensor.meta.shape().num_dims() - 1;
        let strides = tensor.meta.strides();
        let as_it_lies =
            outer <= 3 && strides[outer] == 1 && strides[..outer].iter().all(|stride| stride.is_multiple_of(EACH));
        if !as_it_lies {
            let tensor = into_contiguous(tensor);
            let row = vectors(&tensor);
            let sizes = [1, 1, tensor.shape().num_elements() / (row * EACH)];
            return Self { tensor, sizes, steps: [0, 0, row] };
        }
        let (mut sizes, mut steps) = ([1; 3], [0; 3]);
        for dimension in 0..outer {
            sizes[3 - outer + dimension] = tensor.meta.shape()[dimension];
            steps[3 - outer + dimension] = strides[dimension] / EACH;
        }
        Self { tensor, sizes, steps }
    }

    fn count(&self) -> usize {
        self.sizes.iter().product()
    }

    fn places(&self) -> PlacesLaunch {
        let [[_, middle, inner], [outer_step, middle_step, inner_step]] =
            [self.sizes, self.steps].map(|all| all.map(|number| number as u32));
        PlacesLaunch::new(middle, inner, outer_step, middle_step, inner_step)
    }
}

/// Normalises and scales.
pub(super) fn forward(x: CubeTensor, weight: CubeTensor, epsilon: f32) -> CubeTensor {
    let (x, weight) = (Rows::of(x), into_contiguous(weight));
    let row = vectors(&weight) as u32;
    let out = empty_like(&x.tensor, x.tensor.shape(), x.tensor.dtype);
    let rows = x.count() as u32;
    let places = x.places();
    // SAFETY: what lies past the last row is neither read nor written.
    unsafe {
        normalise::launch_unchecked(
            &out.client,
            CubeCount::Static(rows.div_ceil(UNITS / row), 1, 1),
            CubeDim::new_1d(UNITS),
            x.tensor.into_buffer_arg(),
            weight.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            places,
            rows,
            epsilon,
            row,
        );
    }
    out
}

/// The gradients of `x` and of the weight.
pub(super) fn backward(
    x: CubeTensor,
    weight: CubeTensor,
    gradient: CubeTensor,
    epsilon: f32,
) -> (CubeTensor, CubeTensor) {
    let (x, gradient, weight) = (Rows::of(x), Rows::of(gradient), into_contiguous(weight));
    let row = vectors(&weight) as u32;
    let rows = x.count() as u32;
    let strips = rows.div_ceil(UNITS / row * TURNS * AT_ONCE);
    let of_x = empty_like(&x.tensor, x.tensor.shape(), x.tensor.dtype);
    let partial = empty_like(&weight, Shape::from([1, strips as usize, row as usize * EACH]), DType::F32);
    let shape = weight.shape();
    let (places, gradient_places) = (x.places(), gradient.places());
    // SAFETY: what lies past the last row is neither read nor written.
    unsafe {
        normalise_gradients::launch_unchecked(
            &of_x.client,
            CubeCount::Static(strips, 1, 1),
            CubeDim::new_1d(UNITS),
            x.tensor.into_buffer_arg(),
            weight.into_buffer_arg(),
            gradient.tensor.into_buffer_arg(),
            of_x.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            places,
            gradient_places,
            rows,
            epsilon,
            row,
        );
    }
    (of_x, columns::total(partial, shape, 0))
}

/// The sum over the neighbouring units of a row.
#[cube]
fn row_sum(value: f32, #[comptime] row: u32) -> f32 {
    let mut sum = value;
    #[unroll]
    for step in 0..comptime![row.ilog2()] {
        sum += plane_shuffle_xor(sum, comptime![1u32 << step]);
    }
    sum
}

/// `row` is the length of a row, in vectors.
#[cube(launch_unchecked)]
fn normalise(
    x: &[Narrow],
    weight: &[Narrow],
    out: &mut [Narrow],
    places: Places,
    rows: u32,
    epsilon: f32,
    #[comptime] row: u32,
) {
    let index = CUBE_POS_X * comptime![UNITS / row] + UNIT_POS / row;
    let column = UNIT_POS % row;
    let value = widen(x[(places.of(select(index < rows, index, 0u32)) + column) as usize]);
    let mean_square = row_sum(dot(value, value), row) * comptime![1f32 / (row as usize * EACH) as f32];
    if index < rows {
        let weight = widen(weight[column as usize]);
        let steepness = Wide::new(f32::inverse_sqrt(mean_square + epsilon));
        out[(index * row + column) as usize] = narrow(value * steepness * weight);
    }
}

/// With `n = x/deviation` and `h = gradient·w`, the gradient of a row is `(h − n·mean(h·n))/deviation`, and that of the weight the sum of
/// `gradient·n` over the rows.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn normalise_gradients(
    x: &[Narrow],
    weight: &[Narrow],
    gradient: &[Narrow],
    of_x: &mut [Narrow],
    partial: &mut [Wide],
    places: Places,
    gradient_places: Places,
    rows: u32,
    epsilon: f32,
    #[comptime] row: u32,
) {
    let at_once = comptime![AT_ONCE * UNITS / row];
    let share = comptime![1f32 / (row as usize * EACH) as f32];
    let column = UNIT_POS % row;
    let weight = widen(weight[column as usize]);
    let mut of_weight = Wide::new(0f32);
    for turn in 0..TURNS {
        let first = (CUBE_POS_X * TURNS + turn) * at_once + UNIT_POS / row;
        let mut values = Array::<Narrow>::new(AT_ONCE as usize);
        let mut slopes = Array::<Narrow>::new(AT_ONCE as usize);
        #[unroll]
        for step in 0..AT_ONCE {
            let index = first + comptime![step * UNITS / row];
            let index = select(index < rows, index, 0u32);
            values[step as usize] = x[(places.of(index) + column) as usize];
            slopes[step as usize] = gradient[(gradient_places.of(index) + column) as usize];
        }
        let mut steepness = Array::<f32>::new(AT_ONCE as usize);
        let mut along = Array::<f32>::new(AT_ONCE as usize);
        #[unroll]
        for step in 0..AT_ONCE {
            let value = widen(values[step as usize]);
            let slope = widen(slopes[step as usize]) * weight;
            let steep = f32::inverse_sqrt(row_sum(dot(value, value), row) * share + epsilon);
            steepness[step as usize] = steep;
            along[step as usize] = row_sum(dot(slope, value), row) * share * steep;
        }
        #[unroll]
        for step in 0..AT_ONCE {
            let index = first + comptime![step * UNITS / row];
            if index < rows {
                let steep = Wide::new(steepness[step as usize]);
                let slope = widen(slopes[step as usize]);
                let normal = widen(values[step as usize]) * steep;
                let change = slope * weight - normal * Wide::new(along[step as usize]);
                of_x[(index * row + column) as usize] = narrow(change * steep);
                of_weight += slope * normal;
            }
        }
        // The units of a row find their sums together again.
        sync_plane();
    }
    of_strip(of_weight, partial, CUBE_POS_X * row + column, true, row);
}
