//! Arrays of numbers on the host, and their safetensors form.

use crate::{error::StageError, precision::Precision};
use half::{bf16, f16};
use safetensors::{
    Dtype, SafeTensors, View,
    tensor::{Metadata, TensorInfo},
};
use sd3pipe_cache::{StoreError, files};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Numbers in row-major order, with their shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Array {
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// As many values as the shape says.
    pub values: Vec<f32>,
}

impl Precision {
    /// What safetensors calls it.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// The values as bytes of this type, rounded to nearest.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        }
    }
}

/// The values of bytes of a type; `None` for types that hold no weights.
pub fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let two = |decode: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|bytes| decode(*bytes)).collect();
    match dtype {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        Dtype::BF16 => Some(two(|bytes| bf16::from_le_bytes(bytes).to_f32())),
        Dtype::F16 => Some(two(|bytes| f16::from_le_bytes(bytes).to_f32())),
        Dtype::F8_E4M3 => Some(bytes.iter().map(|byte| from_f8_e4m3(*byte).to_f32()).collect()),
        _ => None,
    }
}

/// Sign, 4 bits of exponent with bias 7, 3 bits of mantissa; no infinities, and NaN only with all bits set
/// (arXiv:2209.05433, E4M3). F16 has bias 15 and 10 bits of mantissa.
pub(crate) fn from_f8_e4m3(value: u8) -> f16 {
    let (exponent, mantissa) = (i32::from(value >> 3 & 15), f32::from(value & 7));
    let magnitude = match (exponent, value & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    f16::from_f32(if value & 0x80 == 0 { magnitude } else { -magnitude })
}

/// Writes a safetensors file, tensor by tensor: equal bytes for equal tensors and notes. (The library would put the notes in
/// the order of a hash map, which differs from run to run.)
pub fn write<V: View>(
    out: impl Write,
    mut tensors: Vec<(String, V)>,
    notes: &BTreeMap<String, String>,
) -> io::Result<()> {
    let (head, _) = lay_out(&mut tensors, notes)?;
    write_laid_out(out, &head, &tensors)
}

/// Puts tensors in the order of their bytes in a file; gives what stands before them, and the length of the file.
fn lay_out<V: View>(tensors: &mut [(String, V)], notes: &BTreeMap<String, String>) -> io::Result<(Vec<u8>, u64)> {
    // Wide types first, so that each tensor is aligned to its own type.
    tensors.sort_by(|(left_name, left), (right_name, right)| {
        right.dtype().cmp(&left.dtype()).then_with(|| left_name.cmp(right_name))
    });
    let infos = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dtype(), tensor.shape().to_vec()));
    header(infos, notes)
}

fn write_laid_out<V: View>(mut out: impl Write, head: &[u8], tensors: &[(String, V)]) -> io::Result<()> {
    out.write_all(head)?;
    for (_, tensor) in tensors {
        out.write_all(&tensor.data())?;
    }
    out.flush()
}

/// What a safetensors file begins with, and the length of the whole file.
fn header(
    tensors: impl Iterator<Item = (String, Dtype, Vec<usize>)>,
    notes: &BTreeMap<String, String>,
) -> io::Result<(Vec<u8>, u64)> {
    let mut end = 0;
    let infos: Vec<_> = tensors
        .map(|(name, dtype, shape)| {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorInfo { dtype, shape, data_offsets: (start, end) })
        })
        .collect();
    let comma = if infos.is_empty() { "" } else { "," };
    let metadata = Metadata::new(None, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_string(&metadata)?;
    if !notes.is_empty() {
        header.insert_str(1, &format!("\"__metadata__\":{}{comma}", serde_json::to_string(notes)?));
    }
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let head = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let length = (head.len() + end) as u64;
    Ok((head, length))
}

/// The bytes of the file that [`write`] makes of tensors of these names and shapes in one precision.
pub fn file_length(
    tensors: impl IntoIterator<Item = (String, Vec<usize>)>,
    precision: Precision,
    notes: &BTreeMap<String, String>,
) -> Result<u64, StageError> {
    mixed_file_length(tensors.into_iter().map(|(name, shape)| (name, precision.dtype(), shape)), notes)
}

/// The same of tensors that are each of a type of its own.
pub fn mixed_file_length(
    tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
    notes: &BTreeMap<String, String>,
) -> Result<u64, StageError> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    let (_, length) = header(tensors.into_iter(), notes)
        .map_err(|error| StageError::Unfit(format!("tensors of these shapes can't be written: {error}")))?;
    Ok(length)
}

/// [`write`] to a new file in the store, of which nothing is left if that fails.
pub fn write_file<V: View>(
    path: &Path,
    mut tensors: Vec<(String, V)>,
    notes: &BTreeMap<String, String>,
) -> Result<(), StageError> {
    let steps = files::Steps { create: "tensors.create", write: "tensors.write" };
    lay_out(&mut tensors, notes)
        .and_then(|(head, length)| {
            files::write_new(steps, path, length, |file| {
                write_laid_out(BufWriter::with_capacity(1 << 20, file), &head, &tensors)
            })
        })
        .map_err(|reason| StoreError::write(path)(reason).into())
}

/// Arrays as one safetensors file with at most one note.
///
/// # Errors
/// When a value is not finite in this precision: a cache must not keep what would poison a training.
pub fn to_bytes<N: AsRef<str>>(
    arrays: &[(N, &Array)],
    precision: Precision,
    note: Option<(&str, String)>,
) -> Result<Vec<u8>, StageError> {
    arrays.iter().try_for_each(|(name, array)| check(name.as_ref(), array, precision))?;
    let encoded =
        arrays.iter().map(|(name, array)| (name.as_ref().to_owned(), EncodedArray { array, precision })).collect();
    let notes = note.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    let mut bytes = Vec::new();
    write(&mut bytes, encoded, &notes)
        .map_err(|error| StageError::Unfit(format!("tensors can't be written: {error}")))?;
    Ok(bytes)
}

/// Refuses values that a precision can't hold.
pub(crate) fn check(name: &str, array: &Array, precision: Precision) -> Result<(), StageError> {
    let largest = if precision == Precision::F16 { f16::MAX.to_f32() } else { f32::MAX };
    match array.values.iter().find(|value| value.is_nan() || value.abs() > largest) {
        Some(value) => {
            Err(StageError::Unfit(format!("{name} holds {value}, which {precision:?} can't; use a wider precision")))
        }
        None => Ok(()),
    }
}

/// An array as safetensors writes it.
pub(crate) struct EncodedArray<'a> {
    pub(crate) array: &'a Array,
    pub(crate) precision: Precision,
}

impl View for EncodedArray<'_> {
    fn dtype(&self) -> Dtype {
        self.precision.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.array.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.precision.encode(&self.array.values).into()
    }

    fn data_len(&self) -> usize {
        self.array.values.len() * self.precision.bytes()
    }
}

/// Reads them again.
pub fn from_bytes(bytes: &[u8]) -> Result<BTreeMap<String, Array>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    file.iter()
        .map(|(name, view)| {
            let values =
                decode(view.dtype(), view.data()).ok_or_else(|| format!("{name} is of type {:?}", view.dtype()))?;
            Ok((name.to_owned(), Array { shape: view.shape().to_vec(), values }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back_as_they_were() {
        let (a, b) = (
            Array { shape: vec![2, 2], values: vec![1.0, -2.5, 0.0, 8.0] },
            Array { shape: vec![1], values: vec![3.0] },
        );
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let bytes = to_bytes(&[("a", &a), ("b", &b)], precision, None).unwrap();
            let read = from_bytes(&bytes).unwrap();
            assert_eq!((&read["a"], &read["b"]), (&a, &b));
        }
    }

    #[test]
    fn notes_are_written_in_order_and_the_library_reads_the_file() {
        let array = Array { shape: vec![3], values: vec![1.0, 2.0, 3.0] };
        let notes: BTreeMap<_, _> = (0..20).map(|index| (format!("note {index}"), "\"x\"".to_owned())).collect();
        let written = || {
            let mut bytes = Vec::new();
            let tensors = vec![("a".to_owned(), EncodedArray { array: &array, precision: Precision::F16 })];
            write(&mut bytes, tensors, &notes).unwrap();
            bytes
        };
        assert_eq!(written(), written());
        let bytes = written();
        let shapes = [("a".to_owned(), vec![3])];
        assert_eq!(file_length(shapes, Precision::F16, &notes).unwrap(), bytes.len() as u64);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap().len(), 20);
        assert_eq!(from_bytes(&bytes).unwrap()["a"], array);
    }

    #[test]
    fn as_many_tensors_as_a_real_model_has_are_written() {
        let array = Array { shape: vec![1], values: vec![1.0] };
        let name =
            |index| format!("model.diffusion_model.joint_blocks.{index}.context_block.adaLN_modulation.1.weight");
        let arrays: Vec<_> = (0..1000).map(|index| (name(index), &array)).collect();
        let bytes = to_bytes(&arrays, Precision::F16, None).unwrap();
        assert_eq!(from_bytes(&bytes).unwrap().len(), 1000);
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_by_name() {
        let large = Array { shape: vec![1], values: vec![70_000.0] };
        assert!(to_bytes(&[("large", &large)], Precision::F16, None).unwrap_err().to_string().contains("large"));
        assert!(to_bytes(&[("large", &large)], Precision::Bf16, None).is_ok());
        let nan = Array { shape: vec![1], values: vec![f32::NAN] };
        assert!(to_bytes(&[("nan", &nan)], Precision::F32, None).is_err());
    }

    #[test]
    fn eight_bit_values_are_the_formats_own() {
        let known = [(0x00, 0.0), (0x01, 0.001953125), (0x08, 0.015625), (0x38, 1.0), (0x7E, 448.0), (0xB9, -1.125)];
        for (bits, value) in known {
            assert_eq!(from_f8_e4m3(bits).to_f32(), value, "{bits:#x}");
        }
        assert!(from_f8_e4m3(0x7F).is_nan() && from_f8_e4m3(0xFF).is_nan());
        assert!(from_f8_e4m3(0x80).is_sign_negative());
    }
}
