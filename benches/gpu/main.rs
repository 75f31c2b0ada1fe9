//! SD3-medium at full size on one GPU: from a matrix product to a training step and a picture.
//!
//!     cargo bench --features cuda --package sd3pipe-stages --bench gpu -- [--json FILE] [SECTION …]
//!
//! Weights are random and made on the device. Each line: what, median, fastest and slowest of the runs, TFLOP/s by counted operations and
//! GB/s by counted bytes, and what is held of the device's memory. Runs come after others of the very same, because kernels are
//! compiled and chosen during the first ones. `--json` writes every figure as a line of JSON too; `table.py` beside this file makes the
//! table of them, next to PyTorch's.

mod attention;
mod checks;
mod devices;
mod encoders;
mod goldens;
mod measure;
mod network;
mod operations;
#[path = "../../stages/tests/released/mod.rs"]
mod released;
mod rest;

use burn::tensor::{Device, DeviceType};
use measure::Bench;
use std::{fs::File, process::ExitCode};

type Section = (&'static str, fn(&Bench));

/// What takes longest comes last.
const SECTIONS: [Section; 18] = [
    ("checks", checks::run),
    ("goldens", goldens::run),
    ("ceiling", operations::ceiling),
    ("products", operations::products),
    ("attention", attention::run),
    ("rest", rest::rest),
    ("block", network::block),
    ("text", encoders::text),
    ("vae", encoders::vae),
    ("forward", network::forward),
    ("backward", network::backward),
    ("recipe", network::recipe),
    ("step", network::step),
    ("sample", network::sample),
    ("devices", devices::run),
    ("halves", devices::halves),
    ("profile", network::profile),
    ("profile-of-4", network::profile_of_4),
];

fn main() -> ExitCode {
    let Some(device) = Device::enumerate(DeviceType::Cuda).into_vec().into_iter().next() else {
        println!("no NVIDIA GPU here: nothing to measure");
        return ExitCode::SUCCESS;
    };
    sd3pipe_kernels::keep_f32();
    let (mut wanted, mut lines) = (Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            let path = arguments.next().expect("a file after --json");
            lines = Some(File::create(&path).unwrap_or_else(|error| panic!("{path}: {error}")));
        } else if !argument.starts_with('-') {
            assert!(SECTIONS.iter().any(|(name, _)| *name == argument), "there is no section {argument}");
            wanted.push(argument);
        }
    }
    let bench = Bench::new(device, lines);
    for (name, section) in SECTIONS {
        // What is profiled is of no use without the log that table.py asks for.
        let by_default = wanted.is_empty() && !name.starts_with("profile");
        if by_default || wanted.iter().any(|word| word == name) {
            bench.section(name, section);
        }
    }
    match bench.failures() {
        0 => ExitCode::SUCCESS,
        count => {
            println!("{count} rows failed");
            ExitCode::FAILURE
        }
    }
}
