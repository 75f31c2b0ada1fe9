//! Rounding to bf16 that is right on average.

use crate::random::Draws;
use burn::tensor::{DType, FloatDType, Int, Tensor};

/// Rounds each value to one of its two neighbours in bf16, to each the likelier the nearer it is, so that the mean of what comes
/// out is what went in. An update far below the distance of two neighbours is lost by rounding to the nearest and not by this.
///
/// The draws are a function of (seed, step, name, position) and are made on the device with whole numbers alone, so they are equal
/// on every kind of device; the choice between neighbours is exact too: all that is computed for it in floats is without error.
pub fn stochastic(values: Tensor<1>, seed: u64, step: u64, name: &str) -> Tensor<1> {
    let draws = uniforms(&values, key(seed, step, name));
    let nearest = values.clone().cast(DType::BF16).cast(DType::F32);
    let beyond = values - nearest.clone();
    // 0.63 to 1.25 of the distance to the next neighbour, which comes out whichever of the two distances that is.
    let towards = nearest.clone() + nearest.clone().abs() * beyond.clone().sign() * (1.25 / 256.0);
    let other = towards.cast(DType::BF16).cast(DType::F32);
    let chosen = (draws * (other.clone() - nearest.clone()).abs()).lower(beyond.abs());
    nearest.mask_where(chosen, other).cast(DType::BF16)
}

/// The key of a tensor's draws.
pub(super) fn key(seed: u64, step: u64, name: &str) -> u64 {
    Draws::new(seed, "stochastic rounding", step, name).bits()
}

const MASK: i64 = 0xFFFF_FFFF;

/// A number from 0 to 1, of 24 bits, for each value: its position, hashed twice with a half of the key before each.
fn uniforms(like: &Tensor<1>, key: u64) -> Tensor<1> {
    let positions = Tensor::<1, Int>::arange(0..like.dims()[0] as i64, (&like.device(), DType::I64));
    let hashed = hash(hash(positions.add_scalar((key >> 32) as i64)).add_scalar(key as i64 & MASK));
    hashed.bitwise_right_shift_scalar(8).cast(FloatDType::F32).mul_scalar(1.0 / f64::from(1 << 24))
}

/// A well-mixing function of 32 bits, in numbers of 64 so that no product overflows: xor-shifts and multiplications with the
/// constants of `lowbias32` (Wellons 2018, "Prospecting for Hash Functions"), the second less 2³² to be small.
fn hash(bits: Tensor<1, Int>) -> Tensor<1, Int> {
    let fold = |bits: Tensor<1, Int>, shift: i64| bits.clone().bitwise_xor(bits.bitwise_right_shift_scalar(shift));
    let times = |bits: Tensor<1, Int>, factor: i64| bits.mul_scalar(factor).bitwise_and_scalar(MASK);
    let bits = times(fold(bits.bitwise_and_scalar(MASK), 16), 0x7FEB_352D);
    let bits = times(fold(bits, 15), 0x846C_A68B - (1 << 32));
    fold(bits, 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::to_host;
    use burn::tensor::{Device, bf16};

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    /// The same in plain integers.
    fn hash_of(mut bits: u32) -> u32 {
        bits = (bits ^ bits >> 16).wrapping_mul(0x7FEB_352D);
        bits = (bits ^ bits >> 15).wrapping_mul(0x846C_A68B);
        bits ^ bits >> 16
    }

    #[test]
    fn draws_are_the_hash_of_key_and_position() {
        let key = 0xFEDC_BA98_7654_3210_u64;
        let found = to_host(uniforms(&tensor(&[0.0; 2000]), key));
        for (position, found) in found.iter().enumerate() {
            let inner = hash_of((position as u32).wrapping_add((key >> 32) as u32));
            let expected = hash_of(inner.wrapping_add(key as u32)) >> 8;
            assert_eq!(f64::from(*found), f64::from(expected) / f64::from(1 << 24));
        }
        let mean = found.iter().sum::<f32>() / 2000.0;
        assert!((mean - 0.5).abs() < 0.03, "{mean}");
    }

    #[test]
    fn values_go_to_a_neighbour_and_their_mean_stays() {
        // Between powers of two, just beside them on either side, and of either sign.
        for value in [1.003, -0.3, 1.0001, 0.9999, -2.0003, 511.7, 1e-6, -3e5] {
            let rounded = to_host(stochastic(tensor(&[value; 20_000]), 1, 2, "x"));
            let truncated = f32::from_bits(value.to_bits() & 0xFFFF_0000);
            let away = f32::from_bits((value.to_bits() & 0xFFFF_0000) + 0x1_0000);
            assert!(rounded.iter().all(|found| *found == truncated || *found == away), "{value}");
            let mean = rounded.iter().map(|value| f64::from(*value)).sum::<f64>() / 20_000.0;
            let distance = f64::from((away - truncated).abs());
            // Five standard deviations of the mean of 20,000 choices.
            assert!((mean - f64::from(value)).abs() < 0.0177 * distance, "{value}: {mean}");
        }
    }

    #[test]
    fn values_of_bf16_stay() {
        let values = [0.0, -1.0, 1.5, 65280.0, bf16::from_f32(0.1).to_f32()];
        assert_eq!(to_host(stochastic(tensor(&values), 1, 2, "x")), values);
    }

    #[test]
    fn seeds_steps_and_names_draw_on_their_own() {
        let rounded = |seed, step, name| to_host(stochastic(tensor(&[1.003; 100]), seed, step, name));
        assert_eq!(rounded(1, 2, "x"), rounded(1, 2, "x"));
        for other in [rounded(2, 2, "x"), rounded(1, 3, "x"), rounded(1, 2, "y")] {
            assert_ne!(rounded(1, 2, "x"), other);
        }
    }

    /// A thousand updates of a ten-thousandth each. To the nearest in bf16 none of them shows.
    #[test]
    fn small_updates_add_up_as_in_32_bits_and_are_lost_by_rounding_to_the_nearest() {
        let count = 4096;
        let mut master = tensor(&vec![1.0; count]);
        let mut nearest = master.clone().cast(DType::BF16);
        let mut ours = nearest.clone();
        for step in 0..1000 {
            let update = |values: Tensor<1>| values.cast(DType::F32).mul_scalar(1.0 + 1e-4);
            master = update(master);
            nearest = update(nearest).cast(DType::BF16);
            ours = stochastic(update(ours), 42, step, "weight");
        }
        let mean =
            |values: Tensor<1>| to_host(values).iter().map(|value| f64::from(*value)).sum::<f64>() / count as f64;
        let expected = mean(master);
        assert!((expected - 1.1052).abs() < 1e-3);
        assert_eq!(mean(nearest), 1.0);
        let found = mean(ours);
        assert!((found - expected).abs() < 2e-3, "{found} and not {expected}");
    }
}
