//! One network inside a model file, under canonical names whatever the file's layout.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use sd3pipe_cache::Digest;

use super::{CheckpointError, Component, TensorFile, TensorInfo, expected_names};

/// One tensor of a network, as it lies in the file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'f> {
    /// The type of its values.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: &'f [usize],
    /// Its values: little-endian, row-major.
    pub bytes: &'f [u8],
}

/// One network in a file, whichever layout the file has:
///
/// - a checkpoint of several networks, told apart by their prefixes ([`Component::prefix`]);
/// - a file of its own, without the prefix. CLIP-L and CLIP-G then have the same names, and the caller says which it is.
///
/// Tensors that are no weights (position counters, CLIP's temperature) are left out.
#[derive(Debug, Clone)]
pub struct ComponentSource {
    file: Arc<TensorFile>,
    component: Component,
    /// Canonical name to the name in the file.
    names: BTreeMap<String, String>,
}

impl ComponentSource {
    /// Opens the file and finds the network in it.
    ///
    /// # Errors
    /// Those of [`TensorFile::open`] and of [`ComponentSource::find`].
    pub fn open(path: impl AsRef<Path>, component: Component) -> Result<Self, CheckpointError> {
        Self::find(Arc::new(TensorFile::open(path)?), component)
    }

    /// Finds the network in a file, and checks that it is all there.
    ///
    /// # Errors
    /// When the file doesn't hold the network, or tensors are missing, unknown or of the wrong shape.
    pub fn find(file: Arc<TensorFile>, component: Component) -> Result<Self, CheckpointError> {
        let prefix = [component.prefix(), component.bare_prefix()]
            .into_iter()
            .find(|prefix| file.info(&format!("{prefix}{}", component.marker())).is_some())
            .ok_or_else(|| CheckpointError::NoComponent {
                path: file.path().into(),
                component,
                hint: what_instead(&file, component),
            })?;
        let names = file.names().filter_map(|name| {
            let canonical = name.strip_prefix(prefix)?;
            Some((component.canonical(canonical)?.to_owned(), name.to_owned()))
        });
        let mut names: BTreeMap<_, _> = names.collect();
        // Some files keep T5's embedding under its second name alone.
        let second_name = format!("{prefix}encoder.embed_tokens.weight");
        if component == Component::T5 && file.info(&second_name).is_some() {
            names.entry("shared.weight".into()).or_insert(second_name);
        }
        let source = Self { file, component, names };
        source.check_kind()?;
        source.check_names()?;
        Ok(source)
    }

    /// The network.
    pub fn component(&self) -> Component {
        self.component
    }

    /// The file that it is in.
    pub fn file(&self) -> &Arc<TensorFile> {
        &self.file
    }

    /// The canonical names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The shape of one tensor, by its canonical name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.info(name).map(|info| info.shape.as_slice())
    }

    /// Its tensors by canonical name, sorted.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        self.names.iter().filter_map(|(canonical, name)| {
            let info = self.file.info(name)?;
            let bytes = self.file.bytes(name).ok()?;
            Some((canonical.as_str(), TensorView { dtype: info.dtype, shape: &info.shape, bytes }))
        })
    }

    /// The BLAKE3 digest of the network: of every tensor's canonical name, type, shape and bytes, sorted by name and
    /// length-prefixed. The same tensors in another file, order or layout have the same digest.
    ///
    /// # Errors
    /// None today; reading by other means than a map could fail.
    pub fn component_digest(&self) -> std::io::Result<Digest> {
        let mut hasher = blake3::Hasher::new_derive_key("sd3pipe component v1");
        for (name, tensor) in self.tensors() {
            let dtype = tensor.dtype.to_string();
            for part in [name.as_bytes(), dtype.as_bytes()] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
            for &side in tensor.shape {
                hasher.update(&(side as u64).to_le_bytes());
            }
            hasher.update(&(tensor.bytes.len() as u64).to_le_bytes()).update(tensor.bytes);
        }
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).and_then(|name| self.file.info(name))
    }

    /// Refuses the released CLIPs in each other's place: nothing else would notice, since together they are as wide.
    fn check_kind(&self) -> Result<(), CheckpointError> {
        let layers = self.names().filter(|name| name.ends_with("mlp.fc1.weight")).count();
        let width = self.shape("text_model.embeddings.token_embedding.weight").and_then(|shape| shape.get(1)).copied();
        let other = match (self.component, layers, width) {
            (Component::ClipL, 32, Some(1280)) => Component::ClipG,
            (Component::ClipG, 12, Some(768)) => Component::ClipL,
            _ => return Ok(()),
        };
        Err(CheckpointError::NoComponent {
            path: self.file.path().into(),
            component: self.component,
            hint: format!("it is {other}; the two files may be swapped"),
        })
    }

    fn check_names(&self) -> Result<(), CheckpointError> {
        let (path, component) = (self.file.path(), self.component);
        let expected = expected_names(component, &|name| self.shape(name).map(<[usize]>::to_vec))
            .map_err(|source| CheckpointError::Geometry { path: path.into(), component, source })?;
        let expected: BTreeMap<_, _> = expected.into_iter().collect();
        let mut problems = Vec::new();
        for (name, shape) in &expected {
            match self.shape(name) {
                None => problems.push(format!("  missing {name} {shape:?}")),
                Some(found) if found != shape => problems.push(format!("  {name} has {found:?}, expected {shape:?}")),
                Some(_) => {}
            }
        }
        for name in self.names().filter(|name| !expected.contains_key(*name)) {
            problems.push(format!("  unknown {name} {:?}", self.shape(name).unwrap_or_default()));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(CheckpointError::Mismatch { path: path.into(), component, problems })
        }
    }
}

/// What to tell someone whose file doesn't hold the network: the likely mistakes, by what the file does hold.
fn what_instead(file: &TensorFile, component: Component) -> String {
    let starts = |start: &str| file.names().any(|name| name.starts_with(start));
    let diffusers = match component {
        Component::Mmdit => starts("transformer_blocks.0."),
        Component::VaeEncoder | Component::VaeDecoder => starts("encoder.down_blocks.") || starts("decoder.up_blocks."),
        Component::ClipL | Component::ClipG | Component::T5 => false,
    };
    if diffusers {
        return "it has the layout of a diffusers folder; name the model's single file instead".into();
    }
    const ALL: [Component; 6] = [
        Component::Mmdit,
        Component::VaeEncoder,
        Component::VaeDecoder,
        Component::ClipL,
        Component::ClipG,
        Component::T5,
    ];
    let holds = |other: &Component| {
        [other.prefix(), other.bare_prefix()]
            .iter()
            .any(|prefix| file.info(&format!("{prefix}{}", other.marker())).is_some())
    };
    let held: Vec<_> = ALL.iter().filter(|other| holds(other)).map(Component::to_string).collect();
    match (held.is_empty(), component) {
        (true, _) => "it is a file of another kind, perhaps a LoRA; name the file that holds it".into(),
        (false, Component::ClipL | Component::ClipG | Component::T5) => {
            format!("it holds {}; name the text encoder's own file", held.join(", "))
        }
        (false, _) => format!("it holds {}; name the file that holds it", held.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView as Stored;

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

    /// Values that depend on the name alone, so that layouts can be compared.
    fn write(
        folder: &tempfile::TempDir,
        file: &str,
        tensors: &[(String, Vec<usize>)],
        prefix: &str,
    ) -> std::path::PathBuf {
        let seed = |name: &str| name.bytes().fold(7u8, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte));
        let data: Vec<_> =
            tensors.iter().map(|(name, shape)| vec![seed(name); 2 * shape.iter().product::<usize>()]).collect();
        let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
            (format!("{prefix}{name}"), Stored::new(Dtype::BF16, shape.clone(), data).unwrap())
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
}
