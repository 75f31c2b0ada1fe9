//! Adapters out of files: in the form of sd-scripts and ComfyUI, in that of diffusers, and in our own.

use super::{
    Adapter, AdapterError, Base, LowRank, Part, Site,
    low_rank::{rows_mut, weight},
    site::layers,
};
use crate::{
    checkpoint::{CheckpointError, Form, Layout, TensorFile},
    tensors::{self, Array},
};
use sd3pipe_cache::Digest;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// What follows a site's name in the name of the half that reads.
pub const DOWN: &str = ".lora_down.weight";
/// The same of the half that writes.
pub const UP: &str = ".lora_up.weight";
/// The same of alpha.
pub const ALPHA: &str = ".alpha";
/// The same of the magnitudes.
pub const MAGNITUDE: &str = ".lora_magnitude_vector";

/// What a tensor of a file is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    Down,
    Up,
    Alpha,
    /// As PEFT has it: of a row of the weight with the adapter in it.
    Magnitude,
    /// As ComfyUI reads it: such that the weight with the adapter in it is multiplied by it and divided by the length of a row of
    /// the weight *without* it (`weight_decompose` in its `weight_adapter/base.py`).
    DoraScale,
}

pub(super) const ROLES: [(&str, Role); 10] = [
    (DOWN, Role::Down),
    (".lora_A.weight", Role::Down),
    (".lora.down.weight", Role::Down),
    (UP, Role::Up),
    (".lora_B.weight", Role::Up),
    (".lora.up.weight", Role::Up),
    (ALPHA, Role::Alpha),
    (MAGNITUDE, Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".dora_scale", Role::DoraScale),
];

/// What the names of a file's modules may begin with, and what our own begin with then.
pub(super) const PREFIXES: [(&str, &str); 9] = [
    ("lora_unet_", ""),
    ("lora_transformer_", ""),
    ("transformer.", ""),
    ("base_model.model.", ""),
    ("diffusion_model.", ""),
    ("lora_te1_", "clip_l_"),
    ("lora_te2_", "clip_g_"),
    ("text_encoder.", "clip_l_"),
    ("text_encoder_2.", "clip_g_"),
];

/// The digest of an adapter's file: of its tensors, and of the notes that its scale may depend on.
///
/// # Errors
/// When it can't be read.
pub fn file_digest(path: &Path) -> Result<Digest, CheckpointError> {
    let file = TensorFile::open(path)?;
    let mut hasher = blake3::Hasher::new_derive_key("sd3pipe adapter v1");
    let mut field = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    };
    for name in file.names() {
        let Some(info) = file.info(name) else { continue };
        field(name.as_bytes());
        field(format!("{:?} {:?}", info.dtype, info.shape).as_bytes());
        field(file.bytes(name)?);
    }
    field(file.metadata().get(NOTE).map(String::as_bytes).unwrap_or_default());
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// The note in which newer files of diffusers carry the settings of PEFT.
const NOTE: &str = "lora_adapter_metadata";

/// Where the tensors of a module of a file belong.
struct Slot {
    site: Site,
    /// The rows' second half comes first there.
    swapped: bool,
}

/// The tensors of one module.
#[derive(Default)]
struct Found {
    down: Option<Array>,
    up: Option<Array>,
    alpha: Option<f64>,
    magnitude: Option<Array>,
    dora_scale: Option<Array>,
}

impl Adapter {
    /// Reads an adapter of these networks.
    ///
    /// # Errors
    /// When the file can't be read, or holds anything that is no part of an adapter of them, such as one of T5.
    pub fn read(path: &Path, base: &Base<'_>) -> Result<Self, AdapterError> {
        let file = TensorFile::open(path)?;
        let (layers, slots) = (layers(base.geometry, base.clips), slots(base));
        let settings = Settings::of(&file);
        let mut problems = Vec::new();
        let mut modules: BTreeMap<&str, Found> = BTreeMap::new();
        for name in file.names() {
            let known = ROLES.iter().find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role)));
            let Some((module, role)) = known.filter(|(module, _)| slots.contains_key(&plain(module))) else {
                problems.push(format!("  {name} belongs to no layer of it"));
                continue;
            };
            let array = file.info(name).zip(file.bytes(name).ok()).and_then(|(info, bytes)| {
                Some(Array { shape: info.shape.clone(), values: tensors::decode(info.dtype, bytes)? })
            });
            let Some(array) = array else {
                problems.push(format!("  {name} is of a type that is not read"));
                continue;
            };
            let found = modules.entry(module).or_default();
            match role {
                Role::Down => found.down = Some(array),
                Role::Up => found.up = Some(array),
                Role::Alpha => found.alpha = array.values.first().map(|value| f64::from(*value)),
                Role::Magnitude => found.magnitude = Some(array),
                Role::DoraScale => found.dora_scale = Some(array),
            }
        }
        let mut adapter = Self::default();
        for (module, found) in modules {
            let Some(Slot { site, swapped }) = slots.get(&plain(module)) else { continue };
            let shape = &layers[&site.layer];
            let outputs = if site.part.is_some() { shape[0] / 3 } else { shape[0] };
            let sides = (outputs, shape[1..].iter().product());
            match low_rank(found, site, sides, *swapped, settings.scale(module), base) {
                Ok(low_rank) => drop(adapter.sites.insert(site.clone(), low_rank)),
                Err(reason) => problems.push(format!("  {module} {reason}")),
            }
        }
        if adapter.sites.is_empty() && problems.is_empty() {
            problems.push("  it is empty".to_owned());
        }
        if !problems.is_empty() {
            let more = problems.len().saturating_sub(10);
            problems.truncate(10);
            problems.extend((more > 0).then(|| format!("  and {more} more")));
            return Err(AdapterError::Unfit { path: path.to_owned(), problems });
        }
        adapter.join_thirds(layers.keys());
        Ok(adapter)
    }

    /// Puts the thirds of a layer together where one half that reads serves all of them: diffusers' form of one adapter.
    fn join_thirds<'l>(&mut self, layers: impl Iterator<Item = &'l String>) {
        for layer in layers.filter(|layer| layer.ends_with(".qkv")) {
            let thirds: Vec<&LowRank> = self.of_layer(layer).filter_map(|(part, third)| part.map(|_| third)).collect();
            let [query, key, value] = thirds[..] else { continue };
            let same = |other: &LowRank| {
                (&other.down, other.scale, other.magnitude.is_some())
                    == (&query.down, query.scale, query.magnitude.is_some())
            };
            if !same(key) || !same(value) {
                continue;
            }
            let joined = |rows: fn(&LowRank) -> &[f32]| [query, key, value].map(rows).concat();
            let up = joined(|third| &third.up.values);
            let magnitude = joined(|third| third.magnitude.as_deref().unwrap_or_default());
            let whole = LowRank {
                down: query.down.clone(),
                up: Array { shape: vec![3 * query.up.shape[0], query.rank()], values: up },
                scale: query.scale,
                magnitude: query.magnitude.is_some().then_some(magnitude),
            };
            for part in Part::ALL {
                self.sites.remove(&Site { layer: layer.clone(), part: Some(part) });
            }
            self.sites.insert(Site { layer: layer.clone(), part: None }, whole);
        }
    }
}

fn low_rank(
    found: Found,
    site: &Site,
    (outputs, inputs): (usize, usize),
    swapped: bool,
    scale: impl Fn(Option<f64>, usize) -> f32,
    base: &Base<'_>,
) -> Result<LowRank, String> {
    let (Some(mut down), Some(mut up)) = (found.down, found.up) else {
        return Err("has only one half of an adapter".to_owned());
    };
    let rank = down.shape.first().copied().unwrap_or_default();
    // A convolution's have two sides more, which don't matter: its patches don't overlap.
    for (array, shape) in [(&mut down, [rank, inputs]), (&mut up, [outputs, rank])] {
        if array.shape.first() != Some(&shape[0]) || array.values.len() != shape[0] * shape[1] || rank == 0 {
            return Err(format!("has the shape {:?}, expected {shape:?}", array.shape));
        }
        array.shape = shape.to_vec();
    }
    let (dora_scale, magnitude) = (found.dora_scale.is_some(), found.dora_scale.or(found.magnitude));
    let mut magnitude = magnitude.map(|magnitude| magnitude.values);
    if let Some(magnitude) = magnitude.as_ref().filter(|magnitude| magnitude.len() != outputs) {
        return Err(format!("has {} magnitudes, expected one for each of {outputs} rows", magnitude.len()));
    }
    if swapped {
        up.values.rotate_left(outputs / 2 * rank);
        magnitude.iter_mut().for_each(|magnitude| magnitude.rotate_left(outputs / 2));
    }
    let mut low_rank = LowRank { down, up, scale: scale(found.alpha, rank), magnitude: None };
    if let Some(magnitude) = magnitude.as_mut().filter(|_| dora_scale) {
        let mut weight = weight(base, &site.layer).ok_or("belongs to a network that no target lies in")?;
        let lengths = low_rank.lengths(rows_mut(&mut weight.values, site.part));
        magnitude.iter_mut().zip(lengths).for_each(|(magnitude, (plain, merged))| *magnitude *= merged / plain);
    }
    low_rank.magnitude = magnitude;
    Ok(low_rank)
}

/// A module's name without what the forms differ in: prefix, dots or underscores.
fn plain(module: &str) -> String {
    let known = PREFIXES.iter().find_map(|(prefix, ours)| Some((*ours, module.strip_prefix(prefix)?)));
    let (ours, rest) = known.unwrap_or(("", module));
    format!("{ours}{}", rest.replace('.', "_"))
}

/// Every module that a file could have, by its plain name.
fn slots(base: &Base<'_>) -> HashMap<String, Slot> {
    let mut slots = HashMap::new();
    let mut add = |name: &str, layer: &str, part, swapped| {
        slots.insert(name.replace('.', "_"), Slot { site: Site { layer: layer.to_owned(), part }, swapped });
    };
    let diffusers = Layout::DiffusersMmdit { depth: base.geometry.depth };
    for layer in layers(base.geometry, base.clips).keys() {
        add(layer, layer, None, false);
        let Some(place) = diffusers.place(&format!("{layer}.weight")) else { continue };
        let names = place.names.iter().filter_map(|name| name.strip_suffix(".weight"));
        match place.form {
            Form::Rows => {
                for (part, name) in Part::ALL.into_iter().zip(names) {
                    add(&format!("{layer}.{}", part.name()), layer, Some(part), false);
                    add(name, layer, Some(part), false);
                }
            }
            form => names.for_each(|name| add(name, layer, None, form == Form::Swapped)),
        }
    }
    slots
}

/// What PEFT's settings say of alpha.
struct Settings(Value);

impl Settings {
    fn of(file: &TensorFile) -> Self {
        Self(file.metadata().get(NOTE).and_then(|note| serde_json::from_str(note).ok()).unwrap_or_default())
    }

    /// The scale of a module, given the alpha beside its tensors and its rank. Without either alpha is the rank.
    fn scale(&self, module: &str) -> impl Fn(Option<f64>, usize) -> f32 {
        let of_encoder = |network: &&str| module.strip_prefix(network).is_some_and(|rest| rest.starts_with('.'));
        let network = ["text_encoder", "text_encoder_2"].into_iter().find(of_encoder).unwrap_or("transformer");
        let name = module.strip_prefix(network).and_then(|rest| rest.strip_prefix('.')).unwrap_or(module);
        let of = |field: &str| self.0.get(format!("{network}.{field}"));
        let pattern = of("alpha_pattern").and_then(|pattern| pattern.get(name));
        let noted = pattern.or_else(|| of("lora_alpha")).and_then(Value::as_f64);
        let by_root = of("use_rslora").and_then(Value::as_bool) == Some(true);
        move |alpha, rank| {
            let rank = rank as f64;
            (alpha.or(noted).unwrap_or(rank) / if by_root { rank.sqrt() } else { rank }) as f32
        }
    }
}
