//! The values that codes stand for, as shares of a block's scale (bitsandbytes' `create_dynamic_map`), by arithmetic.
//!
//! Each of the seven decades up to 1 has the middles of equal parts, twice as many as the decade below it; 0 and 1 are there too.
//! Signed codes have 1 part in the lowest decade and either sign, unsigned ones 2.

use cubecl::prelude::*;

const DECADES: usize = 7;

/// The upper end of a decade.
fn end(decade: usize) -> f64 {
    10f64.powi(decade as i32 - 6)
}

fn parts(decade: usize, signed: bool) -> usize {
    (if signed { 1 } else { 2 }) << decade
}

/// The index of a decade's first value, counted from 0, the index of zero.
fn first(decade: usize, signed: bool) -> usize {
    parts(decade, signed) - usize::from(!signed)
}

fn value(decade: usize, part: usize, signed: bool) -> f64 {
    end(decade) * (0.1 + 0.9 * (part as f64 + 0.5) / parts(decade, signed) as f64)
}

/// The share above which the nearest value is in this decade or a higher one, or is 1 for the decade after the last.
fn threshold(decade: usize, signed: bool) -> f64 {
    let below = if decade == 0 { 0.0 } else { value(decade - 1, parts(decade - 1, signed) - 1, signed) };
    let above = if decade == DECADES { 1.0 } else { value(decade, 0, signed) };
    (below + above) / 2.0
}

/// What a cube looks up of the decades.
#[derive(CubeType)]
pub(super) struct Tables {
    /// Of the decade above so many thresholds: the inverse of its end, its parts over 0.9, one less than its parts, and the index of its
    /// first value, as bits. For shares with a sign, then for those without; where no threshold is below, zeros.
    encoded: Shared<[Vector<f32, Const<4>>]>,
    /// Of each decade its lowest value and their distance, by the last bits of the exponent of a number that begins with it.
    decoded: Shared<[Vector<f32, Const<2>>]>,
}

/// Entries for either sign.
const ENTRIES: usize = 8;

/// Lays the tables out. Its cube waits here.
#[cube]
pub(super) fn tables() -> Tables {
    let mut encoded: Shared<[Vector<f32, Const<4>>]> = Shared::new_slice(2 * ENTRIES);
    let mut decoded: Shared<[Vector<f32, Const<2>>]> = Shared::new_slice(2 * ENTRIES);
    if UNIT_POS == 0 {
        #[unroll]
        for side in 0..2usize {
            encoded[side * ENTRIES] = Vector::<f32, Const<4>>::new(0f32);
            #[unroll]
            for decade in 0..DECADES {
                let signed = comptime![side == 0];
                let mut entry = Vector::<f32, Const<4>>::empty();
                entry.insert(0usize, comptime![(1.0 / end(decade)) as f32].runtime());
                entry.insert(1usize, comptime![(parts(decade, signed) as f64 / 0.9) as f32].runtime());
                entry.insert(2usize, comptime![parts(decade, signed) as f32 - 1.0].runtime());
                entry.insert(3usize, f32::reinterpret(comptime![first(decade, signed) as u32].runtime()));
                encoded[side * ENTRIES + decade + 1] = entry;
                let mut entry = Vector::<f32, Const<2>>::empty();
                entry.insert(0usize, comptime![value(decade, 0, signed) as f32].runtime());
                let step = comptime![(end(decade) * 0.9 / parts(decade, signed) as f64) as f32];
                entry.insert(1usize, step.runtime());
                decoded[side * ENTRIES + comptime![place(decade, signed)]] = entry;
            }
        }
    }
    sync_cube();
    Tables { encoded, decoded }
}

/// The place of a decade by the exponent of the number that its codes are counted with: an index itself, or one more.
fn place(decade: usize, signed: bool) -> usize {
    (127 + decade + usize::from(!signed)) % ENTRIES
}

/// The code of the value that is nearest to a share from −1 to 1 (or from 0).
#[cube]
pub(super) fn encode(share: f32, tables: &Tables, #[comptime] signed: bool) -> u32 {
    let magnitude = f32::abs(share);
    let mut below = 0u32;
    #[unroll]
    for decade in 0..DECADES {
        below += u32::cast_from(magnitude > comptime![threshold(decade, signed) as f32]);
    }
    let entry = tables.encoded[(below + comptime![if signed { 0 } else { ENTRIES as u32 }]) as usize];
    let part = (magnitude * entry.extract(0usize) - 0.1f32) * entry.extract(1usize);
    let part = f32::min(f32::max(part, 0f32), entry.extract(2usize));
    let index = u32::reinterpret(entry.extract(3usize)) + u32::cast_from(part);
    let is_one = magnitude > comptime![threshold(DECADES, signed) as f32];
    if comptime![signed] {
        // Zero is 127; its neighbours mirror each other, but for 1, which has no opposite.
        let code = select(share < 0f32, 127u32 - index, 127u32 + index);
        select(is_one && share > 0f32, 255u32, code)
    } else {
        select(is_one, 255u32, index)
    }
}

/// The share that a code stands for.
#[cube]
pub(super) fn decode(code: u32, tables: &Tables, #[comptime] signed: bool) -> f32 {
    let number = if comptime![signed] { select(code < 127u32, 127u32 - code, code - 127u32) } else { code + 1 };
    // As a float without a conversion: numbers below 2²³ behind the bits of 2²³.
    let float = f32::reinterpret(number | 0x4B00_0000u32) - 8_388_608f32;
    let bits = u32::reinterpret(float);
    let place = (bits >> 23) % comptime![ENTRIES as u32];
    let entry = tables.decoded[(place + comptime![if signed { 0 } else { ENTRIES as u32 }]) as usize];
    let lowest = f32::reinterpret(bits & 0xFF80_0000u32);
    let share = entry.extract(0usize) + (float - lowest) * entry.extract(1usize);
    let zero = comptime![if signed { 127u32 } else { 0u32 }];
    let share = select(code == zero, 0f32, select(code == 255u32, 1f32, share));
    if comptime![signed] { select(code < 127u32, -share, share) } else { share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_follow_one_another_up_to_the_references_largest_values() {
        for (signed, largest) in [(true, 0.992_968_75), (false, 0.996_484_4)] {
            let thresholds: Vec<f64> = (0..=DECADES).map(|decade| threshold(decade, signed)).collect();
            assert!(thresholds.is_sorted(), "{thresholds:?}");
            assert!((value(DECADES - 1, parts(DECADES - 1, signed) - 1, signed) - largest).abs() < 1e-6);
            let count: usize = (0..DECADES).map(|decade| parts(decade, signed)).sum();
            assert_eq!(first(DECADES - 1, signed) + parts(DECADES - 1, signed) - 1, count);
        }
    }
}
