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

/// The code of the value that is nearest to a share from −1 to 1 (or from 0).
#[cube]
pub(super) fn encode(share: f32, #[comptime] signed: bool) -> u32 {
    let magnitude = f32::abs(share);
    let mut at = 0u32;
    let mut most = 0f32;
    let mut scale = 0f32;
    let mut finer = 0f32;
    #[unroll]
    for decade in 0..comptime![DECADES] {
        let above = magnitude > comptime![threshold(decade, signed) as f32];
        at = select(above, comptime![first(decade, signed) as u32], at);
        most = select(above, comptime![parts(decade, signed) as f32 - 1.0], most);
        scale = select(above, comptime![(1.0 / end(decade)) as f32], scale);
        finer = select(above, comptime![(parts(decade, signed) as f64 / 0.9) as f32], finer);
    }
    let part = f32::min(f32::max((magnitude * scale - 0.1f32) * finer, 0f32), most);
    let index = at + u32::cast_from(part);
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
pub(super) fn decode(code: u32, #[comptime] signed: bool) -> f32 {
    let index = if comptime![signed] { select(code < 127u32, 127u32 - code, code - 127u32) } else { code };
    let mut share = 0f32;
    #[unroll]
    for decade in 0..comptime![DECADES] {
        let from = comptime![first(decade, signed) as u32];
        let lowest = comptime![value(decade, 0, signed) as f32];
        let step = comptime![(end(decade) * 0.9 / parts(decade, signed) as f64) as f32];
        share = select(index >= from, lowest + f32::cast_from(index - from) * step, share);
    }
    share = select(code == 255u32, 1f32, share);
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
