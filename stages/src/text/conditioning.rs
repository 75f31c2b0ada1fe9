//! What the text encoders make of a text, and how the MMDiT reads it.

use crate::{
    checkpoint::MmditGeometry,
    error::StageError,
    precision::Precision,
    tensors::{self, Array},
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd3pipe_cache::{Digest, Store};

/// Rows of a CLIP's output: its fixed length.
pub const CLIP_TOKENS: usize = 77;

/// The encoders' outputs for one text, padding rows included: SD3 masks nothing, so they are read like any others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// CLIP-L's penultimate states, `[77, 768]`, and its pooled vector, `[768]`.
    pub clip_l: Option<[Array; 2]>,
    /// CLIP-G's penultimate states, `[77, 1280]`, and its pooled vector, `[1280]`.
    pub clip_g: Option<[Array; 2]>,
    /// T5's last states, `[tokens, 4096]`.
    pub t5: Option<Array>,
}

impl Encoded {
    /// The object that the store keeps: safetensors of this precision.
    pub fn to_bytes(&self, precision: Precision) -> Result<Vec<u8>, StageError> {
        let mut arrays = Vec::new();
        for (name, clip) in [("clip_l", &self.clip_l), ("clip_g", &self.clip_g)] {
            if let Some([states, pooled]) = clip {
                arrays.push((format!("{name}.states"), states));
                arrays.push((format!("{name}.pooled"), pooled));
            }
        }
        if let Some(states) = &self.t5 {
            arrays.push(("t5.states".to_owned(), states));
        }
        tensors::to_bytes(&arrays, precision, None)
    }

    /// Reads it from the store.
    pub fn read(store: &Store, digest: &Digest) -> Result<Self, StageError> {
        let bytes = store.read(digest)?;
        let mut arrays = tensors::from_bytes(&bytes)
            .map_err(|reason| StageError::Unreadable { what: format!("text {digest}"), reason })?;
        let mut clip = |name: &str| {
            let pooled = arrays.remove(&format!("{name}.pooled"))?;
            Some([arrays.remove(&format!("{name}.states"))?, pooled])
        };
        Ok(Self { clip_l: clip("clip_l"), clip_g: clip("clip_g"), t5: arrays.remove("t5.states") })
    }

    fn rows(array: &Array) -> usize {
        array.shape.first().copied().unwrap_or_default()
    }

    fn width(array: &Array) -> usize {
        array.shape.last().copied().unwrap_or_default()
    }
}

/// Which encoders' outputs are replaced by zeros for one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropped {
    /// CLIP-L's channels and its part of the pooled vector.
    pub clip_l: bool,
    /// CLIP-G's channels and its part of the pooled vector.
    pub clip_g: bool,
    /// T5's rows.
    pub t5: bool,
}

/// Puts encoders' outputs together as the MMDiT reads them (`Sd3TextEncodingStrategy.concat_encodings` of sd-scripts).
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// Width of the context, 4096.
    pub context_width: usize,
    /// Width of the pooled vector, 2048.
    pub pooled_width: usize,
    /// Rows of T5's output: zeros stand there when there is no T5, as in diffusers.
    pub t5_tokens: usize,
}

impl Conditioning {
    /// For a network and a number of T5 rows.
    pub fn new(geometry: &MmditGeometry, t5_tokens: u32) -> Self {
        Self {
            context_width: geometry.context_width,
            pooled_width: geometry.pooled_width,
            t5_tokens: t5_tokens as usize,
        }
    }

    /// The context, `[batch, 77 + t5_tokens, context_width]`: CLIP-L and CLIP-G side by side and zeros up to the width, then
    /// T5's rows; and the pooled vector, `[batch, pooled_width]`.
    ///
    /// # Errors
    /// When the encoders are wider than the network reads.
    pub fn assemble(
        &self,
        batch: &[(&Encoded, Dropped)],
        device: &Device,
        dtype: DType,
    ) -> Result<(Tensor<3>, Tensor<2>), StageError> {
        let rows = CLIP_TOKENS + self.t5_tokens;
        let mut context = vec![0.0f32; batch.len() * rows * self.context_width];
        let mut pooled = vec![0.0f32; batch.len() * self.pooled_width];
        let samples =
            context.chunks_exact_mut(rows * self.context_width).zip(pooled.chunks_exact_mut(self.pooled_width));
        for ((encoded, dropped), (context, pooled)) in batch.iter().zip(samples) {
            self.fill(encoded, *dropped, context, pooled)?;
        }
        let context = TensorData::new(context, [batch.len(), rows, self.context_width]);
        let pooled = TensorData::new(pooled, [batch.len(), self.pooled_width]);
        Ok((
            Tensor::<3>::from_data(context, (device, DType::F32)).cast(dtype),
            Tensor::<2>::from_data(pooled, (device, DType::F32)).cast(dtype),
        ))
    }

    fn fill(
        &self,
        encoded: &Encoded,
        dropped: Dropped,
        context: &mut [f32],
        pooled: &mut [f32],
    ) -> Result<(), StageError> {
        let (rows, t5_rows) = context.split_at_mut(CLIP_TOKENS * self.context_width);
        let [left, right] =
            [&encoded.clip_l, &encoded.clip_g].map(|clip| clip.as_ref().map(|[states, _]| Encoded::width(states)));
        let offset = self.channel_of_clip_g(left, right);
        for (clip, offset, dropped) in [(&encoded.clip_l, 0, dropped.clip_l), (&encoded.clip_g, offset, dropped.clip_g)]
        {
            let Some([states, vector]) = clip else { continue };
            let width = Encoded::width(states);
            let fits = offset + width <= self.context_width.min(self.pooled_width) && Encoded::width(vector) == width;
            if !fits || Encoded::rows(states) != CLIP_TOKENS {
                return Err(self.misfit(format!("a CLIP of {:?} at channel {offset}", states.shape)));
            }
            if !dropped {
                for (row, states) in rows.chunks_exact_mut(self.context_width).zip(states.values.chunks_exact(width)) {
                    row[offset..offset + width].copy_from_slice(states);
                }
                pooled[offset..offset + width].copy_from_slice(&vector.values);
            }
        }
        match &encoded.t5 {
            Some(states) if states.shape != [self.t5_tokens, self.context_width] => {
                Err(self.misfit(format!("T5 states of {:?}", states.shape)))
            }
            Some(states) if !dropped.t5 => {
                t5_rows.copy_from_slice(&states.values);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The first of CLIP-G's channels, given the widths of CLIP-L and of CLIP-G as far as there are both: a missing CLIP leaves zeros
    /// in its place, and its width is what the other one leaves of the pooled vector.
    pub fn channel_of_clip_g(&self, left: Option<usize>, right: Option<usize>) -> usize {
        left.unwrap_or_else(|| self.pooled_width.saturating_sub(right.unwrap_or_default()))
    }

    fn misfit(&self, what: String) -> StageError {
        StageError::Unfit(format!(
            "the text encoders do not belong to this MMDiT: it reads {} T5 rows, {} channels and {} pooled values, and there is {what}",
            self.t5_tokens, self.context_width, self.pooled_width
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], value: f32) -> Array {
        Array { shape: shape.to_vec(), values: vec![value; shape.iter().product()] }
    }

    fn encoded() -> Encoded {
        Encoded {
            clip_l: Some([array(&[77, 2], 1.0), array(&[2], 2.0)]),
            clip_g: Some([array(&[77, 3], 3.0), array(&[3], 4.0)]),
            t5: Some(array(&[4, 8], 5.0)),
        }
    }

    fn assemble(encoded: &Encoded, dropped: Dropped) -> (Vec<f32>, Vec<f32>) {
        let conditioning = Conditioning { context_width: 8, pooled_width: 5, t5_tokens: 4 };
        let (context, pooled) = conditioning.assemble(&[(encoded, dropped)], &Device::flex(), DType::F32).unwrap();
        assert_eq!(context.dims(), [1, 81, 8]);
        (context.into_data().try_to_vec().unwrap(), pooled.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn clips_stand_side_by_side_and_t5_below_them() {
        let (context, pooled) = assemble(&encoded(), Dropped::default());
        assert_eq!(context[..8], [1.0, 1.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0]);
        assert_eq!(context[77 * 8..77 * 8 + 8], [5.0; 8]);
        assert_eq!(pooled, [2.0, 2.0, 4.0, 4.0, 4.0]);
    }

    #[test]
    fn a_dropped_encoder_leaves_zeros_in_its_place() {
        let (context, pooled) = assemble(&encoded(), Dropped { clip_l: true, t5: true, ..Dropped::default() });
        assert_eq!(context[..8], [0.0, 0.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0]);
        assert!(context[77 * 8..].iter().all(|value| *value == 0.0));
        assert_eq!(pooled, [0.0, 0.0, 4.0, 4.0, 4.0]);
    }

    #[test]
    fn a_missing_clip_leaves_the_other_at_its_place() {
        let (context, pooled) = assemble(&Encoded { clip_l: None, ..encoded() }, Dropped::default());
        assert_eq!(context[..5], [0.0, 0.0, 3.0, 3.0, 3.0]);
        assert_eq!(pooled, [0.0, 0.0, 4.0, 4.0, 4.0]);
    }

    #[test]
    fn encoders_of_another_model_are_refused() {
        let conditioning = Conditioning { context_width: 8, pooled_width: 4, t5_tokens: 4 };
        let error =
            conditioning.assemble(&[(&encoded(), Dropped::default())], &Device::flex(), DType::F32).unwrap_err();
        assert!(error.to_string().contains("do not belong"), "{error}");
    }
}
