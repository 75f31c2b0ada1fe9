//! What the reference implementations gave, and the weights and inputs by formula that they were given (see `tools/goldens`).
// Every test file takes what it needs of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use safetensors::tensor::TensorView;
use sd3pipe_stages::checkpoint::{Component, ComponentSource, Dtype, TensorFile};
use sd3pipe_stages::nn::{Weights, load};

/// Products that are kept of a large tensor, beside its length.
pub const PROBES: usize = 8;

/// The reference's inputs and outputs, and the shapes of the weights that it had.
pub struct Golden {
    pub file: TensorFile,
    pub shapes: BTreeMap<String, Vec<usize>>,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let file = TensorFile::open(folder().join(format!("{name}.safetensors"))).unwrap();
        let shapes = serde_json::from_str(&file.metadata()["shapes"]).unwrap();
        Self { file, shapes }
    }

    /// A field of what the reference was configured with.
    pub fn config<T: serde::de::DeserializeOwned>(&self, field: &str) -> T {
        let mut config: serde_json::Value = serde_json::from_str(&self.file.metadata()["config"]).unwrap();
        serde_json::from_value(config[field].take()).unwrap()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.file.bytes(name).unwrap();
        bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
    }

    pub fn doubles(&self, name: &str) -> Vec<f64> {
        let bytes = self.file.bytes(name).unwrap();
        bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value)).collect()
    }

    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let shape = self.file.info(name).unwrap().shape.clone();
        Tensor::from_data(TensorData::new(self.floats(name), shape), (&Device::flex(), DType::F32))
    }

    pub fn ids(&self) -> Vec<Vec<u32>> {
        let bytes = self.file.bytes("ids").unwrap();
        let ids: Vec<u32> = bytes.as_chunks().0.iter().map(|&value| u32::from_le_bytes(value)).collect();
        ids.chunks(self.file.info("ids").unwrap().shape[1]).map(<[u32]>::to_vec).collect()
    }

    /// A checkpoint of the weights, stored as `dtype`, with `prefix` before every name.
    pub fn checkpoint(&self, folder: &tempfile::TempDir, dtype: Dtype, prefix: &str) -> PathBuf {
        let path = folder.path().join("checkpoint.safetensors");
        write_checkpoint(
            &path,
            dtype,
            self.shapes.iter().map(|(name, shape)| (prefix, name.as_str(), shape.as_slice())),
        );
        path
    }

    /// The weights by the way that users' weights take: written to a checkpoint, found in it, and loaded.
    pub fn weights(&self, component: Component, prefix: &str) -> Weights {
        let folder = tempfile::tempdir().unwrap();
        let path = self.checkpoint(&folder, Dtype::F32, prefix);
        load(&ComponentSource::open(path, component).unwrap(), &Device::flex(), DType::F32).unwrap()
    }

    pub fn mmdit(&self) -> Weights {
        self.weights(Component::Mmdit, "model.diffusion_model.")
    }
}

/// How far the references in bf16 are from what they give in f32 (`tools/goldens/bf16.py`), by golden and output.
pub fn of_references_in_bf16() -> BTreeMap<String, BTreeMap<String, f64>> {
    serde_json::from_slice(&std::fs::read(folder().join("bf16.json")).unwrap()).unwrap()
}

/// Where the goldens are: below the working folder or in one that is named, when the program was carried to another machine.
fn folder() -> PathBuf {
    let named = std::env::var_os("SD3PIPE_GOLDENS").map(PathBuf::from);
    let folders = named.into_iter().chain(["tests/goldens".into()]);
    folders
        .into_iter()
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens"))
}

/// Writes weights by formula; each comes as a prefix, the name that it is computed from, and its shape.
pub fn write_checkpoint<'t>(path: &Path, dtype: Dtype, tensors: impl Iterator<Item = (&'t str, &'t str, &'t [usize])>) {
    let values = tensors.map(|(prefix, name, shape)| {
        let values = weight(name, shape).into_iter();
        let bytes: Vec<u8> = match dtype {
            Dtype::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::BF16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
            _ => values.flat_map(f32::to_le_bytes).collect(),
        };
        (format!("{prefix}{name}"), shape.to_vec(), bytes)
    });
    let values: Vec<_> = values.collect();
    let views = values
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Values in [-1, 1): SplitMix64 from the FNV-1a hash of the name, the upper 24 bits of each.
pub fn uniform(name: &str, count: usize) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    let value = |index: u64| {
        let z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (1..=count as u64).map(value).collect()
}

/// The weights of `tools/goldens/formula.py`.
pub fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let scale = match shape {
        _ if name == "pos_embed" => 1.0,
        [_, rest @ ..] if !rest.is_empty() => (3.0 / rest.iter().product::<usize>() as f64).sqrt() as f32,
        _ => 0.1,
    };
    let around = if shape.len() == 1 && name.ends_with(".weight") { 1.0 } else { 0.0 };
    uniform(name, shape.iter().product()).into_iter().map(|value| around + scale * value).collect()
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().as_slice::<f32>().unwrap().to_vec()
}

/// The length of the difference over that of what is expected.
pub fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = length(&mut found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / length(&mut expected.iter().map(|&value| f64::from(value)))
}

/// What `sketch` of `tools/goldens/formula.py` keeps of a tensor: its products with fixed tensors of variance 1/3, and its length.
pub fn sketch(name: &str, values: &[f32]) -> [f64; PROBES + 1] {
    let dot = |other: &[f32]| values.iter().zip(other).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    std::array::from_fn(|index| match index {
        PROBES => dot(values).sqrt(),
        _ => dot(&uniform(&format!("probe {index} {name}"), values.len())),
    })
}

/// The length of the difference between what two sketches are of, as the products tell it.
pub fn distance(found: &[f64; PROBES + 1], expected: &[f64; PROBES + 1]) -> f64 {
    let squares = found[..PROBES].iter().zip(expected).map(|(found, expected)| (found - expected).powi(2));
    (3.0 * squares.sum::<f64>() / PROBES as f64).sqrt().max((found[PROBES] - expected[PROBES]).abs())
}
