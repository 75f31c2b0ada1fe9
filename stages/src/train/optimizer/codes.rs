//! States in 8 bits: a code a value and a scale a block of 256 values (Dettmers et al. 2022, arXiv:2110.02861).

use super::{
    Kept,
    keeps::{BLOCK, codes, scales},
};
#[cfg(feature = "cuda")]
use burn::tensor::Device;
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Which values the codes stand for, as shares of the scale (bitsandbytes' `create_dynamic_map`).
#[derive(Clone, Copy, Debug)]
pub enum Map {
    /// 127 magnitudes of either sign, 0 and 1.
    Signed,
    /// 254 magnitudes, 0 and 1.
    Unsigned,
}

/// What the kernel on a GPU looks up of both maps.
#[cfg(feature = "cuda")]
pub fn tables(device: &Device) -> Tensor<1, Int> {
    sd3pipe_kernels::adamw::tables(&Map::Signed.values(), &Map::Unsigned.values(), device)
}

impl Map {
    /// The values in ascending order: in each of the seven decades up to 1 the middles of equal parts, in each decade twice as
    /// many as in the one below it.
    fn values(self) -> Vec<f32> {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let parts = match self {
                Self::Signed => 1 << decade,
                Self::Unsigned => 2 << decade,
            };
            for part in 0..parts {
                let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
                let value = (libm::pow(10.0, f64::from(decade - 6)) * middle) as f32;
                values.push(value);
                if let Self::Signed = self {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f32::total_cmp);
        values
    }

    /// Takes a state in 32 bits out of what is kept; zeros, as many as `like` has, before the first step.
    pub fn take(self, kept: &mut Kept, name: &str, like: &Tensor<1>) -> Tensor<1> {
        match (kept.take_codes(&codes(name)), kept.take_if(&scales(name))) {
            (Some(codes), Some(scales)) => self.decode(codes, scales),
            _ => like.zeros_like(),
        }
    }

    /// Puts a state back in 8 bits.
    pub fn put(self, kept: &mut Kept, name: &str, values: Tensor<1>) {
        self.put_codes(kept, name, self.encode(values));
    }

    /// Takes the codes and scales of a state out of what is kept; those of `count` zeros before the first step.
    #[cfg(feature = "cuda")]
    pub fn take_codes(self, kept: &mut Kept, name: &str, count: usize, device: &Device) -> (Tensor<1, Int>, Tensor<1>) {
        match (kept.take_codes(&codes(name)), kept.take_if(&scales(name))) {
            (Some(codes), Some(scales)) => (codes, scales),
            _ => {
                let zero = match self {
                    Self::Signed => 127,
                    Self::Unsigned => 0,
                };
                let codes = Tensor::full([count], zero, (device, DType::U8));
                (codes, Tensor::zeros([count.div_ceil(BLOCK)], (device, DType::F32)))
            }
        }
    }

    /// Puts codes and scales back.
    pub fn put_codes(self, kept: &mut Kept, name: &str, (of_values, of_blocks): (Tensor<1, Int>, Tensor<1>)) {
        kept.put_codes(&codes(name), of_values);
        kept.put(&scales(name), of_blocks);
    }

    /// The code of the nearest value for each value, and the scale of each block; the last block may be short.
    pub fn encode(self, values: Tensor<1>) -> (Tensor<1, Int>, Tensor<1>) {
        let [length] = values.dims();
        let (device, blocks) = (values.device(), length.div_ceil(BLOCK));
        let padding = Tensor::zeros([blocks * BLOCK - length], (&device, DType::F32));
        let rows = Tensor::cat(vec![values, padding], 0).reshape([blocks, BLOCK]);
        let scales = rows.clone().abs().max_dim(1);
        // A block of zeros has the scale 0.
        let shares = (rows / scales.clone().clamp_min(f32::MIN_POSITIVE)).reshape([blocks * BLOCK]);

        // The number of boundaries between neighbours that lie below the share, by halving: highest bit first.
        let map = self.values();
        let boundaries: Vec<f32> = map.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        let boundaries = Tensor::<1>::from_data(TensorData::new(boundaries, [map.len() - 1]), (&device, DType::F32));
        let mut codes = Tensor::<1, Int>::zeros([blocks * BLOCK], (&device, DType::I32));
        for bit in (0..8).rev() {
            let higher = codes.clone().add_scalar(1 << bit);
            let boundary = boundaries.clone().select(0, higher.clone().sub_scalar(1));
            codes = codes.mask_where(shares.clone().greater(boundary), higher);
        }
        (codes.narrow(0, 0, length).cast(DType::U8), scales.reshape([blocks]))
    }

    /// The values that codes and scales stand for.
    pub fn decode(self, codes: Tensor<1, Int>, scales: Tensor<1>) -> Tensor<1> {
        let ([length], [blocks]) = (codes.dims(), scales.dims());
        let map = self.values();
        let map = Tensor::<1>::from_data(TensorData::new(map.clone(), [map.len()]), (&scales.device(), DType::F32));
        let shares = map.select(0, codes.cast(DType::I32));
        let scales = scales.reshape([blocks, 1]).repeat_dim(1, BLOCK).reshape([blocks * BLOCK]);
        shares * scales.narrow(0, 0, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::to_host;
    use burn::tensor::Device;

    /// Some of the values that bitsandbytes 0.50.2 gives.
    #[test]
    fn the_maps_are_the_references() {
        let signed = Map::Signed.values();
        let unsigned = Map::Unsigned.values();
        assert_eq!((signed.len(), unsigned.len()), (256, 256));
        for (map, code, expected) in [
            (&signed, 0, -0.992_968_75),
            (&signed, 126, -5.5e-7),
            (&signed, 127, 0.0),
            (&signed, 129, 3.25e-6),
            (&signed, 254, 0.992_968_75),
            (&signed, 255, 1.0),
            (&unsigned, 0, 0.0),
            (&unsigned, 1, 3.25e-7),
            (&unsigned, 3, 2.125e-6),
            (&unsigned, 254, 0.996_484_4),
        ] {
            assert!((map[code] - expected).abs() <= 1e-7 * expected.abs(), "{code}: {} {expected}", map[code]);
        }
    }

    #[test]
    fn every_value_gets_the_nearest_code_of_its_block() {
        let values: Vec<f32> = (0..700u16).map(|i| (f32::from(i) * 0.37).sin() * f32::from(1 + i / 256)).collect();
        let tensor = Tensor::<1>::from_floats(values.as_slice(), &Device::flex());
        let (codes, scales) = Map::Signed.encode(tensor);
        assert_eq!((codes.dims(), scales.dims(), codes.dtype()), ([700], [3], DType::U8));
        let found = to_host(Map::Signed.decode(codes, scales.clone()));
        let (map, scales) = (Map::Signed.values(), to_host(scales));
        for (index, (value, found)) in values.iter().zip(found).enumerate() {
            let scale = scales[index / BLOCK];
            let nearest = map.iter().map(|share| (share * scale - value).abs()).fold(f32::MAX, f32::min);
            assert!((found - value).abs() <= nearest + 1e-7, "{index}: {value} became {found}");
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zeros() {
        let (codes, scales) = Map::Unsigned.encode(Tensor::zeros([300], (&Device::flex(), DType::F32)));
        assert!(to_host(Map::Unsigned.decode(codes, scales)).iter().all(|value| *value == 0.0));
    }
}
