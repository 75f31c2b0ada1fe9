//! SD3-medium at full size on one GPU: matrix products, attention, a block, the network, a training step.
//!
//!     cargo bench --features cuda --package sd3pipe-stages --bench gpu -- [SECTION …]
//!
//! Weights are random and made on the device. Each line: what, median, fastest and slowest of the runs, TFLOP/s by counted operations,
//! and the memory in use at the peak seen between two operations. Runs come after as many of the very same, because kernels are
//! compiled and chosen during the first ones.

mod measure;
mod network;
mod operations;
mod rest;

use burn::tensor::{Device, DeviceType};
use measure::Bench;

fn main() {
    let Some(device) = Device::enumerate(DeviceType::Cuda).into_vec().into_iter().next() else {
        println!("no NVIDIA GPU here: nothing to measure");
        return;
    };
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let bench = Bench::new(device);
    type Section = (&'static str, fn(&Bench));
    let sections: [Section; 8] = [
        ("matmul", operations::matmul),
        ("attention", operations::attention),
        ("pieces", operations::pieces),
        ("rest", rest::rest),
        ("block", network::block),
        ("forward", network::forward),
        ("backward", network::backward),
        ("step", network::step),
    ];
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("-- {name}");
            section(&bench);
            bench.device.memory_cleanup();
        }
    }
}
