//! What an optimizer keeps of a tensor between steps, foreseen from the tensor's shape.

use super::Optimizer;
use crate::checkpoint::Dtype;

/// Tensors of fewer values keep their states in 32 bits (bitsandbytes' `min_8bit_size`).
pub(super) const SMALLEST_IN_8_BITS: usize = 4096;

/// Values in 8 bits that share a scale.
pub(super) const BLOCK: usize = 256;

/// The name of the codes of a state in 8 bits.
pub(super) fn codes(name: &str) -> String {
    format!("{name} codes")
}

/// The name of the scales of a state in 8 bits.
pub(super) fn scales(name: &str) -> String {
    format!("{name} scales")
}

impl Optimizer {
    /// The name, the type and the number of values of each state that it keeps of a tensor.
    pub fn keeps(&self, shape: &[usize]) -> Vec<(String, Dtype, usize)> {
        let count: usize = shape.iter().product();
        let floats = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Dtype::F32, count)).collect();
        match self {
            Self::AdamW8bit(_) if count >= SMALLEST_IN_8_BITS => {
                let of =
                    |name: &str| [(codes(name), Dtype::U8, count), (scales(name), Dtype::F32, count.div_ceil(BLOCK))];
                ["first", "second"].into_iter().flat_map(of).collect()
            }
            Self::AdamW(_) | Self::AdamW8bit(_) => floats(&["first", "second"]),
            Self::Adafactor(adafactor) => {
                let mut kept = match *shape {
                    [.., rows, columns] if count > 0 => vec![
                        ("rows".to_owned(), Dtype::F32, count / columns),
                        ("columns".to_owned(), Dtype::F32, count / rows),
                    ],
                    _ => floats(&["second"]),
                };
                kept.extend(adafactor.beta1.map(|_| ("first".to_owned(), Dtype::F32, count)));
                kept
            }
            Self::Lion(_) => floats(&["first"]),
            Self::Prodigy(_) => floats(&["start", "first", "second", "sum"]),
            Self::AdamWScheduleFree(_) => floats(&["second", "fast"]),
        }
    }
}

#[cfg(all(test, feature = "compute"))]
mod tests {
    use super::*;
    use crate::{
        nn::Weight,
        train::optimizer::{Course, Kept, Pace, Stored},
    };
    use burn::tensor::{Device, Tensor};
    use std::collections::BTreeSet;

    #[test]
    fn every_optimizer_keeps_what_was_foreseen() {
        let settings = [
            "AdamW(())",
            "AdamW8bit(())",
            "Adafactor(())",
            "Adafactor((beta1: Some(0.9)))",
            "Lion(())",
            "Prodigy(())",
            "AdamWScheduleFree(())",
        ];
        for text in settings {
            let optimizer: Optimizer = ron::from_str(text).unwrap();
            for shape in [vec![5], vec![70, 80], vec![2, 3, 4, 5], vec![5000]] {
                let values = Tensor::<1>::ones([shape.iter().product::<usize>()], &Device::flex());
                let course = optimizer.begin(Course::default(), 1e-3, 1);
                let pace = Pace { step: 1, learning_rate: 1e-3, weight_decay: 0.0, course };
                let mut kept = Kept::default();
                if let Optimizer::Prodigy(prodigy) = &optimizer {
                    prodigy.watch(&values, values.clone(), &mut kept, &pace);
                }
                optimizer.step(Weight { values: values.clone(), shape: shape.clone() }, values, &mut kept, &pace);
                let found: BTreeSet<(String, bool, usize)> = kept
                    .iter()
                    .map(|(name, stored)| match stored {
                        Stored::Floats(values) => (name.to_owned(), false, values.dims()[0]),
                        Stored::Codes(values) => (name.to_owned(), true, values.dims()[0]),
                    })
                    .collect();
                let foreseen =
                    optimizer.keeps(&shape).into_iter().map(|(name, dtype, count)| (name, dtype == Dtype::U8, count));
                assert_eq!(found, foreseen.collect(), "{text} {shape:?}");
            }
        }
    }
}
