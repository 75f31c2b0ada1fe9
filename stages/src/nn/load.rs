//! Weights from a model file to a device, a tensor at a time.

use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use safetensors::Dtype;

use super::weights::{Weight, Weights};
use crate::checkpoint::{ComponentSource, TensorView};
use crate::tensors;

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
/// At most one tensor is held in memory besides those on the device: what was read of the file is given back.
///
/// # Errors
/// When a tensor is stored in a type other than F32, F16, BF16 or F8_E4M3.
pub fn load(source: &ComponentSource, device: &Device, dtype: DType) -> Result<Weights, LoadError> {
    load_each(source, |_| (device.clone(), dtype))
}

/// The same, with a device and a type for each tensor.
///
/// # Errors
/// As [`load`].
pub fn load_each(source: &ComponentSource, place: impl Fn(&str) -> (Device, DType)) -> Result<Weights, LoadError> {
    load_some(source, |name| Some(place(name)))
}

/// The same of those tensors alone that have a place.
///
/// # Errors
/// As [`load`].
pub fn load_some(
    source: &ComponentSource,
    place: impl Fn(&str) -> Option<(Device, DType)>,
) -> Result<Weights, LoadError> {
    #[cfg(feature = "cuda")]
    let mut waiting = Waiting::default();
    let tensor = |(name, view, (device, dtype)): (&str, TensorView<'_>, (Device, DType))| {
        let data = read(&view).ok_or_else(|| LoadError::Dtype {
            file: source.path().display().to_string(),
            name: name.into(),
            dtype: view.dtype,
        })?;
        // Named, because the device's default type would be used otherwise; cast there, where it is faster.
        let stored = data.dtype();
        #[cfg(feature = "cuda")]
        waiting.add(&device, view.bytes().len());
        let values = Tensor::<1>::from_data(data, (&device, stored)).cast(dtype);
        source.release(name);
        Ok((name.to_owned(), Weight { values, shape: view.shape }))
    };
    source.tensors().filter_map(|(name, view)| Some((name, view, place(name)?))).map(tensor).collect()
}

/// Bytes on their way to a GPU, where casts are put off: without a stop what was sent and what it becomes are all there at once.
#[cfg(feature = "cuda")]
#[derive(Default)]
struct Waiting(usize);

#[cfg(feature = "cuda")]
impl Waiting {
    const MOST: usize = 128 << 20;

    fn add(&mut self, device: &Device, bytes: usize) {
        self.0 += bytes;
        if self.0 > Self::MOST && crate::device::is_gpu(device) {
            // What fails here fails again, and is told of, where the values are first read.
            let _ = device.sync();
            self.0 = 0;
        }
    }
}

/// The values in their own type, except F8, which few devices know and F16 holds exactly.
fn read(view: &TensorView<'_>) -> Option<TensorData> {
    let bytes = view.bytes();
    Some(match view.dtype {
        Dtype::F32 => flat(bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()),
        Dtype::F16 => flat(bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value)).collect()),
        Dtype::BF16 => flat(bytes.as_chunks().0.iter().map(|&value| bf16::from_le_bytes(value)).collect()),
        Dtype::F8_E4M3 => flat(bytes.iter().map(|&value| tensors::from_f8_e4m3(value)).collect()),
        _ => return None,
    })
}

fn flat<E: burn::tensor::Element>(values: Vec<E>) -> TensorData {
    let length = values.len();
    TensorData::new(values, [length])
}
