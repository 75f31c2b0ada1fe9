//! Rounding to bf16 by chance.

use cubecl::prelude::*;

/// One of the two values of bf16 beside a value of f32, to each the likelier the nearer it is; by the rule that the CPU follows: a draw
/// below the distance to the nearest, as a share of both distances, gives the other one.
#[cube]
pub(super) fn rounded(value: f32, position: u32, key_high: u32, key_low: u32) -> f32 {
    let draw = f32::cast_from(hash(hash(position + key_high) + key_low) >> 8) * comptime![1.0f32 / 16_777_216.0];
    let bits = u32::reinterpret(value) & 0xFFFF_0000u32;
    let down = f32::reinterpret(bits);
    let up = f32::reinterpret(bits + 0x1_0000u32);
    let below = f32::abs(value - down);
    let above = f32::abs(up - value);
    // Halfway, the even one counts as the nearest.
    let nearest_is_up = below > above || (below == above && bits & 0x1_0000u32 != 0);
    let is_other = draw * f32::abs(up - down) < f32::min(below, above);
    select(nearest_is_up != is_other, up, down)
}

/// `lowbias32` (Wellons 2018, "Prospecting for Hash Functions").
#[cube]
fn hash(bits: u32) -> u32 {
    let bits = (bits ^ (bits >> 16)) * 0x7FEB_352Du32;
    let bits = (bits ^ (bits >> 15)) * 0x846C_A68Bu32;
    bits ^ (bits >> 16)
}
