//! How like pictures are to each other, going by their latents: where what is, and how it is drawn.

use crate::tensors::Array;

/// Cells of the grid that latents of any size are averaged to.
const GRID: usize = 16;

/// What is compared of a picture's latents.
#[derive(Clone, Debug, PartialEq)]
pub struct Likeness {
    /// Where what is: the mean of each channel in each cell of a grid, whatever the picture's shape.
    pub layout: Vec<f32>,
    /// How it is drawn: the covariances of the channels (the Gram matrix of Gatys, Ecker and Bethge 2016, of what is left without the
    /// means), and those of the differences between neighbours: signed roots, in the latents' own unit.
    pub manner: Vec<f64>,
}

impl Likeness {
    /// Of latents `[channels, height, width]`; nothing of an array of another form, or with values that are not finite.
    pub fn of(latents: &Array) -> Option<Self> {
        let &[channels, height, width] = &latents.shape[..] else { return None };
        let whole = channels > 0 && height > 1 && width > 1 && latents.values.len() == channels * height * width;
        if !whole || !latents.values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let planes: Vec<&[f32]> = latents.values.chunks_exact(height * width).collect();
        let across = |plane: &[f32]| plane.chunks_exact(width).flat_map(differences).collect::<Vec<f64>>();
        let down = |plane: &[f32]| {
            let pairs = plane.iter().zip(plane.iter().skip(width));
            pairs.map(|(above, below)| f64::from(below - above)).collect::<Vec<f64>>()
        };
        let values = |plane: &[f32]| plane.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
        let of = |part: &dyn Fn(&[f32]) -> Vec<f64>| {
            covariances(&planes.iter().map(|plane| part(plane)).collect::<Vec<_>>())
        };
        Some(Self {
            layout: planes.iter().flat_map(|plane| pooled(plane, width)).collect(),
            manner: [of(&values), of(&across), of(&down)].concat(),
        })
    }
}

fn differences(row: &[f32]) -> impl Iterator<Item = f64> {
    row.windows(2).map(|pair| f64::from(pair[1] - pair[0]))
}

/// Covariances of every pair of channels, as signed roots.
fn covariances(channels: &[Vec<f64>]) -> Vec<f64> {
    let centred: Vec<Vec<f64>> = channels
        .iter()
        .map(|values| {
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            values.iter().map(|value| value - mean).collect()
        })
        .collect();
    let mut all = Vec::with_capacity(channels.len() * (channels.len() + 1) / 2);
    for (index, one) in centred.iter().enumerate() {
        for other in &centred[index..] {
            let product: f64 = one.iter().zip(other).map(|(one, other)| one * other).sum();
            let covariance = product / one.len().max(1) as f64;
            all.push(covariance.signum() * covariance.abs().sqrt());
        }
    }
    all
}

/// A plane's means over the cells of a grid. Planes with fewer rows or columns than the grid give some of them twice.
fn pooled(plane: &[f32], width: usize) -> Vec<f32> {
    let height = plane.len() / width.max(1);
    let span = |cell: usize, side: usize| {
        let start = cell * side / GRID;
        start..((cell + 1) * side / GRID).max(start + 1)
    };
    let mut cells = Vec::with_capacity(GRID * GRID);
    for (row, column) in (0..GRID * GRID).map(|cell| (cell / GRID, cell % GRID)) {
        let (rows, columns) = (span(row, height), span(column, width));
        let count = (rows.len() * columns.len()) as f32;
        let sum: f32 = rows.flat_map(|y| columns.clone().map(move |x| plane[y * width + x])).sum();
        cells.push(sum / count);
    }
    cells
}

/// What a set of pictures has in common: each value's mean, and its spread over the pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// The means.
    pub means: Vec<f64>,
    /// The standard deviations.
    pub spreads: Vec<f64>,
}

impl Common {
    /// Of some pictures' values, as many of each.
    pub fn of<'v>(pictures: impl Iterator<Item = &'v [f64]>) -> Self {
        let (mut count, mut sums, mut squares): (f64, Vec<f64>, Vec<f64>) = Default::default();
        for values in pictures {
            count += 1.0;
            sums.resize(values.len(), 0.0);
            squares.resize(values.len(), 0.0);
            for (index, value) in values.iter().enumerate() {
                sums[index] += value;
                squares[index] += value * value;
            }
        }
        let count = f64::max(count, 1.0);
        let means: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
        let variances = squares.iter().zip(&means).map(|(square, mean)| (square / count - mean * mean).max(0.0));
        Self { spreads: variances.map(f64::sqrt).collect(), means }
    }
}

/// How far apart two layouts are: the root of the mean square difference, each channel in units of its spread.
pub fn distance(one: &[f32], other: &[f32], spreads: &[f64]) -> f64 {
    let cells = GRID * GRID;
    let mut sum = 0.0;
    for (channel, (one, other)) in one.chunks(cells).zip(other.chunks(cells)).enumerate() {
        let spread = spreads.get(channel).copied().unwrap_or(1.0).max(1e-6);
        let squares: f64 = one.iter().zip(other).map(|(one, other)| f64::from(one - other).powi(2)).sum();
        sum += squares / (spread * spread);
    }
    (sum / one.len().max(1) as f64).sqrt()
}

/// The spread of each channel over all cells of all layouts.
pub fn channel_spreads<'v>(layouts: impl Iterator<Item = &'v [f32]> + Clone) -> Vec<f64> {
    let channels = layouts.clone().next().map_or(0, |layout| layout.len() / (GRID * GRID));
    let of = |channel: usize| {
        let cells = layouts.clone().filter_map(|layout| layout.chunks(GRID * GRID).nth(channel)).flatten();
        let (mut count, mut sum, mut square) = (0.0, 0.0, 0.0);
        for value in cells.map(|value| f64::from(*value)) {
            (count, sum, square) = (count + 1.0, sum + value, square + value * value);
        }
        let mean = sum / f64::max(count, 1.0);
        (square / f64::max(count, 1.0) - mean * mean).max(0.0).sqrt()
    };
    (0..channels).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    fn array(side: usize, value: impl Fn(usize, usize, usize) -> f32) -> Array {
        let cells = (0..2 * side * side).map(|index| (index / (side * side), index / side % side, index % side));
        Array { shape: vec![2, side, side], values: cells.map(|(channel, y, x)| value(channel, y, x)).collect() }
    }

    #[test]
    fn the_layout_sees_where_and_the_manner_how() {
        let stripes = |phase: usize| array(32, move |channel, _, x| ((x + phase) / 4 % 2 * (channel + 1)) as f32);
        let checks = array(32, |channel, y, x| ((x / 4 + y / 4) % 2 * (channel + 1)) as f32);
        let [one, moved, other] = [stripes(0), stripes(4), checks].map(|array| Likeness::of(&array).unwrap());
        let manner = |one: &Likeness, other: &Likeness| {
            one.manner.iter().zip(&other.manner).map(|(one, other)| (one - other).powi(2)).sum::<f64>().sqrt()
        };
        assert!(distance(&one.layout, &moved.layout, &[1.0; 2]) > 0.9);
        assert!(manner(&one, &moved) < 0.1 && manner(&one, &other) > 0.5, "{}", manner(&one, &other));
        assert_eq!(distance(&one.layout, &one.layout, &[1.0; 2]), 0.0);
    }

    #[test]
    fn a_picture_at_twice_the_size_has_the_same_layout() {
        let noise = Draws::new(0, "test", 0, "").normals_f32(2 * 32 * 32);
        let small = array(32, |channel, y, x| noise[channel * 1024 + y * 32 + x]);
        let large = array(64, |channel, y, x| noise[channel * 1024 + y / 2 * 32 + x / 2]);
        let [small, large] = [small, large].map(|array| Likeness::of(&array).unwrap().layout);
        assert!(distance(&small, &large, &[1.0; 2]) < 1e-6);
    }

    #[test]
    fn what_is_no_picture_of_latents_is_nothing() {
        let good = array(4, |_, y, x| (x + y) as f32);
        assert!(Likeness::of(&good).is_some());
        assert!(Likeness::of(&Array { shape: vec![2, 16], ..good.clone() }).is_none());
        assert!(Likeness::of(&Array { shape: vec![2, 4, 5], ..good.clone() }).is_none());
        let mut values = good.values.clone();
        values[3] = f32::NAN;
        assert!(Likeness::of(&Array { values, ..good }).is_none());
    }
}
