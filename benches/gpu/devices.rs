//! Steps of the known-good recipe on one device and on all that there are.

use crate::{
    measure::{Bench, Least},
    network::{FORWARD, IN_8_BITS, PARAMETERS, RATE, Training},
};
use burn::tensor::{DType, Device, DeviceType, Tensor, distributed::ReduceOperation};
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer};
use sd3pipe_stages::train::parameters::Checkpointing;
use sd3pipe_stages::train::{Batch, Gradients, Rank, State};
use std::time::Instant;

const WARM_UPS: usize = 4;
const STEPS: usize = 8;

pub fn run(bench: &Bench) {
    let all: Vec<Device> = Device::enumerate(DeviceType::Cuda).into_vec();
    let several = [(4, all.len()), (all.len(), all.len())];
    for (pictures, devices) in [(4, 1), (2, 1), (1, 1)].into_iter().chain(several.into_iter().filter(|_| all.len() > 1))
    {
        let row = format!("{pictures} pictures a step on {devices}");
        let operations = 4.0 * FORWARD * pictures as f64 / devices as f64;
        let least = Least { operations, bytes: IN_8_BITS / devices as f64 };
        if let Some(Taken { whole, held, .. }) =
            bench.attempt(&row, || steps(&all[..devices], pictures / devices, true, false))
        {
            bench.report_times(&row, least, whole, held);
        }
        all.iter().for_each(Device::memory_cleanup);
    }
    match all.len() {
        1 => together(bench),
        _ => {
            let row = "a picture a step on each by itself";
            if let Some(Taken { whole, held, .. }) = bench.attempt(row, || steps(&all, 1, false, false)) {
                bench.report_times(row, Least { operations: 4.0 * FORWARD, bytes: IN_8_BITS }, whole, held);
            }
            alone(bench, &all);
        }
    }
}

/// The halves of a step of one picture each, on one device and on all: gradients, and what is made of them, each waited for.
pub fn halves(bench: &Bench) {
    let all: Vec<Device> = Device::enumerate(DeviceType::Cuda).into_vec();
    // One alone has nothing beside it.
    for devices in [1, all.len()].into_iter().take(all.len()) {
        let row = format!("{devices} pictures a step on {devices}");
        if let Some(Taken { gradients, whole, held }) = bench.attempt(&row, || steps(&all[..devices], 1, true, true)) {
            let updates = whole.iter().zip(&gradients).map(|(whole, gradients)| whole - gradients).collect();
            bench.report_times(&format!("{row}, gradients"), Least::default(), gradients, held);
            bench.report_times(&format!("{row}, update"), Least::default(), updates, held);
        }
        all.iter().for_each(Device::memory_cleanup);
    }
}

/// Two ranks on one card, whose gradients are then added up without NCCL: their losses and norms against those of one with both pictures.
fn together(bench: &Bench) {
    let training = of_recipe(bench);
    let other = Training::new(bench, Optimizer::AdamW8bit(AdamW::default())).batch;
    let pictures = [training.batch.clone(), other];
    let alone = measured(std::slice::from_ref(&bench.device), &training, &pictures);
    let both = measured(&[bench.device.clone(), bench.device.clone()], &training, &pictures);
    for (step, (alone, both)) in alone.iter().zip(&both).enumerate() {
        bench.check(&format!("loss of step {step} of two ranks"), (both[0] / alone[0] - 1.0).abs(), 1e-3);
        bench.check(&format!("norm of step {step} of two ranks"), (both[1] / alone[1] - 1.0).abs(), 1e-2);
    }
}

/// Losses and norms of three steps over these pictures, dealt to devices.
fn measured(devices: &[Device], start: &Training, pictures: &[Batch]) -> Vec<[f64; 2]> {
    let (ranks, serve) = Rank::group(devices, lengths());
    std::thread::scope(|scope| {
        scope.spawn(serve);
        let each = pictures.len() / devices.len();
        let threads = ranks.into_iter().zip(pictures.chunks(each)).map(|(rank, own)| {
            let (mut state, parameters) = (State { rank, ..start.state.clone() }, start.parameters.clone());
            scope.spawn(move || {
                let step = |step| {
                    let batches = own.iter().cloned().map(Ok);
                    let gradients = Gradients::by_blocks(&mut state, &parameters, batches, pictures.len());
                    let found = state.update(gradients.expect("gradients"), &parameters, 1e-5, step).expect("a step");
                    [found.loss, found.gradient_norm]
                };
                (0..3).map(step).collect()
            })
        });
        let all: Vec<Vec<[f64; 2]>> =
            threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("a device")).collect();
        all.into_iter().next().unwrap_or_default()
    })
}

fn of_recipe(bench: &Bench) -> Training {
    let mut training = Training::new(bench, Optimizer::AdamW8bit(AdamW::default()));
    training.parameters.checkpointing = Checkpointing::Blocks;
    training.parameters.max_gradient_norm = 1.0;
    training
}

fn lengths() -> Vec<(String, usize)> {
    crate::released::mmdit().into_iter().map(|(name, shape)| (name, shape.iter().product())).collect()
}

/// Of steps, in seconds, and the most bytes that are held of one device.
struct Taken {
    /// Until the gradients are there, if they are waited for.
    gradients: Vec<f64>,
    whole: Vec<f64>,
    held: u64,
}

/// Steps in which each device adds up the gradients of so many pictures. They train one network together, or each its own.
fn steps(devices: &[Device], pictures: usize, together: bool, waits: bool) -> Taken {
    let (ranks, serve) = Rank::group(devices, lengths());
    std::thread::scope(|scope| {
        scope.spawn(serve);
        let threads = ranks.into_iter().zip(devices).map(|(rank, device)| {
            scope.spawn(move || {
                let mut training = of_recipe(&Bench::new(device.clone(), None));
                if together && devices.len() > 1 {
                    training.state.rank = rank;
                }
                let mut taken = Taken { gradients: Vec::new(), whole: Vec::new(), held: 0 };
                for turn in 0..WARM_UPS + STEPS {
                    let start = Instant::now();
                    let batches = (0..pictures).map(|_| Ok(training.batch.clone()));
                    let samples = pictures * if together { devices.len() } else { 1 };
                    let gradients = Gradients::by_blocks(&mut training.state, &training.parameters, batches, samples);
                    if waits {
                        device.sync().expect("a device");
                    }
                    let half = start.elapsed();
                    let step = training.next();
                    // What is measured of a step is read, which waits for all of it but the weights' way.
                    let gradients = gradients.expect("gradients");
                    training.state.update(gradients, &training.parameters, RATE, step).expect("a step");
                    device.sync().expect("a device");
                    if turn >= WARM_UPS {
                        taken.gradients.push(half.as_secs_f64());
                        taken.whole.push(start.elapsed().as_secs_f64());
                    }
                    taken.held = taken.held.max(device.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved));
                }
                taken
            })
        });
        let all: Vec<Taken> =
            threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("a device")).collect();
        let held = all.iter().map(|taken| taken.held).max().unwrap_or_default();
        let first = all.into_iter().next().expect("a device");
        Taken { held, ..first }
    })
}

/// What all gradients and all weights take on their way, with nothing else going on.
fn alone(bench: &Bench, all: &[Device]) {
    let sections = 24;
    let each = (PARAMETERS as usize / sections).next_multiple_of(256 * all.len());
    let part = |device: &Device, count: usize, dtype| Tensor::<1>::ones([count], (device, DType::F32)).cast(dtype);
    for (row, dtype) in
        [("gradients and weights alone, bf16", DType::BF16), ("gradients in f32 and weights alone", DType::F32)]
    {
        let gradients: Vec<Tensor<1>> = all.iter().map(|device| part(device, each, dtype)).collect();
        let weights: Vec<Tensor<1>> = all.iter().map(|device| part(device, each / all.len(), DType::BF16)).collect();
        bench.time(row, Least::default(), || {
            let mut last = Vec::new();
            for _ in 0..sections {
                last = Tensor::reduce_scatter(gradients.clone(), 0, ReduceOperation::Sum);
                last.extend(Tensor::all_gather(weights.clone(), 0));
            }
            all.iter().for_each(|device| device.sync().expect("a device"));
            last
        });
    }
}
