//! Running pieces of a network in the memory that there is: images whole, or in strips of rows.
//!
//! A strip has with it the rows around it that its convolutions look at, so that nothing is blended and what comes out is what comes out
//! of whole images. Norms are over whole images: all strips go as far as the first, then as far as the second, and so on. What is between
//! them is computed again each time and kept nowhere.

use std::ops::Range;

use burn::tensor::{DType, Tensor};

use super::super::strip::{Norms, Strip};
use super::piece::{EIGHT, Piece, Size};
use crate::memory::vae_value;

/// A piece that is run over a whole image, or several that are run together in strips.
#[derive(Debug, Clone, PartialEq)]
struct Stretch {
    pieces: Range<usize>,
    /// How many rows that come out make a strip.
    rows: Option<usize>,
}

/// Runs pieces one after the other, within so many bytes if it is said how many.
pub(super) fn run(pieces: &[Piece<'_>], x_bchw: Tensor<4>, room: Option<u64>) -> Tensor<4> {
    let [batch, channels, height, width] = x_bchw.dims();
    let (size, dtype) = ([channels, height, width], x_bchw.dtype());
    match room {
        Some(room) if needed(pieces, size, dtype) * batch as u64 > room => {
            // What others left lying there is of other sizes.
            x_bchw.device().memory_cleanup();
            let narrowest = || vec![Stretch { pieces: 0..pieces.len(), rows: Some(1) }];
            let stretches = stretches(pieces, size, room / vae_value(dtype == DType::BF16)).unwrap_or_else(narrowest);
            let image = |index| {
                stretches.iter().fold(x_bchw.clone().narrow(0, index, 1), |x, stretch| match stretch.rows {
                    Some(rows) => in_strips(&pieces[stretch.pieces.clone()], x, rows),
                    None => pieces[stretch.pieces.start].forward(x),
                })
            };
            Tensor::cat((0..batch).map(image).collect(), 0)
        }
        _ => pieces.iter().fold(x_bchw, |x, piece| piece.forward(x)),
    }
}

/// The bytes that pieces need for a whole image.
pub(super) fn needed(pieces: &[Piece<'_>], size: Size, dtype: DType) -> u64 {
    let sizes = sizes(pieces, size);
    let alive = pieces.iter().enumerate().map(|(index, piece)| piece.alive(sizes[index], sizes[index + 1]));
    alive.max().unwrap_or_default() * vae_value(dtype == DType::BF16)
}

/// What goes into each piece, and what comes out of the last.
fn sizes(pieces: &[Piece<'_>], size: Size) -> Vec<Size> {
    let after = pieces.iter().scan(size, |size, piece| {
        *size = piece.size(*size);
        Some(*size)
    });
    std::iter::once(size).chain(after).collect()
}

/// The way through all pieces that takes the least work of those on which no more than so many values are in memory at once, if there is one.
fn stretches(pieces: &[Piece<'_>], size: Size, room: u64) -> Option<Vec<Stretch>> {
    let sizes = sizes(pieces, size);
    // For each piece the least work of what ends there or before, and the last stretch of that.
    let mut best: Vec<Option<(f64, Stretch)>> = Vec::new();
    for end in 1..=pieces.len() {
        let of_stretch = |first: usize| {
            let before = first.checked_sub(1).map_or(Some(0.0), |last| Some(best[last].as_ref()?.0))?;
            let (pieces, sizes) = (&pieces[first..end], &sizes[first..=end]);
            let whole = pieces.len() == 1 && pieces[0].alive(sizes[0], sizes[1]) <= room;
            let rows = if whole { None } else { Some(rows_within(pieces, sizes, room)?) };
            Some((before + work(pieces, sizes, rows), Stretch { pieces: first..end, rows }))
        };
        best.push((0..end).filter_map(of_stretch).min_by(|a, b| a.0.total_cmp(&b.0)));
    }
    let mut way = Vec::new();
    let mut end = pieces.len();
    while end > 0 {
        let (_, stretch) = best[end - 1].take()?;
        end = stretch.pieces.start;
        way.push(stretch);
    }
    way.reverse();
    Some(way)
}

/// The work of pieces that are run together. In strips what is before a norm is run for it once more, and some rows in two strips.
fn work(pieces: &[Piece<'_>], sizes: &[Size], rows: Option<usize>) -> f64 {
    let Some(rows) = rows else { return pieces.iter().zip(sizes).map(|(piece, size)| piece.work(*size)).sum() };
    let strips = sizes[pieces.len()][1].div_ceil(rows);
    let of_strip = rows_of_strip(pieces, sizes, rows);
    let mut after = 0.0;
    let mut total = 0.0;
    for (index, piece) in pieces.iter().enumerate().rev() {
        let overlap = (strips * of_strip[index].len()) as f64 / sizes[index][1] as f64;
        // Half of a piece is between its norms.
        total += (1.0 + after + piece.norms() as f64 / 2.0) * overlap * piece.work(sizes[index]);
        after += piece.norms() as f64;
    }
    total
}

/// The most rows of a strip with which no more than so many values are in memory at once: beside the strip's all that goes in and all that
/// comes out; in the end what comes out, strip by strip and put together.
fn rows_within(pieces: &[Piece<'_>], sizes: &[Size], room: u64) -> Option<usize> {
    let values = |[channels, rows, columns]: Size| (channels * rows * columns) as u64;
    let ([channels, height, width], first) = (sizes[pieces.len()], sizes[0]);
    let last = [channels.next_multiple_of(EIGHT), height, width];
    let fits =
        |rows: &usize| (values(first) + values(last) + of_strip(pieces, sizes, *rows)).max(2 * values(last)) <= room;
    let halves = std::iter::successors(Some(last[1].div_ceil(2)), |rows| (*rows > 1).then(|| rows.div_ceil(2)));
    halves.into_iter().find(fits)
}

/// The values of a strip of so many rows where there are the most.
fn of_strip(pieces: &[Piece<'_>], sizes: &[Size], rows: usize) -> u64 {
    let of_strip = rows_of_strip(pieces, sizes, rows);
    let size = |index: usize| [sizes[index][0], of_strip[index].len(), sizes[index][2]];
    let alive = pieces.iter().enumerate().map(|(index, piece)| piece.alive(size(index), size(index + 1)));
    alive.max().unwrap_or_default()
}

/// Of a strip in the midst of an image the rows that go into each piece, and those that come out of the last, which are so many.
fn rows_of_strip(pieces: &[Piece<'_>], sizes: &[Size], rows: usize) -> Vec<Range<usize>> {
    let height = sizes[pieces.len()][1];
    let first = rows.min(height - rows);
    needs(pieces, sizes, first..first + rows)
}

/// The rows that go into each piece for some rows to come out of the last, and these.
fn needs(pieces: &[Piece<'_>], sizes: &[Size], out: Range<usize>) -> Vec<Range<usize>> {
    let mut all = vec![out];
    for (piece, [_, height, _]) in pieces.iter().zip(sizes).rev() {
        all.insert(0, piece.needs(all[0].clone(), *height));
    }
    all
}

/// Runs pieces in strips of so many rows of what comes out.
fn in_strips(pieces: &[Piece<'_>], x_bchw: Tensor<4>, rows: usize) -> Tensor<4> {
    let [_, channels, height, width] = x_bchw.dims();
    let sizes = sizes(pieces, [channels, height, width]);
    let height = sizes[pieces.len()][1];
    let x = Strip::whole(x_bchw);
    let mut norms = Norms::default();
    loop {
        let mut strips = Vec::new();
        for first in (0..height).step_by(rows) {
            let own = first..height.min(first + rows);
            let start = x.cut(needs(pieces, &sizes, own.clone())[0].clone());
            norms.begin(own.clone(), height);
            let end = pieces.iter().try_fold(start, |strip, piece| piece.strip(strip, &mut norms));
            // Channels next to each other, as they lie on a GPU.
            strips.extend(end.map(|strip| strip.cut(own).into_values().permute([0, 2, 3, 1])));
        }
        if !norms.settle() {
            drop(x);
            return Tensor::cat(strips, 1).permute([0, 3, 1, 2]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VaeDecoder, VaeEncoder};
    use super::*;
    use crate::checkpoint::{Component, ComponentSource};
    use crate::nn::{Weights, load};
    use burn::tensor::{Device, Distribution};

    fn weights(component: Component) -> Weights {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/model/sd3_tiny.safetensors");
        load(&ComponentSource::open(path, component).unwrap(), &Device::flex(), DType::F32).unwrap()
    }

    fn off(found: Tensor<4>, expected: Tensor<4>) -> f32 {
        let apart = (found - expected.clone()).square().sum() / expected.square().sum();
        apart.sqrt().into_scalar()
    }

    #[test]
    fn strips_of_several_images_come_to_what_whole_images_do() {
        let random = |shape: [usize; 4]| Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex());
        let encoder = VaeEncoder::new(&weights(Component::VaeEncoder).root()).unwrap();
        let decoder = VaeDecoder::new(&weights(Component::VaeDecoder).root()).unwrap();
        let (images, latents): (Tensor<4>, Tensor<4>) = (random([2, 3, 104, 24]), random([2, 16, 13, 3]));
        let (mean, log_variance) = encoder.encode(images.clone());
        let decoded = decoder.decode(latents.clone());
        // The first has room for one image, but not for both.
        for share in [1.5, 0.9, 0.6] {
            let room = Some((encoder.needed([104, 24]) as f64 * share) as u64);
            let found = encoder.encode_within(images.clone(), room);
            let decoded_off = off(decoder.decode_within(latents.clone(), room), decoded.clone());
            let all = [off(found.0, mean.clone()), off(found.1, log_variance.clone()), decoded_off];
            assert!(all.iter().all(|off| *off <= 1e-6), "{share}: {all:?}");
        }
    }

    #[test]
    fn more_room_takes_no_more_work_and_there_is_room_for_every_stretch() {
        let weights = weights(Component::VaeEncoder);
        let encoder = VaeEncoder::new(&weights.root()).unwrap();
        let (pieces, size) = (encoder.pieces(), [3, 256, 192]);
        let sizes = sizes(&pieces, size);
        let whole = pieces.iter().enumerate().map(|(index, piece)| piece.alive(sizes[index], sizes[index + 1]));
        let whole = whole.max().unwrap();
        let mut before = f64::INFINITY;
        for room in (1..=20).map(|share| whole * share / 20) {
            let Some(way) = stretches(&pieces, size, room) else {
                assert!(before.is_infinite() && room < whole / 2, "{room}");
                continue;
            };
            let mut end = 0;
            let mut total = 0.0;
            for Stretch { pieces: run, rows } in &way {
                assert_eq!(run.start, end);
                end = run.end;
                let (pieces, sizes) = (&pieces[run.clone()], &sizes[run.start..=run.end]);
                total += work(pieces, sizes, *rows);
                assert!(match rows {
                    Some(rows) => of_strip(pieces, sizes, *rows) < room,
                    None => pieces.len() == 1 && pieces[0].alive(sizes[0], sizes[1]) <= room,
                });
            }
            assert_eq!(end, pieces.len());
            assert!(total <= before, "{room}: {way:?}");
            before = total;
        }
        let alone = |index| Stretch { pieces: index..index + 1, rows: None };
        assert_eq!(stretches(&pieces, size, whole), Some((0..pieces.len()).map(alone).collect()));
    }
}
