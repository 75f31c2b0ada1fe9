//! A tensor of a model file as an export writes it: checked first, and cast while it is written.

use crate::{
    checkpoint::{Component, ComponentSource, TensorView},
    error::StageError,
    precision::Precision,
    tensors,
};
use safetensors::{Dtype, View};
use sd3pipe_cache::Digest;
use std::borrow::Cow;

/// A tensor of a file in the precision that it is to be written in.
#[derive(Clone)]
pub(super) struct Cast<'f> {
    view: TensorView<'f>,
    precision: Precision,
}

impl<'f> Cast<'f> {
    /// # Errors
    /// When a value does not fit: an overflow to infinity would only show as black images.
    pub(super) fn new(name: &str, view: TensorView<'f>, precision: Precision) -> Result<Self, StageError> {
        let largest = if precision == Precision::F16 { 65504.0 } else { f32::MAX };
        let values = tensors::decode(view.dtype, &view.bytes())
            .ok_or_else(|| StageError::Unfit(format!("{name} is stored as {}, which can't be exported", view.dtype)))?;
        match values.iter().find(|value| value.is_nan() || value.abs() > largest) {
            Some(value) => Err(StageError::Unfit(format!(
                "{name} holds {value}, which {precision:?} can't; export as Bf16 or F32"
            ))),
            None => Ok(Self { view, precision }),
        }
    }

    /// The same values in another arrangement, which can't overflow either.
    pub(super) fn with_view(&self, view: TensorView<'f>) -> Self {
        Self { view, precision: self.precision }
    }

    pub(super) fn view(&self) -> &TensorView<'f> {
        &self.view
    }
}

/// All tensors of a network under canonical names.
pub(super) fn cast_all(source: &ComponentSource, precision: Precision) -> Result<Vec<(String, Cast<'_>)>, StageError> {
    let cast = |(name, view): (&str, _)| {
        let cast = Cast::new(&format!("{}{name}", source.component().prefix()), view, precision)?;
        source.release(name);
        Ok((name.to_owned(), cast))
    };
    source.tensors().map(cast).collect()
}

/// A network's tensors as they are written.
pub(super) type Network<'f> = (Component, Vec<(String, Cast<'f>)>);

/// The digest of networks as they are written: what sampling depends on, whatever the layout and the metadata.
pub(super) fn content_digest<'n>(networks: impl IntoIterator<Item = &'n Network<'n>>) -> Digest {
    let mut lines = Vec::new();
    let tensors =
        networks.into_iter().flat_map(|(network, tensors)| tensors.iter().map(move |tensor| (network, tensor)));
    for (network, (name, tensor)) in tensors {
        let name = format!("{}{name}", network.prefix());
        lines.push(format!("{name} {:?} {:?} {}", tensor.dtype(), tensor.shape(), Digest::of(&tensor.data())));
    }
    lines.sort();
    Digest::of(lines.join("\n").as_bytes())
}

impl View for Cast<'_> {
    fn dtype(&self) -> Dtype {
        self.precision.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.view.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.view.dtype == self.dtype() {
            return self.view.bytes();
        }
        // Types that can't be decoded were refused at first.
        self.precision.encode(&tensors::decode(self.view.dtype, &self.view.bytes()).unwrap_or_default()).into()
    }

    fn data_len(&self) -> usize {
        self.view.shape.iter().product::<usize>() * self.precision.bytes()
    }
}
