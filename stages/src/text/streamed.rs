//! T5 on a device that has no room for all of it: one block is there at a time, and all texts of a stretch go through it.

use crate::{
    checkpoint::ComponentSource,
    error::StageError,
    nn::{self, T5Ends},
};
use burn::tensor::{DType, Device, Tensor};

/// Texts that go through a block before the next one comes: their values are a ninth of what the blocks are.
pub(super) const STRETCH: usize = 512;

/// The encoder, most of it in its file.
pub(super) struct StreamedT5 {
    source: ComponentSource,
    device: Device,
    dtype: DType,
    ends: T5Ends,
    blocks: usize,
}

impl StreamedT5 {
    /// What is around the blocks of a file's T5.
    ///
    /// # Errors
    /// When tensors are missing or can't be read.
    pub(super) fn open(source: ComponentSource, device: &Device, dtype: DType) -> Result<Self, StageError> {
        let around = |name: &str| block_of(name).is_none() || name.ends_with("relative_attention_bias.weight");
        let weights = nn::load_some(&source, |name| around(name).then(|| (device.clone(), dtype)))?;
        let blocks = source.names().filter_map(block_of).max().map_or(0, |last| last + 1);
        Ok(Self { ends: T5Ends::new(&weights.root())?, source, device: device.clone(), dtype, blocks })
    }

    /// Encodes batches of texts of one length, each to `[B, S, D]` in f32: the values of [`T5::forward`](nn::T5::forward).
    ///
    /// # Errors
    /// When a block can't be read, or texts have ids beyond the vocabulary.
    pub(super) fn forward(&self, batches: &[Vec<Vec<u32>>]) -> Result<Vec<Tensor<3>>, StageError> {
        let length = batches.iter().flatten().map(Vec::len).next().unwrap_or_default();
        let bias = self.ends.bias(length);
        let mut all = batches.iter().map(|ids| self.ends.embed(ids)).collect::<Result<Vec<_>, _>>()?;
        for index in 0..self.blocks {
            let here = |name: &str| (block_of(name) == Some(index)).then(|| (self.device.clone(), self.dtype));
            let block = self.ends.block(&nn::load_some(&self.source, here)?.root(), index)?;
            all = all.into_iter().map(|x| block.forward(x, bias.clone())).collect();
            // The device is at it while the next block is read. What fails here fails again where values are first read.
            let _ = self.device.flush();
        }
        Ok(all.into_iter().map(|x| self.ends.finish(x)).collect())
    }
}

/// The block that a tensor is of.
fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("encoder.block.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::Component, nn::to_host};

    #[test]
    fn block_by_block_texts_come_to_the_same_bits() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/model/t5xxl.safetensors");
        let source = || ComponentSource::open(path, Component::T5).unwrap();
        let (device, batches) = (Device::flex(), [vec![vec![3, 14, 15, 9, 2, 1]], vec![vec![6, 5, 3, 5, 8, 1]]]);
        let weights = nn::load(&source(), &device, DType::F32).unwrap();
        let whole = nn::T5::new(&weights.root()).unwrap();
        let streamed = StreamedT5::open(source(), &device, DType::F32).unwrap();
        assert!(streamed.blocks > 1);
        let found = streamed.forward(&batches).unwrap();
        for (found, ids) in found.into_iter().zip(&batches) {
            assert_eq!(to_host(found.flatten::<1>(0, 2)), to_host(whole.forward(ids).unwrap().flatten::<1>(0, 2)));
        }
    }
}
