//! Rounding to bf16 by chance.

use cubecl::prelude::*;

/// The bits of one of the two values of bf16 beside a value of f32, to each the likelier the nearer it is; by the rule that the CPU
/// follows: a draw below the distance to the nearest, as a share of both distances, gives the other one. `position` has the upper half
/// of the key added.
///
/// In whole numbers: the lower half of the value's bits is its distance from the neighbour nearer to zero, and if it and a draw of 16
/// bits carry, the farther one is taken. The draw is turned around where the nearer one is the nearest, so that it is small draws that
/// lead to the other one either way.
#[cube]
pub(super) fn rounded(value: f32, position: u32, key_low: u32) -> u16 {
    let draw = mixed(hash(position) + key_low);
    let bits = u32::reinterpret(value);
    // Negative up to halfway, and there where the nearer one is even.
    let distance = 0u32 - (bits << 16) - (bits & 0x1_0000u32);
    let turned = draw ^ u32::reinterpret(i32::reinterpret(distance) >> 31);
    // The bits of what is no number could carry into those of a number.
    let carried = select(value.is_nan(), bits, bits + (turned >> 16));
    u16::cast_from(carried >> 16)
}

/// `lowbias32` (Wellons 2018, "Prospecting for Hash Functions").
#[cube]
fn hash(bits: u32) -> u32 {
    let bits = mixed(bits);
    bits ^ (bits >> 16)
}

/// The same but for its last line, which leaves the upper 16 bits as they are.
#[cube]
fn mixed(bits: u32) -> u32 {
    let bits = (bits ^ (bits >> 16)) * 0x7FEB_352Du32;
    (bits ^ (bits >> 15)) * 0x846C_A68Bu32
}
