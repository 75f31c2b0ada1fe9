//! Where a pipeline computes: what the file says, and the numeric class that enters the keys.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// The device as a pipeline names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// The first GPU if there is one and this build has CUDA, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this index.
    Cuda(usize),
}

/// The kind of device, as far as it shows in the bits of a result. The index of a GPU does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Results are equal to the bit, whatever the number of threads.
    Cpu,
    /// Results may differ in their last bits from run to run.
    Cuda,
}

impl Device {
    /// What the device is on this machine, in this build.
    pub fn kind(self) -> DeviceKind {
        match self {
            Self::Cpu => DeviceKind::Cpu,
            Self::Cuda(_) => DeviceKind::Cuda,
            Self::Auto if cuda_device_count() > 0 => DeviceKind::Cuda,
            Self::Auto => DeviceKind::Cpu,
        }
    }

    /// Why this device can't be had here, if it can't.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Cuda(_) if !cfg!(feature = "cuda") => {
                Some("this build has no CUDA: build it with `--features cuda`".to_owned())
            }
            Self::Cuda(index) if index >= cuda_device_count() => {
                Some(format!("there is no GPU {index}: {} found", cuda_device_count()))
            }
            _ => None,
        }
    }

    /// burn's handle of the device. `Device::default()` of burn is never called: with CUDA built in it is the first GPU, unprobed.
    #[cfg(feature = "compute")]
    pub fn open(self) -> burn::tensor::Device {
        #[cfg(feature = "cuda")]
        sd3pipe_kernels::keep_f32();
        match (self, self.kind()) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(index), _) => burn::tensor::Device::cuda(index),
            #[cfg(feature = "cuda")]
            (Self::Auto, DeviceKind::Cuda) => burn::tensor::Device::cuda(0),
            _ => burn::tensor::Device::flex(),
        }
    }
}

/// Has this process keep compiled GPU kernels in a store's folder, for the next one; in a build without CUDA there are none. To be called
/// before a device is used.
pub fn keep_kernels(store: &Path) {
    #[cfg(feature = "cuda")]
    sd3pipe_kernels::keep_kernels(&store.join("kernels"));
    #[cfg(not(feature = "cuda"))]
    let _ = store;
}

/// Whether tensors of this device are on a GPU.
#[cfg(feature = "cuda")]
pub(crate) fn is_gpu(device: &burn::tensor::Device) -> bool {
    device.clone().inner() != burn::tensor::Device::flex()
}

#[cfg(feature = "cuda")]
fn cuda_device_count() -> usize {
    burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().len()
}

#[cfg(not(feature = "cuda"))]
fn cuda_device_count() -> usize {
    0
}
