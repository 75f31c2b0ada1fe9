//! Times a piece of work on the device.

use burn::tensor::{DType, Device, Distribution, Tensor};
use std::time::Instant;

/// A device, and how often things are repeated there.
pub struct Bench {
    pub device: Device,
    runs: usize,
}

impl Bench {
    pub fn new(device: Device) -> Self {
        let runs = std::env::var("GPU_BENCH_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
        Self { device, runs }
    }

    /// Normal values in bf16.
    pub fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let values: Tensor<D> = Tensor::random(shape, Distribution::Normal(0.0, 1.0), (&self.device, DType::F32));
        values.cast(DType::BF16)
    }

    /// Times `work`, whose result is kept until the device is done: what is dropped unread is never computed. Gives the median, in
    /// seconds.
    pub fn time<T>(&self, name: &str, operations: f64, mut work: impl FnMut() -> T) -> f64 {
        let start = Instant::now();
        let mut once = || {
            let start = Instant::now();
            let kept = work();
            let synced = self.device.sync();
            drop(kept);
            assert!(synced.is_ok(), "{name}: {synced:?}");
            start.elapsed().as_secs_f64()
        };
        let first = once();
        // At least eight, but not for ever: what takes seconds is not hidden by warming up.
        let mut warm = 1;
        while warm < 6 && (warm < 2 || start.elapsed().as_secs_f64() < 60.0) {
            once();
            warm += 1;
        }
        let runs = if start.elapsed().as_secs_f64() > 40.0 { self.runs.min(5) } else { self.runs };
        let mut times: Vec<f64> = (0..runs).map(|_| once()).collect();
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let memory = self.device.memory_pool_usage().map_or(String::new(), |usage| {
            format!("in use {:.2} GiB, reserved {:.2} GiB", gib(usage.bytes_in_use), gib(usage.bytes_reserved))
        });
        println!(
            "{name}: {:.3} ms ({:.3} to {:.3}), first {first:.1} s, {:.0} TFLOP/s, {memory}",
            median * 1e3,
            times[0] * 1e3,
            times[times.len() - 1] * 1e3,
            operations / median / 1e12,
        );
        median
    }
}
