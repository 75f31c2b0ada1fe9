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

/// Several devices that share the work, as a pipeline names them. How many there are changes no result but for the order in which numbers
/// are added up, and is in no key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Devices {
    /// All GPUs that there are; the CPU if there is none.
    All,
    /// The NVIDIA GPUs of these indices: on a machine with fewer, those that there are, and the CPU if there is none.
    Cuda(Vec<usize>),
    /// So many at once on the CPU. It is no faster than one, and shows on any machine what several devices do.
    Cpu(usize),
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

impl Devices {
    /// Those that there are on this machine, in this build; there is one at least.
    pub fn here(&self) -> Vec<Device> {
        let there = cuda_device_count();
        let here: Vec<Device> = match self {
            Self::All => (0..there).map(Device::Cuda).collect(),
            Self::Cuda(asked) => asked.iter().filter(|index| **index < there).copied().map(Device::Cuda).collect(),
            Self::Cpu(count) => vec![Device::Cpu; *count],
        };
        if here.is_empty() { vec![Device::Cpu] } else { here }
    }

    /// What is not as it was asked for, if something is.
    pub fn lacking(&self) -> Option<String> {
        let Self::Cuda(asked) = self else { return None };
        let there = asked.iter().filter(|index| **index < cuda_device_count()).count();
        match there {
            0 if !cfg!(feature = "cuda") => Some("this build has no CUDA: on the CPU".to_owned()),
            0 => Some(format!("none of the {} GPUs is here: on the CPU", asked.len())),
            1 if asked.len() > 1 => Some(format!("1 of the {} GPUs is here", asked.len())),
            there if there < asked.len() => Some(format!("{there} of the {} GPUs are here", asked.len())),
            _ => None,
        }
    }

    /// Why they can be had nowhere, if so.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Cuda(asked) if asked.is_empty() => Some("it names no GPU"),
            Self::Cuda(asked) if (1..asked.len()).any(|at| asked[..at].contains(&asked[at])) => {
                Some("it names a GPU twice")
            }
            Self::Cpu(0) => Some("it names no device"),
            _ => None,
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

/// Bytes that a network may take of a device, if it is a GPU: what it has, or the GiB that `SD3PIPE_GPU_MEMORY` says, less what CUDA
/// itself and the kernels take.
#[cfg(feature = "compute")]
pub(crate) fn room(device: &burn::tensor::Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if is_gpu(device) {
        return told_room().or_else(|| device.memory_capacity().map(|memory| memory.saturating_sub(BESIDE)));
    }
    let _ = device;
    None
}

/// Bytes that CUDA itself and the kernels take of a GPU.
const BESIDE: u64 = 1300 << 20;

/// Bytes that a network may take of a GPU by what `SD3PIPE_GPU_MEMORY` says, if it says something.
pub(crate) fn told_room() -> Option<u64> {
    let told = std::env::var("SD3PIPE_GPU_MEMORY").ok().and_then(|gib| gib.parse::<f64>().ok());
    told.map(|gib| ((gib * f64::from(1 << 30)) as u64).saturating_sub(BESIDE))
}

/// Bytes of that room that no tensor is in.
#[cfg(feature = "compute")]
pub(crate) fn free(device: &burn::tensor::Device) -> Option<u64> {
    let room = room(device)?;
    Some(room.saturating_sub(device.memory_pool_usage().map_or(0, |usage| usage.bytes_in_use)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_devices_are_those_that_there_are() {
        assert_eq!(Devices::Cpu(2).here(), [Device::Cpu; 2]);
        assert!(
            [Devices::Cpu(2), Devices::All, Devices::Cuda(vec![1, 0])].iter().all(|devices| devices.fault().is_none())
        );
        for devices in [Devices::Cpu(0), Devices::Cuda(vec![]), Devices::Cuda(vec![1, 0, 1])] {
            assert!(devices.fault().is_some());
        }
        let beyond = Devices::Cuda(vec![usize::MAX]);
        assert_eq!(beyond.here(), [Device::Cpu]);
        assert!(beyond.lacking().unwrap().ends_with("on the CPU"));
        if cuda_device_count() == 0 {
            assert_eq!(Devices::All.here(), [Device::Cpu]);
        }
    }
}
