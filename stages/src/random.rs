//! Counter-based randomness: what is drawn is a function of (seed, stream, step, item), never of how often something was drawn before.

use std::f64::consts::TAU;
use std::fmt;

const CONTEXT: &str = "sd3pipe random v1";

/// An endless row of draws that belongs to one (seed, stream, step, item) and is equal on every machine.
///
/// The bits are BLAKE3's extendable output, in its key-derivation mode with the context "sd3pipe random v1", over the four
/// fields in this order, each as its length in bytes (u64, little-endian) and its bytes; numbers are u64, little-endian.
/// A stream's name says what is drawn (`"noise"`, `"caption variants"`), so that two uses never share bits.
#[derive(Clone)]
pub struct Draws {
    output: blake3::OutputReader,
    /// Box-Muller makes normal draws in pairs; this is the second of a pair.
    spare: Option<f64>,
}

impl fmt::Debug for Draws {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Draws").field("position", &self.output.position()).finish_non_exhaustive()
    }
}

impl Draws {
    /// The draws of `item` at `step` in `stream`.
    pub fn new(seed: u64, stream: &str, step: u64, item: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for field in [&seed.to_le_bytes()[..], stream.as_bytes(), &step.to_le_bytes()[..], item.as_bytes()] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        Self { output: hasher.finalize_xof(), spare: None }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.output.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The next bytes: many at once are faster than bit by bit.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.output.fill(bytes);
    }

    /// A number in [0, 1), one of 2^53 equally likely ones.
    pub fn uniform(&mut self) -> f64 {
        unit(self.bits())
    }

    /// A whole number below `bound`, each equally likely; 0 if `bound` is 0.
    ///
    /// Lemire 2019, "Fast random integer generation in an interval", algorithm 5: the few products that would make some
    /// numbers likelier than others are drawn again.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = |bits: u64| u128::from(bits) * u128::from(bound);
        let mut product = wide(self.bits());
        if (product as u64) < bound {
            let biased = bound.wrapping_neg() % bound;
            while (product as u64) < biased {
                product = wide(self.bits());
            }
        }
        (product >> 64) as u64
    }

    /// A draw from the normal distribution with mean 0 and variance 1 (Box and Muller 1958).
    ///
    /// The logarithm, sine and cosine are those of the `libm` crate and not the system's, whose last bits differ from one
    /// machine to the next.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (first, second) = (self.bits(), self.bits());
        let (normal, spare) = normal_pair(first, second);
        self.spare = Some(spare);
        normal
    }

    /// `count` draws as [`normal`](Self::normal) makes them, each rounded to 32 bits.
    pub fn normals_f32(&mut self, count: usize) -> Vec<f32> {
        let mut normals = Vec::with_capacity(count);
        if count > 0
            && let Some(spare) = self.spare.take()
        {
            normals.push(spare as f32);
        }
        // One block of BLAKE3's output holds four pairs; longer reads let it compute several blocks at once.
        let mut buffer = [0; 1024];
        while normals.len() < count {
            let pairs = (count - normals.len()).div_ceil(2).min(buffer.len() / 16);
            let bytes = &mut buffer[..pairs * 16];
            self.output.fill(bytes);
            for pair in bytes.as_chunks::<16>().0 {
                let bits = u128::from_le_bytes(*pair);
                let (normal, spare) = normal_pair(bits as u64, (bits >> 64) as u64);
                normals.push(normal as f32);
                if normals.len() < count {
                    normals.push(spare as f32);
                } else {
                    self.spare = Some(spare);
                }
            }
        }
        normals
    }

    /// Puts `items` in an order of which all are equally likely (Fisher and Yates, from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn normal_pair(first: u64, second: u64) -> (f64, f64) {
    // 1 - u lies in (0, 1], where the logarithm is finite.
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit(first)));
    let angle = TAU * unit(second);
    (radius * libm::cos(angle), radius * libm::sin(angle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws() -> Draws {
        Draws::new(42, "noise", 7, "photos/0042.png")
    }

    #[test]
    fn the_bits_are_pinned_for_ever() {
        // The numbers in this and the next test come from a program in another language, written from the documentation.
        let mut message = Vec::new();
        for field in [&42_u64.to_le_bytes()[..], b"noise", &7_u64.to_le_bytes()[..], b"photos/0042.png"] {
            message.extend_from_slice(&(field.len() as u64).to_le_bytes());
            message.extend_from_slice(field);
        }
        assert_eq!(draws().bits().to_le_bytes(), blake3::derive_key(CONTEXT, &message)[..8]);
        let mut draws = draws();
        let bits = [draws.bits(), draws.bits(), draws.bits()];
        assert_eq!(bits, [2_431_929_054_897_679_012, 16_085_279_951_249_697_241, 781_647_420_322_297_937]);
    }

    #[test]
    fn the_values_are_pinned_for_ever() {
        let mut draws = draws();
        assert_eq!(draws.uniform().to_bits(), 4_593_917_881_725_882_452);
        assert_eq!([draws.below(10), draws.below(1000), draws.below(u64::MAX)], [8, 42, 1_378_153_297_377_794_657]);
        // The other program's cosine is the C library's, and larger by one in the last bit: the reason for `libm` here.
        let normals = [draws.normal().to_bits(), draws.normal().to_bits()];
        assert_eq!(normals, [4_600_638_654_489_153_871, 13_831_699_182_165_365_551]);
        let normals: Vec<u32> = draws.normals_f32(4).into_iter().map(f32::to_bits).collect();
        assert_eq!(normals, [3_217_502_177, 3_211_424_375, 1_065_540_701, 1_051_133_307]);
        let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
        draws.shuffle(&mut order);
        assert_eq!(order, [7, 5, 0, 1, 3, 2, 4, 6]);
    }

    #[test]
    fn every_field_changes_the_draws() {
        let base = draws().bits();
        let others = [
            Draws::new(43, "noise", 7, "photos/0042.png"),
            Draws::new(42, "timestep", 7, "photos/0042.png"),
            Draws::new(42, "noise", 8, "photos/0042.png"),
            Draws::new(42, "noise", 7, "photos/0043.png"),
        ];
        for mut other in others {
            assert_ne!(other.bits(), base);
        }
    }

    #[test]
    fn bytes_do_not_move_between_fields() {
        let (mut one, mut other) = (Draws::new(0, "ab", 0, "c"), Draws::new(0, "a", 0, "bc"));
        assert_ne!(one.bits(), other.bits());
    }

    #[test]
    fn many_normals_at_once_are_the_same_as_one_by_one() {
        for count in [0, 1, 2, 3, 127, 128, 129, 1000] {
            let (mut one, mut many) = (draws(), draws());
            for round in 0..3 {
                let expected: Vec<f32> = (0..count).map(|_| one.normal() as f32).collect();
                assert_eq!(many.normals_f32(count), expected, "{count} draws, round {round}");
            }
            assert_eq!(many.normal(), one.normal());
        }
    }

    #[test]
    fn uniforms_are_uniform() {
        let mut draws = draws();
        let values: Vec<f64> = (0..100_000).map(|_| draws.uniform()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        let (mean, variance) = moments(&values);
        // Five standard errors: 0.2887 / sqrt(100000) is 0.0009.
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((variance - 1.0 / 12.0).abs() < 0.002, "{variance}");
    }

    #[test]
    fn normals_are_normal() {
        let values: Vec<f64> = draws().normals_f32(200_000).into_iter().map(f64::from).collect();
        let (mean, variance) = moments(&values);
        assert!(mean.abs() < 0.011, "{mean}");
        assert!((variance - 1.0).abs() < 0.016, "{variance}");
        let fourth = values.iter().map(|value| value.powi(4)).sum::<f64>() / values.len() as f64;
        assert!((fourth - 3.0).abs() < 0.11, "{fourth}");
        let outside = values.iter().filter(|value| value.abs() > 1.959_964).count() as f64 / values.len() as f64;
        assert!((outside - 0.05).abs() < 0.0025, "{outside}");
    }

    #[test]
    fn neighbours_are_not_correlated() {
        let streams = [
            (draws(), Draws::new(42, "noise", 8, "photos/0042.png")),
            (draws(), Draws::new(42, "noise", 7, "photos/0043.png")),
            (draws(), Draws::new(43, "noise", 7, "photos/0042.png")),
        ];
        let count = 100_000;
        for (mut one, mut other) in streams {
            let (one, other) = (one.normals_f32(count), other.normals_f32(count));
            let correlation = one.iter().zip(&other).map(|(a, b)| f64::from(a * b)).sum::<f64>() / count as f64;
            assert!(correlation.abs() < 0.016, "{correlation}");
            let lag = one.windows(2).map(|pair| f64::from(pair[0] * pair[1])).sum::<f64>() / count as f64;
            assert!(lag.abs() < 0.016, "{lag}");
        }
    }

    #[test]
    fn below_is_even_and_stays_below() {
        let mut draws = draws();
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[draws.below(6) as usize] += 1;
        }
        // Five standard deviations of a count: sqrt(60000 / 6 * 5 / 6) is 91.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 460), "{counts:?}");
        assert_eq!((draws.below(0), draws.below(1)), (0, 0));
        // Two thirds of all 64-bit numbers: without drawing again, even ones would come twice as often as odd ones.
        let bound = u64::MAX / 3 * 2 + 1;
        let even = (0..10_000).filter(|_| draws.below(bound).is_multiple_of(2)).count();
        assert!(even.abs_diff(5000) < 250, "{even}");
    }

    #[test]
    fn every_order_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for step in 0..24_000 {
            let mut order = [0, 1, 2, 3];
            Draws::new(1, "order", step, "").shuffle(&mut order);
            *counts.entry(order).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| count.abs_diff(1000) < 160), "{counts:?}");
        let mut nothing: [u8; 0] = [];
        draws().shuffle(&mut nothing);
    }

    fn moments(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance)
    }
}
