//! Model files: a file as it is, a header with as many bytes behind it as it asks for, and a list of shards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sd3pipe_fuzz::{file, folder, parts};
use sd3pipe_stages::{
    checkpoint::{Component, ComponentSource, MmditGeometry, TensorFile, component_files},
    tensors,
};
use serde_json::Value;
use std::path::Path;

const ALL: [Component; 6] =
    [Component::Mmdit, Component::VaeEncoder, Component::VaeDecoder, Component::ClipL, Component::ClipG, Component::T5];

fn with_data(header: &[u8]) -> Vec<u8> {
    let ends = |value: &Value| value["data_offsets"][1].as_u64();
    let header_value: Value = serde_json::from_slice(header).unwrap_or_default();
    let end = header_value.as_object().and_then(|tensors| tensors.values().filter_map(ends).max()).unwrap_or_default();
    let data = vec![0; end.min(1 << 22) as usize];
    [&(header.len() as u64).to_le_bytes()[..], header, &data].concat()
}

fn open(path: &Path) {
    for component in ALL {
        let Ok(source) = ComponentSource::open(path, component) else { continue };
        source.component_digest().expect("a network that was opened can be read");
        if component == Component::Mmdit {
            let geometry = MmditGeometry::of(|name| source.shape(name).map(<[usize]>::to_vec));
            let _ = geometry.expect("an MMDiT that was opened has a geometry").check_latents(64, 64);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    if kind % 3 == 2 {
        let mut parts = parts(data);
        file("shards/model.safetensors.index.json", parts.next().unwrap_or_default());
        for (name, header) in ["shards/a.safetensors", "shards/b.safetensors"].into_iter().zip(parts) {
            file(name, &with_data(header));
        }
        let shards = folder().join("shards");
        for path in component_files(&shards, Component::T5).into_iter().flatten() {
            assert_eq!(path.parent(), Some(&*shards), "a shard outside of its folder");
        }
        return open(&shards);
    }
    let bytes = if kind % 3 == 1 { with_data(data) } else { data.to_vec() };
    let _ = tensors::from_bytes(&bytes);
    let path = file("model.safetensors", &bytes);
    if let Ok(opened) = TensorFile::open(&path) {
        assert!(opened.names().all(|name| opened.bytes(name).is_ok()));
        open(&path);
    }
});
