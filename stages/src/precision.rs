//! The number types that networks compute in and that files hold.

use serde::{Deserialize, Serialize};

/// A floating-point type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Precision {
    /// 32 bits: 8 of exponent, 23 of fraction.
    F32,
    /// 16 bits: 8 of exponent, 7 of fraction. The range of `F32`, so nothing overflows.
    Bf16,
    /// 16 bits: 5 of exponent, 10 of fraction. Overflows above 65504.
    F16,
}

impl Precision {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}
