//! One network inside a model's files, under canonical names whatever their layout.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use sd3pipe_cache::Digest;

use super::layout::{Form, Placement};
use super::{CheckpointError, Component, Layout, TensorFile, TensorSet, TensorView, expected_names};

/// CLIP's projection of the pooled vector.
const PROJECTION: &str = "text_projection.weight";

/// So many tensors that are wrong are listed: with more of them it is the file that is wrong, and it may have a million.
const MOST_PROBLEMS: usize = 100;

/// One network in a model's files, whichever layout they have:
///
/// - a checkpoint of several networks, told apart by their prefixes ([`Component::prefix`]);
/// - a file of its own, without the prefix. CLIP-L and CLIP-G then have the same names, and the caller says which it is;
/// - a diffusers folder, or the folder of one network in it, or one file out of it ([`Layout`]).
///
/// Tensors that are no weights (position counters, CLIP's temperature) are left out, and so is a projection of CLIP-L that is
/// the identity: diffusers stores it, Stability's files don't.
#[derive(Debug, Clone)]
pub struct ComponentSource {
    set: TensorSet,
    component: Component,
    /// By canonical name.
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its pieces, in order.
    pieces: Vec<(Arc<TensorFile>, Range<usize>)>,
}

impl ComponentSource {
    /// Opens the file or the diffusers folder, and finds the network in it.
    ///
    /// # Errors
    /// Those of [`TensorSet::open`] and of [`ComponentSource::find`].
    pub fn open(path: impl AsRef<Path>, component: Component) -> Result<Self, CheckpointError> {
        Self::find(TensorSet::open(path.as_ref(), component)?, component)
    }

    /// Finds the network among tensors, and checks that it is all there.
    ///
    /// # Errors
    /// When they don't hold the network, or some of it is missing, unknown or of the wrong shape.
    pub fn find(tensors: impl Into<TensorSet>, component: Component) -> Result<Self, CheckpointError> {
        let set = tensors.into();
        let path = || set.path().to_owned();
        let has = |name: &str| set.get(name).is_some();
        let layout = Layout::detect(component, &has).ok_or_else(|| CheckpointError::NoComponent {
            path: path(),
            component,
            hint: what_instead(&set, component),
        })?;
        let shape =
            |name: &str| assemble(&set, &place(&set, component, layout, name)?).ok()?.map(|stored| stored.shape);
        check_kind(&set, component, &shape)?;
        let expected = expected_names(component, &shape).map_err(|source| CheckpointError::Geometry {
            path: path(),
            component,
            source,
        })?;

        let (mut tensors, mut problems, mut used) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for (name, shape) in expected {
            let Some(placement) = place(&set, component, layout, &name) else { continue };
            match assemble(&set, &placement) {
                Ok(None) => problems.push(format!("  missing {name} {shape:?}{}", known_as(&name, &placement))),
                Ok(Some(stored)) if stored.shape != shape => {
                    problems.push(format!("  {name} has {:?}, expected {shape:?}", stored.shape));
                }
                Ok(Some(stored)) => drop(tensors.insert(name, stored)),
                Err(reason) => problems.push(format!("  {name} {reason}")),
            }
            used.extend(placement.names);
        }
        for name in set.names().filter(|name| !used.contains(*name)) {
            let Some(canonical) = name.strip_prefix(layout.prefix()) else { continue };
            if component.canonical(canonical).is_some() {
                let shape = set.get(name).map(|(_, info)| info.shape.as_slice()).unwrap_or_default();
                problems.push(format!("  unknown {} {shape:?}", canonical.escape_debug()));
            }
        }
        if !problems.is_empty() {
            let more = problems.len().saturating_sub(MOST_PROBLEMS);
            problems.truncate(MOST_PROBLEMS);
            if more > 0 {
                problems.push(format!("  and {more} more"));
            }
            return Err(CheckpointError::Mismatch { path: path(), component, problems });
        }
        if component == Component::ClipL && tensors.get(PROJECTION).is_some_and(Stored::is_identity) {
            tensors.remove(PROJECTION);
        }
        Ok(Self { set, component, tensors })
    }

    /// The network.
    pub fn component(&self) -> Component {
        self.component
    }

    /// The file or folder that it was opened by.
    pub fn path(&self) -> &Path {
        self.set.path()
    }

    /// The canonical names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of one tensor, by its canonical name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// One tensor, by its canonical name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get(name).map(Stored::view)
    }

    /// Its tensors by canonical name, sorted.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored.view()))
    }

    /// Lets the system take back the memory that a tensor's bytes take up, once they have been read. They are still there for
    /// whoever reads them again.
    pub fn release(&self, name: &str) {
        for (file, range) in self.tensors.get(name).into_iter().flat_map(|stored| &stored.pieces) {
            file.release(range);
        }
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
            for &side in &tensor.shape {
                hasher.update(&(side as u64).to_le_bytes());
            }
            hasher.update(&(tensor.length() as u64).to_le_bytes());
            for segment in tensor.segments() {
                hasher.update(segment);
            }
            self.release(name);
        }
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }
}

impl Stored {
    fn view(&self) -> TensorView<'_> {
        let segments = self.pieces.iter().map(|(file, range)| file.slice(range)).collect();
        TensorView::of_segments(self.dtype, self.shape.clone(), segments)
    }

    fn is_identity(&self) -> bool {
        let one: &[u8] = match self.dtype {
            Dtype::F32 => &[0, 0, 0x80, 0x3F],
            Dtype::F16 => &[0, 0x3C],
            Dtype::BF16 => &[0x80, 0x3F],
            Dtype::F8_E4M3 => &[0x38],
            _ => return false,
        };
        let &[rows, columns] = self.shape.as_slice() else { return false };
        let bytes = self.view().bytes();
        let expected = |index: usize, value: &[u8]| match index / columns.max(1) == index % columns.max(1) {
            true => value == one,
            false => value.iter().all(|byte| *byte == 0),
        };
        rows == columns && bytes.chunks(one.len()).enumerate().all(|(index, value)| expected(index, value))
    }
}

/// Where a canonical tensor lies. Some files keep T5's embedding under its second name alone.
fn place(set: &TensorSet, component: Component, layout: Layout, canonical: &str) -> Option<Placement> {
    let placement = layout.place(canonical)?;
    let missing = || placement.names.iter().all(|name| set.get(name).is_none());
    if component == Component::T5 && canonical == "shared.weight" && missing() {
        return layout.place("encoder.embed_tokens.weight");
    }
    Some(placement)
}

/// Puts a canonical tensor together from those that it lies in. Nothing when one of them is missing, an error when they don't
/// go together.
fn assemble(set: &TensorSet, placement: &Placement) -> Result<Option<Stored>, String> {
    let mut whole: Option<Stored> = None;
    for name in &placement.names {
        let Some((file, info)) = set.get(name) else { return Ok(None) };
        let piece = (Arc::clone(file), info.range.clone());
        match &mut whole {
            None => whole = Some(Stored { dtype: info.dtype, shape: info.shape.clone(), pieces: vec![piece] }),
            Some(whole) => {
                if whole.dtype != info.dtype {
                    return Err(format!("lies in tensors of several types, {} and {}", whole.dtype, info.dtype));
                }
                match (whole.shape.split_first_mut(), info.shape.split_first()) {
                    (Some((rows, rest)), Some((more, same))) if rest == same => *rows = rows.saturating_add(*more),
                    _ => {
                        return Err(format!(
                            "lies in tensors of shapes that don't go together, one is {:?}",
                            info.shape
                        ));
                    }
                }
                whole.pieces.push(piece);
            }
        }
    }
    let Some(stored) = &mut whole else { return Ok(None) };
    match placement.form {
        Form::Same | Form::Rows => {}
        Form::Linear => stored.shape.resize(4, 1),
        Form::Swapped => {
            if stored.shape.first().is_none_or(|rows| rows % 2 != 0) {
                return Err(format!("has {:?}, which has no halves", stored.shape));
            }
            let halves = |(file, range): &(Arc<TensorFile>, Range<usize>)| {
                let middle = range.start + range.len() / 2;
                [(Arc::clone(file), middle..range.end), (Arc::clone(file), range.start..middle)]
            };
            stored.pieces = stored.pieces.iter().flat_map(halves).collect();
        }
    }
    Ok(whole)
}

/// What a missing tensor is called in its file, if that is not its canonical name.
fn known_as(canonical: &str, placement: &Placement) -> String {
    match placement.names.as_slice() {
        [name] if name.ends_with(canonical) => String::new(),
        names => format!(", here {}", names.join(", ")),
    }
}

/// Refuses the released CLIPs in each other's place: nothing else would notice, since together they are as wide.
fn check_kind(
    set: &TensorSet,
    component: Component,
    shape: &dyn Fn(&str) -> Option<Vec<usize>>,
) -> Result<(), CheckpointError> {
    let layer = |layer: &usize| shape(&format!("text_model.encoder.layers.{layer}.mlp.fc1.weight")).is_some();
    let layers = || (0..).take_while(layer).count();
    let width = || shape("text_model.embeddings.token_embedding.weight").and_then(|shape| shape.get(1).copied());
    let other = match component {
        Component::ClipL if (layers(), width()) == (32, Some(1280)) => Component::ClipG,
        Component::ClipG if (layers(), width()) == (12, Some(768)) => Component::ClipL,
        _ => return Ok(()),
    };
    let hint = format!("it is {other}; the two files may be swapped");
    Err(CheckpointError::NoComponent { path: set.path().into(), component, hint })
}

/// What to tell someone whose file doesn't hold the network: the likely mistakes, by what the file does hold.
fn what_instead(set: &TensorSet, component: Component) -> String {
    const ALL: [Component; 6] = [
        Component::Mmdit,
        Component::VaeEncoder,
        Component::VaeDecoder,
        Component::ClipL,
        Component::ClipG,
        Component::T5,
    ];
    let holds = |other: &Component| Layout::detect(*other, &|name| set.get(name).is_some()).is_some();
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
mod tests;
