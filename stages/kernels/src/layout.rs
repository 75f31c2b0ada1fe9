//! Many tensors side by side in one: what several devices have in common travels in few large pieces.

use crate::vectors::{EACH, empty_like, own};
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Shape, StreamId, Tensor};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, ops::numeric::zeros_client, tensor::CubeTensor};
use cubecl::prelude::*;
use half::bf16;

/// Tensors that a launch puts in their places: launches take longer than the copies of small ones.
const AT_ONCE: usize = 8;
const UNITS: u32 = 256;
/// Cubes of a tensor: as many as keep the memory busy, with a loop in each.
const CUBES: u32 = 256;

/// Flat tensors of one type, bf16 or f32, each from its place on in one of so many values, which another stream makes: the calling thread's
/// goes on meanwhile. Between the tensors are zeros.
pub fn lay_out(placed: &[(usize, Tensor<1>)], length: usize, stream: StreamId) -> Option<Tensor<1>> {
    let (_, first) = placed.first()?;
    let is_full = placed.iter().map(|(_, tensor)| tensor.dims()[0]).sum::<usize>() == length;
    let mut whole = Tensor::from_dispatch(Dispatch::room(first.clone().into_dispatch(), length, is_full, stream));
    for placed in placed.chunks(AT_ONCE) {
        // The last one stands in for those that are not there, with no values to put.
        let [a, b, c, d, e, f, g, h] =
            std::array::from_fn(|index| placed[index.min(placed.len() - 1)].1.clone().into_dispatch());
        let places = Places {
            starts: std::array::from_fn(|index| placed.get(index).map_or(0, |(start, _)| *start)),
            lengths: std::array::from_fn(|index| placed.get(index).map_or(0, |(_, tensor)| tensor.dims()[0])),
            stream,
        };
        whole = Tensor::from_dispatch(Dispatch::lay(whole.into_dispatch(), a, b, c, d, e, f, g, h, places));
    }
    Some(whole)
}

/// A copy in memory of the calling thread's own stream. Each use of what another stream has made is waited for by itself.
pub fn copied(x: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::copied(x.into_dispatch()))
}

/// Where tensors begin, how many values each has, and the stream that puts them there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Places {
    stream: StreamId,
    starts: [usize; AT_ONCE],
    lengths: [usize; AT_ONCE],
}

/// Backends that have the operations.
#[backend_extension(Cube, Fusion)]
pub trait LayoutBackend: Backend {
    /// Memory of another stream for so many values of this type, which are zeros if not all of them will be written.
    #[fusion(dtype = like, shape = Shape::new([*length]))]
    fn room(like: FloatTensor<Self>, length: usize, is_full: bool, stream: StreamId) -> FloatTensor<Self>;

    /// See [`lay_out`].
    #[allow(clippy::too_many_arguments, reason = "a backend's operations take bare tensors")]
    #[fusion(dtype = whole, shape = whole)]
    fn lay(
        whole: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        g: FloatTensor<Self>,
        h: FloatTensor<Self>,
        places: Places,
    ) -> FloatTensor<Self>;

    /// See [`copied`](fn@copied).
    #[fusion(dtype = x, shape = x)]
    fn copied(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl LayoutBackend for CubeBackend {
    fn room(like: CubeTensor, length: usize, is_full: bool, stream: StreamId) -> CubeTensor {
        stream.executes(|| match is_full {
            true => empty_like(&like, Shape::new([length]), like.dtype),
            false => zeros_client(like.client, like.device, Shape::new([length]), like.dtype),
        })
    }

    fn lay(
        whole: CubeTensor,
        a: CubeTensor,
        b: CubeTensor,
        c: CubeTensor,
        d: CubeTensor,
        e: CubeTensor,
        f: CubeTensor,
        g: CubeTensor,
        h: CubeTensor,
        places: Places,
    ) -> CubeTensor {
        // A stream waits for another when it uses memory that is younger than the last time that it did, whatever was written since then
        // into older memory, such as that of weights.
        let now = empty_like(&a, Shape::new([1]), a.dtype);
        places.stream.executes(|| {
            wait(now);
            put_there(own(whole), [a, b, c, d, e, f, g, h].map(into_contiguous), places)
        })
    }

    fn copied(x: CubeTensor) -> CubeTensor {
        into_contiguous(x).copy()
    }
}

/// Uses what another stream has just been given, and so waits for all that it was given before.
fn wait(now: CubeTensor) {
    drop(now.copy());
}

fn put_there(whole: CubeTensor, parts: [CubeTensor; AT_ONCE], places: Places) -> CubeTensor {
    let [a, b, c, d, e, f, g, h] = parts;
    let Places { starts, lengths, .. } = places;
    macro_rules! launch {
        ($kind:ty, $size:literal) => {{
            let [starts, lengths] = [starts, lengths].map(|counts| counts.map(|count| (count / $size) as u32));
            let most = lengths.iter().copied().max().unwrap_or_default();
            let argument = |tensor: CubeTensor| tensor.into_buffer_arg();
            // SAFETY: what lies past a tensor's last value is not read, and no two tensors have a place in common.
            unsafe {
                lay::launch_unchecked::<$kind>(
                    &whole.client,
                    CubeCount::Static(most.div_ceil(UNITS).clamp(1, CUBES), AT_ONCE as u32, 1),
                    CubeDim::new_1d(UNITS),
                    $size,
                    whole.clone().into_buffer_arg(),
                    argument(a),
                    argument(b),
                    argument(c),
                    argument(d),
                    argument(e),
                    argument(f),
                    argument(g),
                    argument(h),
                    starts[0],
                    starts[1],
                    starts[2],
                    starts[3],
                    starts[4],
                    starts[5],
                    starts[6],
                    starts[7],
                    lengths[0],
                    lengths[1],
                    lengths[2],
                    lengths[3],
                    lengths[4],
                    lengths[5],
                    lengths[6],
                    lengths[7],
                )
            }
        }};
    }
    let wide = starts.iter().chain(&lengths).all(|count| count.is_multiple_of(EACH));
    match (whole.dtype == DType::BF16, wide) {
        (true, true) => launch!(bf16, 8),
        (true, false) => launch!(bf16, 1),
        (false, true) => launch!(f32, 8),
        (false, false) => launch!(f32, 1),
    }
    whole
}

/// The cubes of a row along y copy one of the tensors.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a launch takes bare numbers")]
fn lay<E: Float, N: Size>(
    whole: &mut [Vector<E, N>],
    a: &[Vector<E, N>],
    b: &[Vector<E, N>],
    c: &[Vector<E, N>],
    d: &[Vector<E, N>],
    e: &[Vector<E, N>],
    f: &[Vector<E, N>],
    g: &[Vector<E, N>],
    h: &[Vector<E, N>],
    at_a: u32,
    at_b: u32,
    at_c: u32,
    at_d: u32,
    at_e: u32,
    at_f: u32,
    at_g: u32,
    at_h: u32,
    of_a: u32,
    of_b: u32,
    of_c: u32,
    of_d: u32,
    of_e: u32,
    of_f: u32,
    of_g: u32,
    of_h: u32,
) {
    if CUBE_POS_Y == 0 {
        put(whole, a, at_a, of_a);
    } else if CUBE_POS_Y == 1 {
        put(whole, b, at_b, of_b);
    } else if CUBE_POS_Y == 2 {
        put(whole, c, at_c, of_c);
    } else if CUBE_POS_Y == 3 {
        put(whole, d, at_d, of_d);
    } else if CUBE_POS_Y == 4 {
        put(whole, e, at_e, of_e);
    } else if CUBE_POS_Y == 5 {
        put(whole, f, at_f, of_f);
    } else if CUBE_POS_Y == 6 {
        put(whole, g, at_g, of_g);
    } else {
        put(whole, h, at_h, of_h);
    }
}

#[cube]
fn put<E: Float, N: Size>(whole: &mut [Vector<E, N>], part: &[Vector<E, N>], start: u32, length: u32) {
    let step = CUBE_COUNT_X * UNITS;
    let first = CUBE_POS_X * UNITS + UNIT_POS;
    for turn in 0..length.div_ceil(step) {
        let at = first + turn * step;
        if at < length {
            whole[(start + at) as usize] = part[at as usize];
        }
    }
}
