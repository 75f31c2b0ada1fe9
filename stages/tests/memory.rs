//! The memory that training was said to need, against what a process that trains really has resident (`VmHWM`). It takes a minute and
//! 4 GB of memory, so it is skipped unless it is asked for:
//!
//!     SD3PIPE_MEMORY=1 cargo test --release --package sd3pipe-stages --test memory -- --nocapture
#![cfg(all(feature = "compute", target_os = "linux"))]

use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_stages::{
    checkpoint::{MmditGeometry, mmdit_names},
    device::DeviceKind,
    nn::{self, Weight, Weights},
    precision::Precision,
    tensors::Array,
    train::{Batch, Drawn, Footprint, Gradients, State, parameters::Train, tracked},
};
use std::process::Command;

/// Asks for it.
const ASKED: &str = "SD3PIPE_MEMORY";
/// Tells the process that trains which training.
const TRAINS: &str = "SD3PIPE_MEMORY_TRAINS";

const MIB: f64 = (1u64 << 20) as f64;

/// A training: the network's type, and a side of the latents.
type Training = (Precision, usize);

const TRAININGS: [Training; 4] =
    [(Precision::F32, 64), (Precision::F32, 16), (Precision::Bf16, 64), (Precision::Bf16, 16)];

const TEXT: usize = 93;

#[test]
fn training_needs_about_the_memory_that_was_said() {
    if let Some(index) = std::env::var(TRAINS).ok().and_then(|index| index.parse::<usize>().ok()) {
        train(TRAININGS[index]);
        println!("peak {}", peak());
        return;
    }
    if std::env::var_os(ASKED).is_none() {
        println!("skipped: it is done when {ASKED} is set");
        return;
    }
    for (index, (precision, side)) in TRAININGS.into_iter().enumerate() {
        let said = footprint(precision, side).peak() as f64;
        let measured = peak_of(index);
        let ratio = said / measured;
        println!(
            "{precision:?}, latents of {side} × {side}: said {:.0} MiB, measured {:.0} MiB, {ratio:.3} times",
            said / MIB,
            measured / MIB
        );
        // A CPU's own buffers for products, and what its allocator keeps, are not counted.
        assert!((0.7..1.3).contains(&ratio));
    }
}

fn peak_of(index: usize) -> f64 {
    let exe = std::env::current_exe().unwrap();
    let test = "training_needs_about_the_memory_that_was_said";
    let output =
        Command::new(exe).args(["--exact", test, "--nocapture"]).env(TRAINS, index.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().find_map(|line| line.split_once("peak ")?.1.trim().parse().ok()).unwrap()
}

/// The most memory that this process ever had resident, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// 90 million parameters.
fn geometry() -> MmditGeometry {
    MmditGeometry {
        depth: 4,
        width: 768,
        heads: 12,
        qk_norm: true,
        dual_attention: vec![0],
        position_grid: 32,
        context_width: 4096,
        pooled_width: 2048,
        patch: 2,
        channels: 16,
    }
}

fn footprint(precision: Precision, side: usize) -> Footprint {
    let parameters = Train { precision, ..Train::default() };
    let batch = [1, (side * side / 4) as u64, TEXT as u64];
    Footprint::new(&geometry(), &parameters, DeviceKind::Cpu, vec![batch]).unwrap()
}

/// Two steps: the second has everything that a step of a long training has.
fn train((precision, side): Training) {
    let device = Device::flex();
    let mut state = State::start(random_weights(&device));
    let parameters = Train { precision, ..Train::default() };
    let dtype = nn::dtype(precision);
    let place = (&device, dtype);
    for step in 0..2 {
        let tracked = tracked(&state.weights, dtype, |name| parameters.trains(name));
        let values = 16 * side * side;
        let raw = Array { shape: vec![16, side, side], values: vec![0.5; values] };
        let drawn = Drawn { raw, noise: vec![1.0; values], sigma: 0.5 };
        let batch = Batch::new(&[drawn], Tensor::ones([1, TEXT, 4096], place), Tensor::ones([1, 2048], place));
        let gradients = Gradients::of(&tracked, [batch], 1).unwrap();
        state.update(gradients, &parameters, 1e-4, step).unwrap();
    }
}

fn random_weights(device: &Device) -> Weights {
    let mut seed = 1u32;
    let mut value = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(seed) / f64::from(u32::MAX) - 0.5) as f32 * 0.05
    };
    let weight = |(name, shape): (String, Vec<usize>)| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|_| value()).collect();
        let count = values.len();
        (name, Weight { values: Tensor::from_data(TensorData::new(values, [count]), (device, DType::F32)), shape })
    };
    mmdit_names(&geometry()).into_iter().map(weight).collect()
}
