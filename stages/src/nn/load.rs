//! Weights from a model file to a device, a tensor at a time.

use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use safetensors::Dtype;

use super::weights::{Weight, Weights};
use crate::checkpoint::{ComponentSource, TensorView};

/// Why a tensor can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file stores the tensor in a type that is not read.
    #[error("{name} in {file} is stored as {dtype}; use a file in F32, F16, BF16 or F8_E4M3")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor's canonical name.
        name: String,
        /// The type that it is stored in.
        dtype: Dtype,
    },
}

/// Loads every tensor of a network to the device, as `dtype`. Values that `dtype` can't hold are rounded to the nearest.
///
/// At most one tensor is held in memory besides those on the device.
///
/// # Errors
/// When a tensor is stored in a type other than F32, F16, BF16 or F8_E4M3.
pub fn load(source: &ComponentSource, device: &Device, dtype: DType) -> Result<Weights, LoadError> {
    let tensor = |(name, view): (&str, TensorView<'_>)| {
        let data = read(view).ok_or_else(|| LoadError::Dtype {
            file: source.file().path().display().to_string(),
            name: name.into(),
            dtype: view.dtype,
        })?;
        // Named, because the device's default type would be used otherwise; cast there, where it is faster.
        let stored = data.dtype();
        let values = Tensor::<1>::from_data(data, (device, stored)).cast(dtype);
        Ok((name.to_owned(), Weight { values, shape: view.shape.to_vec() }))
    };
    source.tensors().map(tensor).collect()
}

/// The values in their own type, except F8, which few devices know and F16 holds exactly.
fn read(view: TensorView<'_>) -> Option<TensorData> {
    let bytes = view.bytes;
    Some(match view.dtype {
        Dtype::F32 => flat(bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()),
        Dtype::F16 => flat(bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value)).collect()),
        Dtype::BF16 => flat(bytes.as_chunks().0.iter().map(|&value| bf16::from_le_bytes(value)).collect()),
        Dtype::F8_E4M3 => flat(bytes.iter().map(|&value| from_f8_e4m3(value)).collect()),
        _ => return None,
    })
}

fn flat<E: burn::tensor::Element>(values: Vec<E>) -> TensorData {
    let length = values.len();
    TensorData::new(values, [length])
}

/// Sign, 4 bits of exponent with bias 7, 3 bits of mantissa; no infinities, and NaN only with all bits set
/// (arXiv:2209.05433, E4M3). F16 has bias 15 and 10 bits of mantissa.
fn from_f8_e4m3(value: u8) -> f16 {
    let (exponent, mantissa) = (i32::from(value >> 3 & 15), f32::from(value & 7));
    let magnitude = match (exponent, value & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    f16::from_f32(if value & 0x80 == 0 { magnitude } else { -magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

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
