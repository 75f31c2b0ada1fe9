//! The VAE's posterior of one image, as the store keeps it and as training draws from it.

use crate::{
    error::StageError,
    images::bucket::Placement,
    precision::Precision,
    random::Draws,
    tensors::{self, Array},
};
use sd3pipe_cache::{Digest, Store};

/// Mean and log-variance of the raw latents, `[16, height / 8, width / 8]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    /// The mean.
    pub mean: Array,
    /// The logarithm of the variance, from −30 to 20.
    pub log_variance: Array,
}

impl Latents {
    /// The object that the store keeps; where the picture was cut out is in its metadata.
    pub fn to_bytes(&self, precision: Precision, placement: &Placement) -> Result<Vec<u8>, StageError> {
        let note = serde_json::to_string(placement).map_err(|error| StageError::Unfit(error.to_string()))?;
        tensors::to_bytes(
            &[("mean", &self.mean), ("log_variance", &self.log_variance)],
            precision,
            Some(("placement", note)),
        )
    }

    /// Reads it from the store.
    pub fn read(store: &Store, digest: &Digest) -> Result<Self, StageError> {
        let bytes = store.read(digest)?;
        let unreadable = |reason: String| StageError::Unreadable { what: format!("latents {digest}"), reason };
        let mut arrays = tensors::from_bytes(&bytes).map_err(unreadable)?;
        match (arrays.remove("mean"), arrays.remove("log_variance")) {
            (Some(mean), Some(log_variance)) if mean.shape == log_variance.shape => Ok(Self { mean, log_variance }),
            _ => Err(unreadable("it has no mean and log-variance of one shape".to_owned())),
        }
    }

    /// A draw from the posterior, `mean + exp(log_variance / 2) · normal`; the mean itself without `draws`.
    pub fn sample(&self, draws: Option<&mut Draws>) -> Vec<f32> {
        let Some(draws) = draws else { return self.mean.values.clone() };
        let noise = draws.normals_f32(self.mean.values.len());
        let terms = self.mean.values.iter().zip(&self.log_variance.values).zip(noise);
        terms.map(|((mean, log_variance), noise)| mean + libm::expf(0.5 * log_variance) * noise).collect()
    }
}
