//! The networks that an adapter belongs to: what their layers are called in it, their sizes, and their weights.

use crate::checkpoint::{Component, ComponentSource, MmditGeometry, TensorView};
use std::collections::BTreeMap;

/// Names and shapes of all tensors of the CLIPs that a model has.
pub type Clips = BTreeMap<Component, Vec<(String, Vec<usize>)>>;

/// What the names of a network's tensors begin with among those of an adapter: only the MMDiT's are as in its own file.
pub fn prefix(network: Component) -> &'static str {
    match network {
        Component::ClipL => "clip_l.",
        Component::ClipG => "clip_g.",
        _ => "",
    }
}

/// The network that a tensor belongs to by its name in an adapter, and its name there.
pub fn network_of(name: &str) -> (Component, &str) {
    let of = |network| Some((network, name.strip_prefix(prefix(network))?));
    of(Component::ClipL).or_else(|| of(Component::ClipG)).unwrap_or((Component::Mmdit, name))
}

/// The networks that an adapter belongs to.
pub struct Base<'f> {
    /// The MMDiT's geometry.
    pub geometry: &'f MmditGeometry,
    /// The CLIPs' tensors, also of those that are not opened.
    pub clips: &'f Clips,
    sources: BTreeMap<Component, ComponentSource>,
}

impl<'f> Base<'f> {
    /// With the weights of these networks.
    pub fn new(
        geometry: &'f MmditGeometry,
        clips: &'f Clips,
        sources: impl IntoIterator<Item = ComponentSource>,
    ) -> Self {
        let sources = sources.into_iter().map(|source| (source.component(), source)).collect();
        Self { geometry, clips, sources }
    }

    /// One of the networks, if it was opened.
    pub fn source(&self, network: Component) -> Option<&ComponentSource> {
        self.sources.get(&network)
    }

    /// A tensor by its name in an adapter; nothing when its network was not opened.
    pub(super) fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let (network, name) = network_of(name);
        self.source(network)?.tensor(name)
    }

    /// See [`ComponentSource::release`].
    pub(super) fn release(&self, name: &str) {
        let (network, name) = network_of(name);
        self.source(network).into_iter().for_each(|source| source.release(name));
    }
}
