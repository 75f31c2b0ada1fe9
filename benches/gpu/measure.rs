//! Times a piece of work on the device, and goes on when one fails.

use burn::tensor::{DType, Device, Distribution, Tensor};
use sd3pipe_stages::nn::{Weight, Weights, to_host};
use serde_json::{Value, json};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    fs::File,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

/// What a piece of work can't do without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Least {
    /// Multiplications and additions of its matrix products, convolutions and attentions.
    pub operations: f64,
    /// Bytes that are read or written once.
    pub bytes: f64,
}

impl From<f64> for Least {
    fn from(operations: f64) -> Self {
        Self { operations, bytes: 0.0 }
    }
}

/// Work is warmed up for so many runs, and measured for as many as fit into so many seconds.
const WARM_UPS: usize = 6;
const SECONDS: f64 = 10.0;

/// What comes out of timed work. It is read once: a kernel that could not be launched takes no time at all, and shows only there.
pub trait Outcome {
    /// Panics if it was not computed.
    fn read(&self);
}

impl Outcome for () {
    fn read(&self) {}
}

impl<const D: usize> Outcome for Tensor<D> {
    fn read(&self) {
        to_host(self.clone().flatten::<1>(0, D - 1).narrow(0, 0, 1));
    }
}

impl<T: Outcome> Outcome for Vec<T> {
    fn read(&self) {
        self.iter().for_each(T::read);
    }
}

impl<T: Outcome, U: Outcome> Outcome for (T, U) {
    fn read(&self) {
        self.0.read();
        self.1.read();
    }
}

/// A device, how often things are repeated there, and where figures go.
pub struct Bench {
    pub device: Device,
    runs: usize,
    section: Cell<&'static str>,
    failures: Cell<usize>,
    lines: Option<RefCell<File>>,
}

impl Bench {
    /// Figures are printed, and written to a file of JSON lines if there is one.
    pub fn new(device: Device, lines: Option<File>) -> Self {
        let runs = std::env::var("GPU_BENCH_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
        Self { device, runs, section: Cell::new(""), failures: Cell::new(0), lines: lines.map(RefCell::new) }
    }

    /// How many rows failed.
    pub fn failures(&self) -> usize {
        self.failures.get()
    }

    /// Normal values in bf16.
    pub fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let values: Tensor<D> = Tensor::random(shape, Distribution::Normal(0.0, 1.0), (&self.device, DType::F32));
        values.cast(DType::BF16)
    }

    /// The tensors of a network in bf16, made on the device.
    pub fn weights(&self, names: Vec<(String, Vec<usize>)>) -> Weights {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let law = Distribution::Normal(0.0, 0.02);
            let values: Tensor<1> = Tensor::random([shape.iter().product::<usize>()], law, (&self.device, DType::F32));
            (name, Weight { values: values.cast(DType::BF16), shape })
        };
        names.into_iter().map(tensor).collect()
    }

    /// Runs a section; one that fails is a row that failed.
    pub fn section(&self, name: &'static str, section: fn(&Self)) {
        println!("-- {name}");
        self.section.set(name);
        self.attempt(name, || section(self));
        self.device.memory_cleanup();
        self.write(json!({ "section": name, "done": true }));
    }

    /// Times `work`, whose result is kept until the device is done: what is dropped unread is never computed.
    pub fn time<T: Outcome>(&self, row: &str, least: impl Into<Least>, work: impl FnMut() -> T) {
        self.back_to_back(row, 1, least, work);
    }

    /// The same of so many in the queue at once, the figures for one of them.
    pub fn back_to_back<T: Outcome>(
        &self,
        row: &str,
        launches: usize,
        least: impl Into<Least>,
        work: impl FnMut() -> T,
    ) {
        if let Some(measured) = self.attempt(row, || self.measure(launches, work)) {
            self.report(row, least.into(), &measured);
        }
    }

    /// Has something done; if it panics, that is a row that failed.
    pub fn attempt<T>(&self, row: &str, work: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(work)).inspect_err(|panic| self.fail(row, &reason(panic.as_ref()))).ok()
    }

    fn measure<T: Outcome>(&self, launches: usize, mut work: impl FnMut() -> T) -> Measured {
        let start = Instant::now();
        work().read();
        let first = start.elapsed().as_secs_f64();
        let mut once = || {
            let start = Instant::now();
            let kept: Vec<T> = (0..launches).map(|_| work()).collect();
            let synced = self.device.sync();
            let seconds = start.elapsed().as_secs_f64();
            drop(kept);
            if let Err(error) = synced {
                panic!("{error:?}");
            }
            seconds / launches as f64
        };
        // At least once more, but not for ever: what takes seconds is not hidden by warming up.
        let mut last = once();
        for _ in 2..WARM_UPS {
            if start.elapsed().as_secs_f64() < SECONDS {
                last = once();
            }
        }
        // What choosing kernels took in memory is given back; the work's own comes again with a run more.
        self.device.memory_cleanup();
        once();
        let fitting = SECONDS / (last * launches as f64);
        let runs = (fitting as usize).clamp(3, self.runs.max(3));
        let mut reserved = 0;
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..runs {
            times.push(once());
            reserved = reserved.max(self.device.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved));
        }
        times.sort_by(f64::total_cmp);
        Measured { first, times, reserved }
    }

    /// Figures that were measured elsewhere.
    pub fn report_times(&self, row: &str, least: Least, mut times: Vec<f64>, held: u64) {
        times.sort_by(f64::total_cmp);
        self.report(row, least, &Measured { first: 0.0, times, reserved: held });
    }

    fn report(&self, row: &str, least: Least, measured: &Measured) {
        let Measured { first, times, reserved } = measured;
        let (median, fastest, slowest) = (times[times.len() / 2], times[0], times[times.len() - 1]);
        println!(
            "{row}: {:.3} ms ({:.3} to {:.3}), first {first:.1} s, {:.0} TFLOP/s, {:.0} GB/s, {:.2} GiB held",
            median * 1e3,
            fastest * 1e3,
            slowest * 1e3,
            least.operations / median / 1e12,
            least.bytes / median / 1e9,
            *reserved as f64 / (1u64 << 30) as f64,
        );
        self.write_row(
            row,
            json!({
                "median": median, "fastest": fastest, "slowest": slowest, "runs": times.len(), "first": first,
                "held": reserved, "operations": least.operations, "bytes": least.bytes,
            }),
        );
    }

    /// Whether something is as near to what it should be as it has to be.
    pub fn check(&self, row: &str, error: f64, bound: f64) {
        if error <= bound {
            println!("{row}: off by {error:.1e} (at most {bound:.0e})");
            self.write_row(row, json!({ "off": error, "bound": bound }));
        } else {
            self.fail(row, &format!("off by {error:.1e} and not by {bound:.0e} at most"));
        }
    }

    fn fail(&self, row: &str, reason: &str) {
        println!("{row}: failed: {reason}");
        self.failures.set(self.failures() + 1);
        self.write_row(row, json!({ "error": reason }));
    }

    fn write_row(&self, row: &str, figures: Value) {
        let mut line = json!({ "section": self.section.get(), "row": row });
        if let (Some(line), Value::Object(figures)) = (line.as_object_mut(), figures) {
            line.extend(figures);
        }
        self.write(line);
    }

    fn write(&self, line: Value) {
        if let Some(lines) = &self.lines
            && let Err(error) = writeln!(lines.borrow_mut(), "{line}")
        {
            println!("the figures can't be written: {error}");
        }
    }
}

/// Seconds, and the most bytes that burn held of the device after a run.
struct Measured {
    first: f64,
    times: Vec<f64>,
    reserved: u64,
}

/// What a panic said.
fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
    text.lines().next().unwrap_or_default().to_owned()
}
