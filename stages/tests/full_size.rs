//! Models of full size in little memory. This takes minutes and 14 GB of disk, so it is skipped unless a folder with that much
//! room is named:
//!
//!     SD3PIPE_FULL_SIZE=/tmp cargo test --release --package sd3pipe-stages --test full_size -- --nocapture
//!
//! Each model is loaded by a process of its own, whose peak of resident memory (`VmHWM`) counts pages of the mapped file too.
#![cfg(all(feature = "compute", target_os = "linux"))]

mod released;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use burn::tensor::{DType, Device};
use released::{Names, t5_xxl};
use safetensors::{Dtype, View};
use sd3pipe_stages::checkpoint::{Component, ComponentSource};
use sd3pipe_stages::nn::{T5, load};
use sd3pipe_stages::tensors::write_file;

/// The folder to write models to.
const FOLDER: &str = "SD3PIPE_FULL_SIZE";
/// Tells the process that loads which file to load.
const FILE: &str = "SD3PIPE_FULL_SIZE_FILE";

const GIB: f64 = (1u64 << 30) as f64;

#[test]
fn sd3_medium_is_loaded_in_little_more_than_its_size() {
    if let Some(path) = std::env::var_os(FILE) {
        let device = Device::flex();
        let loaded = [Component::Mmdit, Component::VaeEncoder, Component::VaeDecoder]
            .map(|component| load(&ComponentSource::open(&path, component).unwrap(), &device, DType::BF16).unwrap());
        assert_eq!(loaded.map(|weights| weights.len()), [491, 106, 138]);
        println!("peak {}", peak());
        return;
    }
    let names = sd3_medium();
    let Some(peak) = peak_of("sd3_medium_is_loaded_in_little_more_than_its_size", &names) else { return };
    let size = 2.0 * names.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>() as f64;
    println!(
        "SD3-medium: {:.2} GiB in bf16, loaded with a peak of {:.2} GiB: {:.3} times",
        size / GIB,
        peak / GIB,
        peak / size
    );
    assert!(peak < 1.15 * size);
}

#[test]
fn t5_xxl_encodes_a_caption_within_20_gib() {
    if let Some(path) = std::env::var_os(FILE) {
        let start = Instant::now();
        let source = ComponentSource::open(&path, Component::T5).unwrap();
        let weights = load(&source, &Device::flex(), DType::BF16).unwrap();
        let encoder = T5::new(&weights.root()).unwrap();
        drop(weights);
        let loaded = start.elapsed().as_secs_f64();
        let caption: Vec<u32> = [3, 9, 1202, 13, 3, 7, 157, 7, 1782, 1].into_iter().chain([0; 246]).collect();
        let encoded = encoder.forward(&[caption]).unwrap();
        assert_eq!(encoded.dims(), [1, 256, 4096]);
        assert!(encoded.into_data().iter::<f32>().all(f32::is_finite));
        println!("loaded in {loaded:.0} s, loaded and encoded in {:.0} s", start.elapsed().as_secs_f64());
        println!("peak {}", peak());
        return;
    }
    let Some(peak) = peak_of("t5_xxl_encodes_a_caption_within_20_gib", &t5_xxl()) else { return };
    println!("T5-XXL: a caption of 256 tokens encoded in bf16 with a peak of {:.2} GiB", peak / GIB);
    assert!(peak < 20.0 * GIB);
}

#[test]
fn the_full_sizes_are_those_that_are_known() {
    let count = |names: &Names| names.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>();
    let (mmdit, vae): (Names, Names) = sd3_medium().into_iter().partition(|(name, _)| name.starts_with("model."));
    assert_eq!((mmdit.len(), count(&mmdit)), (491, 2_028_328_000 + 56_623_104));
    assert_eq!((vae.len(), count(&vae)), (244, 83_819_683));
    assert_eq!(count(&t5_xxl()), 4_762_310_656);
    assert_eq!([released::clip_l(), released::clip_g()].map(|names| count(&names)), [123_650_304, 694_659_840]);
}

/// Writes the model, has it loaded by another process, and gives the peak of that one's memory in bytes.
fn peak_of(test: &str, names: &Names) -> Option<f64> {
    let Some(folder) = std::env::var_os(FOLDER) else {
        println!("skipped: it is done when {FOLDER} names a folder with room for it");
        return None;
    };
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().join("model.safetensors");
    write_model(&path, names);
    let exe = std::env::current_exe().unwrap();
    let output = Command::new(exe).args(["--exact", test, "--nocapture"]).env(FILE, &path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter(|line| line.starts_with("loaded")).for_each(|line| println!("{line}"));
    text.lines().find_map(|line| line.split_once("peak ")?.1.trim().parse().ok())
}

/// The most memory that this process ever had resident, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Random values of one tensor, made when they are written: no more than a tensor is in memory.
struct Random {
    seed: u64,
    shape: Vec<usize>,
}

impl View for Random {
    fn dtype(&self) -> Dtype {
        Dtype::F16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut state = self.seed;
        let mut bytes = Vec::with_capacity(self.data_len() + 8);
        while bytes.len() < self.data_len() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Four values of either sign between 1/64 and 1/32: random signs and fractions, one exponent.
            let four = (state & 0x83FF_83FF_83FF_83FF) | 0x2400_2400_2400_2400;
            bytes.extend_from_slice(&four.to_le_bytes());
        }
        bytes.truncate(self.data_len());
        bytes.into()
    }

    fn data_len(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }
}

fn write_model(path: &Path, names: &Names) {
    let seed = |index: usize| (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let random = |(index, (name, shape)): (usize, &(String, Vec<usize>))| {
        (name.clone(), Random { seed: seed(index), shape: shape.clone() })
    };
    write_file(path, names.iter().enumerate().map(random).collect(), &BTreeMap::new()).unwrap();
}

fn sd3_medium() -> Names {
    let networks = [
        (Component::Mmdit, released::mmdit()),
        (Component::VaeEncoder, released::vae_encoder()),
        (Component::VaeDecoder, released::vae_decoder()),
    ];
    let prefixed = |(component, names): (Component, Names)| {
        names.into_iter().map(move |(name, shape)| (format!("{}{name}", component.prefix()), shape))
    };
    networks.into_iter().flat_map(prefixed).collect()
}
