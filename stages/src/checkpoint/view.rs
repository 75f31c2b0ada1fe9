//! A look at one tensor of a model file, without a copy of it.

use std::borrow::Cow;
use std::ops::Range;

use safetensors::Dtype;

/// One tensor of a network, as it lies in its file or files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorView<'f> {
    /// The type of its values.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its bytes, in order: more than one piece where a layout keeps apart what belongs together.
    segments: Vec<&'f [u8]>,
}

impl<'f> TensorView<'f> {
    /// A view of values that lie in one piece: little-endian, row-major.
    pub fn new(dtype: Dtype, shape: Vec<usize>, bytes: &'f [u8]) -> Self {
        Self::of_segments(dtype, shape, vec![bytes])
    }

    pub(super) fn of_segments(dtype: Dtype, shape: Vec<usize>, segments: Vec<&'f [u8]>) -> Self {
        Self { dtype, shape, segments }
    }

    /// Its values: little-endian, row-major. They are copied only if they lie in several pieces.
    pub fn bytes(&self) -> Cow<'f, [u8]> {
        match self.segments.as_slice() {
            [bytes] => Cow::Borrowed(bytes),
            segments => Cow::Owned(segments.concat()),
        }
    }

    /// The pieces in which its values lie, in order.
    pub fn segments(&self) -> &[&'f [u8]] {
        &self.segments
    }

    /// The number of its bytes.
    pub fn length(&self) -> usize {
        self.segments.iter().map(|segment| segment.len()).sum()
    }

    /// `parts` tensors of equally many rows, which together are this one; nothing when it has no such number of rows.
    pub(super) fn rows(&self, parts: usize) -> Option<Vec<Self>> {
        let rows = *self.shape.first()?;
        if parts == 0 || rows % parts != 0 {
            return None;
        }
        let (mut shape, bytes) = (self.shape.clone(), self.length() / parts);
        *shape.first_mut()? = rows / parts;
        let part = |index| Self {
            dtype: self.dtype,
            shape: shape.clone(),
            segments: self.cut(index * bytes..(index + 1) * bytes),
        };
        Some((0..parts).map(part).collect())
    }

    /// The same rows, the second half of them first; nothing when their number is odd.
    pub(super) fn swapped(&self) -> Option<Self> {
        let halves = self.rows(2)?;
        let segments = halves.iter().rev().flat_map(|half| half.segments.iter().copied()).collect();
        Some(Self { dtype: self.dtype, shape: self.shape.clone(), segments })
    }

    fn cut(&self, range: Range<usize>) -> Vec<&'f [u8]> {
        let mut at = 0;
        let mut cut = Vec::new();
        for segment in &self.segments {
            let (start, end) = (range.start.clamp(at, at + segment.len()), range.end.clamp(at, at + segment.len()));
            if start < end {
                cut.push(&segment[start - at..end - at]);
            }
            at += segment.len();
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pieces() -> TensorView<'static> {
        TensorView::of_segments(Dtype::U8, vec![4, 2], vec![&[0, 1, 2], &[3, 4, 5, 6, 7]])
    }

    #[test]
    fn pieces_read_as_one() {
        assert_eq!(two_pieces().bytes().as_ref(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(matches!(TensorView::new(Dtype::U8, vec![1], &[9]).bytes(), Cow::Borrowed([9])));
    }

    #[test]
    fn rows_are_cut_across_pieces() {
        let parts = two_pieces().rows(4).unwrap();
        assert_eq!(
            parts.iter().map(|part| part.bytes().into_owned()).collect::<Vec<_>>(),
            [[0, 1], [2, 3], [4, 5], [6, 7]]
        );
        assert!(parts.iter().all(|part| part.shape == [1, 2]));
        assert!(two_pieces().rows(3).is_none());
    }

    #[test]
    fn halves_swapped_twice_are_as_before() {
        let swapped = two_pieces().swapped().unwrap();
        assert_eq!(swapped.bytes().as_ref(), [4, 5, 6, 7, 0, 1, 2, 3]);
        assert_eq!(swapped.swapped().unwrap().bytes(), two_pieces().bytes());
    }
}
