//! Rows of images that are too large to be computed at once.

use std::ops::Range;

use burn::tensor::Tensor;

use super::convolution::Convolution;
use super::moments::Moments;
use super::norm::GroupNorm;

/// Some rows of images, one below the other.
#[derive(Debug, Clone)]
pub struct Strip {
    values_bchw: Tensor<4>,
    first: usize,
    /// Rows of the whole images.
    height: usize,
}

impl Strip {
    /// All rows.
    pub fn whole(values_bchw: Tensor<4>) -> Self {
        let [_, _, height, _] = values_bchw.dims();
        Self { values_bchw, first: 0, height }
    }

    /// Which rows they are.
    pub fn rows(&self) -> Range<usize> {
        let [_, _, count, _] = self.values_bchw.dims();
        self.first..self.first + count
    }

    /// Some of the rows, which are there.
    ///
    /// # Panics
    /// When one of them is not.
    pub fn cut(&self, rows: Range<usize>) -> Self {
        let values = self.values_bchw.clone();
        let values = if rows == self.rows() { values } else { values.narrow(2, rows.start - self.first, rows.len()) };
        Self { values_bchw: values, first: rows.start, height: self.height }
    }

    /// Their values.
    pub fn into_values(self) -> Tensor<4> {
        self.values_bchw
    }

    /// The rows of the images' convolution that can be told from these.
    pub fn convolve(self, convolution: &Convolution) -> Self {
        self.added(convolution, None)
    }

    /// The same added onto rows of other images, all that are computed with.
    pub fn convolve_onto(self, convolution: &Convolution, onto: Self) -> Self {
        self.added(convolution, Some(onto))
    }

    fn added(self, convolution: &Convolution, onto: Option<Self>) -> Self {
        let rows = convolution.told_by(self.rows(), self.height);
        let x = self.cut(convolution.needs(rows.clone(), self.height));
        // At a cut the zeros beside an image stand for rows that are not there: what they get into is cut off.
        let computed = convolution.at(x.first)..convolution.at(x.first) + convolution.side(x.rows().len());
        let height = convolution.side(self.height);
        let values_bchw = match onto {
            Some(onto) => convolution.forward_onto(x.values_bchw, onto.cut(computed.clone()).values_bchw),
            None => convolution.forward(x.values_bchw),
        };
        Self { values_bchw, first: computed.start, height }.cut(rows)
    }
}

/// The norms that strips come through, each of which has to have seen all strips before the first comes through.
#[derive(Debug, Default)]
pub struct Norms<'n> {
    settled: Vec<[Tensor<2>; 2]>,
    /// The first that is not settled, and what it saw so far.
    open: Option<(&'n GroupNorm, Vec<Moments>)>,
    /// How many this strip came through.
    passed: usize,
    /// The rows of what comes out in the end that are this strip's own, and how many there are in all.
    own: (Range<usize>, usize),
}

impl<'n> Norms<'n> {
    /// Has a strip begin at the first norm.
    pub fn begin(&mut self, own: Range<usize>, of: usize) {
        (self.passed, self.own) = (0, (own, of));
    }

    /// The SiLU of the norm of a strip; nothing if the norm has not seen all strips yet.
    pub fn silu(&mut self, norm: &'n GroupNorm, x: Strip) -> Option<Strip> {
        if let Some(settled) = self.settled.get(self.passed) {
            self.passed += 1;
            return Some(Strip { values_bchw: norm.settled_silu(x.values_bchw, settled.clone()), ..x });
        }
        // Strips overlap: each row counts once. Of an image that is doubled later narrow strips may have none.
        let (own, of) = &self.own;
        let own = own.start * x.height / of..own.end * x.height / of;
        let seen = (!own.is_empty()).then(|| Moments::of(x.cut(own).values_bchw));
        self.open.get_or_insert_with(|| (norm, Vec::new())).1.extend(seen);
        None
    }

    /// Settles the norm that has seen all strips now; false if there was none: strips came through all of them.
    pub fn settle(&mut self) -> bool {
        let open = self.open.take();
        let met = open.is_some();
        self.settled.extend(open.map(|(norm, seen)| norm.settle(Moments::total(seen))));
        met
    }
}
