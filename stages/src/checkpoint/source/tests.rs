//! What is found in files of each layout, and what is refused.

use std::path::PathBuf;

use safetensors::tensor::TensorView as InFile;

use super::*;
use crate::checkpoint::{MmditGeometry, mmdit_names};

fn tiny() -> Vec<(String, Vec<usize>)> {
    mmdit_names(&MmditGeometry {
        depth: 2,
        width: 64,
        heads: 1,
        qk_norm: true,
        dual_attention: vec![0],
        position_grid: 2,
        context_width: 3,
        pooled_width: 5,
        patch: 2,
        channels: 1,
    })
}

/// Values that depend on the name and the place alone, so that layouts can be compared.
fn write(folder: &tempfile::TempDir, file: &str, tensors: &[(String, Vec<usize>)], prefix: &str) -> PathBuf {
    let seed = |name: &str| name.bytes().fold(7u8, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte));
    let values =
        |name: &str, count: usize| (0..count).map(|index| seed(name).wrapping_add((index % 251) as u8)).collect();
    let data: Vec<Vec<u8>> =
        tensors.iter().map(|(name, shape)| values(name, 2 * shape.iter().product::<usize>())).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (format!("{prefix}{name}"), InFile::new(Dtype::BF16, shape.clone(), data).unwrap())
    });
    let path = folder.path().join(file);
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &path).unwrap();
    path
}

#[test]
fn the_same_tensors_in_another_layout_have_the_same_digest() {
    let folder = tempfile::tempdir().unwrap();
    let bare = write(&folder, "bare.safetensors", &tiny(), "");
    let prefixed = write(&folder, "prefixed.safetensors", &tiny(), "model.diffusion_model.");
    let digest = |path| ComponentSource::open(path, Component::Mmdit).unwrap().component_digest().unwrap();
    assert_eq!(digest(bare), digest(prefixed));
}

#[test]
fn a_changed_byte_changes_the_digest() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "model.safetensors", &tiny(), "");
    let digest = || ComponentSource::open(&path, Component::Mmdit).unwrap().component_digest().unwrap();
    let before = digest();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_ne!(before, digest());
}

#[test]
fn all_wrong_tensors_are_listed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = tiny();
    tensors.retain(|(name, _)| name != "t_embedder.mlp.2.bias" && name != "joint_blocks.1.x_block.mlp.fc1.bias");
    for (name, shape) in &mut tensors {
        if name == "context_embedder.bias" {
            *shape = vec![3];
        }
    }
    tensors.push(("joint_blocks.1.x_block.attn.lora".into(), vec![1]));
    let path = write(&folder, "model.safetensors", &tensors, "");
    let error = ComponentSource::open(path, Component::Mmdit).unwrap_err().to_string();
    for part in [
        "missing t_embedder.mlp.2.bias [64]",
        "missing joint_blocks.1.x_block.mlp.fc1.bias [256]",
        "context_embedder.bias has [3], expected [64]",
        "unknown joint_blocks.1.x_block.attn.lora [1]",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_file_without_the_network_says_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "model.safetensors", &tiny(), "model.diffusion_model.");
    let error = ComponentSource::open(path, Component::T5).unwrap_err().to_string();
    assert!(error.contains("holds no T5") && error.contains("MMDiT"), "{error}");
}

fn text_encoder(layers: usize, width: usize) -> Vec<(String, Vec<usize>)> {
    let mut names = vec![
        ("text_model.embeddings.token_embedding.weight".to_owned(), vec![3, width]),
        ("text_model.embeddings.position_ids".to_owned(), vec![1, 2]),
        ("logit_scale".to_owned(), vec![]),
    ];
    names.extend((0..layers).flat_map(|layer| {
        let layer = format!("text_model.encoder.layers.{layer}");
        [(format!("{layer}.self_attn.q_proj.weight"), vec![1, 1]), (format!("{layer}.mlp.fc1.weight"), vec![1, 1])]
    }));
    names
}

/// All tensors of a tiny network, from the few shapes that decide its size.
fn network(component: Component, sizes: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    let shape = |name: &str| sizes.iter().find(|(known, _)| *known == name).map(|(_, shape)| shape.to_vec());
    expected_names(component, &shape).unwrap()
}

#[test]
fn tensors_that_are_no_weights_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = network(
        Component::ClipL,
        &[
            ("text_model.embeddings.token_embedding.weight", &[3, 64]),
            ("text_model.embeddings.position_embedding.weight", &[2, 64]),
            ("text_model.encoder.layers.0.mlp.fc1.weight", &[4, 64]),
        ],
    );
    let count = tensors.len();
    tensors.push(("text_model.embeddings.position_ids".into(), vec![1, 2]));
    tensors.push(("logit_scale".into(), vec![]));
    let path = write(&folder, "l.safetensors", &tensors, "text_encoders.clip_l.transformer.");
    assert_eq!(ComponentSource::open(path, Component::ClipL).unwrap().names().count(), count);
}

#[test]
fn t5s_embedding_is_found_under_either_name() {
    let folder = tempfile::tempdir().unwrap();
    let attention = "encoder.block.0.layer.0.SelfAttention";
    let mut tensors = network(
        Component::T5,
        &[
            ("shared.weight", &[3, 8]),
            (&format!("{attention}.q.weight"), &[4, 8]),
            (&format!("{attention}.relative_attention_bias.weight"), &[32, 2]),
            ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", &[5, 8]),
        ],
    );
    let names = |tensors: &[_]| {
        let path = write(&folder, "t5.safetensors", tensors, "");
        let source = ComponentSource::open(path, Component::T5).unwrap();
        source.names().map(str::to_owned).collect::<Vec<_>>()
    };
    let one = names(&tensors);
    tensors.push(("encoder.embed_tokens.weight".into(), vec![3, 8]));
    let both = names(&tensors);
    tensors.retain(|(name, _)| name != "shared.weight");
    assert_eq!((&both, &names(&tensors)), (&one, &one));
}

#[test]
fn the_two_clips_in_each_others_place_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let large = write(&folder, "l.safetensors", &text_encoder(12, 768), "");
    let giant = write(&folder, "g.safetensors", &text_encoder(32, 1280), "");
    for (path, component) in [(large, Component::ClipG), (giant, Component::ClipL)] {
        let error = ComponentSource::open(path, component).unwrap_err();
        assert!(error.to_string().contains("swapped"), "{error}");
    }
}

/// A VAE of two levels under its prefixes, and its halves' geometry.
fn vae() -> Vec<(String, Vec<usize>)> {
    let half = |component: Component, sizes: &[(&str, &[usize])]| {
        let named = network(component, sizes).into_iter();
        named.map(|(name, shape)| (format!("{}{name}", component.prefix()), shape)).collect::<Vec<_>>()
    };
    let encoder = half(
        Component::VaeEncoder,
        &[
            ("conv_in.weight", &[2, 3]),
            ("down.0.block.0.conv1.weight", &[2, 2]),
            ("down.1.block.0.conv1.weight", &[4, 2]),
            ("conv_out.weight", &[6, 4]),
        ],
    );
    let decoder = half(
        Component::VaeDecoder,
        &[
            ("conv_in.weight", &[4, 3]),
            ("up.1.block.0.conv1.weight", &[4, 4]),
            ("up.1.block.1.conv1.weight", &[4, 4]),
            ("up.0.block.0.conv1.weight", &[2, 4]),
            ("up.0.block.1.conv1.weight", &[2, 2]),
            ("conv_out.weight", &[3, 2]),
        ],
    );
    [encoder, decoder].concat()
}

/// The tensors of some networks of a single file, as diffusers stores them.
fn as_diffusers(single: &Path, layouts: &[(Component, Layout)]) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let mut stored = Vec::new();
    for (component, layout) in layouts {
        let source = ComponentSource::open(single, *component).unwrap();
        for (name, view) in source.tensors() {
            let parts = layout.store(name, &view).unwrap();
            stored.extend(parts.into_iter().map(|(name, view)| (name, view.shape.clone(), view.bytes().into_owned())));
        }
    }
    stored
}

fn write_stored(path: &Path, tensors: &[(String, Vec<usize>, Vec<u8>)]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name, InFile::new(Dtype::BF16, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, path).unwrap();
}

fn digest(path: impl AsRef<Path>, component: Component) -> Digest {
    ComponentSource::open(path, component).unwrap().component_digest().unwrap()
}

#[test]
fn a_transformer_has_one_digest_in_every_layout() {
    let folder = tempfile::tempdir().unwrap();
    let single = write(&folder, "single.safetensors", &tiny(), "model.diffusion_model.");
    let before = digest(&single, Component::Mmdit);
    let tensors = as_diffusers(&single, &[(Component::Mmdit, Layout::DiffusersMmdit { depth: 2 })]);

    let root = folder.path().join("folder");
    let whole = root.join("transformer/diffusion_pytorch_model.safetensors");
    write_stored(&whole, &tensors);
    for path in [&root, &root.join("transformer"), &whole] {
        assert_eq!(digest(path, Component::Mmdit), before, "{}", path.display());
    }

    // Every other tensor in another shard: what is merged lies in two files.
    let root = folder.path().join("shards");
    let names =
        ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (index, name) in names.iter().enumerate() {
        let shard: Vec<_> = tensors.iter().skip(index).step_by(2).cloned().collect();
        map.extend(shard.iter().map(|(tensor, ..)| (tensor.clone(), (*name).into())));
        write_stored(&root.join("transformer").join(name), &shard);
    }
    let index = root.join("transformer/diffusion_pytorch_model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(digest(&root, Component::Mmdit), before);
    assert_eq!(crate::checkpoint::component_files(&root, Component::Mmdit).unwrap().len(), 3);
}

#[test]
fn an_autoencoder_has_one_digest_in_every_layout() {
    let folder = tempfile::tempdir().unwrap();
    let single = write(&folder, "single.safetensors", &vae(), "");
    let halves = [(Component::VaeEncoder, "encoder."), (Component::VaeDecoder, "decoder.")];
    let layouts = halves.map(|(component, half)| (component, Layout::DiffusersVae { half, levels: 2 }));
    let root = folder.path().join("folder");
    let file = root.join("vae/diffusion_pytorch_model.safetensors");
    write_stored(&file, &as_diffusers(&single, &layouts));
    for (component, _) in halves {
        assert_eq!(digest(&root, component), digest(&single, component), "{component}");
        assert_eq!(digest(&file, component), digest(&single, component), "{component}");
    }
}

#[test]
fn a_tensor_that_the_diffusers_layout_lacks_is_named_in_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let single = write(&folder, "single.safetensors", &tiny(), "");
    let mut tensors = as_diffusers(&single, &[(Component::Mmdit, Layout::DiffusersMmdit { depth: 2 })]);
    tensors.retain(|(name, ..)| name != "transformer_blocks.1.attn.to_k.bias");
    let path = folder.path().join("diffusion_pytorch_model.safetensors");
    write_stored(&path, &tensors);
    let error = ComponentSource::open(path, Component::Mmdit).unwrap_err().to_string();
    assert!(error.contains("joint_blocks.1.x_block.attn.qkv.bias") && error.contains("attn.to_k.bias"), "{error}");
}

#[test]
fn a_projection_that_changes_nothing_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let sizes: &[(&str, &[usize])] = &[
        ("text_model.embeddings.token_embedding.weight", &[3, 64]),
        ("text_model.embeddings.position_embedding.weight", &[2, 64]),
        ("text_model.encoder.layers.0.mlp.fc1.weight", &[4, 64]),
    ];
    let mut tensors: Vec<_> = network(Component::ClipL, sizes)
        .into_iter()
        .map(|(name, shape)| {
            let bytes = vec![7; 2 * shape.iter().product::<usize>()];
            (name, shape, bytes)
        })
        .collect();
    let path = folder.path().join("model.safetensors");
    write_stored(&path, &tensors);
    let without = digest(&path, Component::ClipL);
    let mut identity: Vec<u8> =
        (0..64 * 64).flat_map(|index| if index / 64 == index % 64 { [0x80, 0x3F] } else { [0, 0] }).collect();
    tensors.push((PROJECTION.into(), vec![64, 64], identity.clone()));
    write_stored(&path, &tensors);
    assert_eq!(digest(&path, Component::ClipL), without);
    identity[2] = 1;
    tensors.last_mut().unwrap().2 = identity;
    write_stored(&path, &tensors);
    assert_ne!(digest(&path, Component::ClipL), without);
}
