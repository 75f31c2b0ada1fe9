//! Codes of 8 bits and the shares of a block's scale that they stand for, each way by one look-up in shared memory.
//!
//! The upper 16 bits of a share, as a float, name a cell: so narrow that at most one boundary between neighbouring codes lies in it.
//! A cell's word is such that the share's bits added to it carry into the code just if the share is above that boundary. So codes are
//! those that comparisons with all boundaries would find.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use cubecl::prelude::*;

const CODES: usize = 256;
/// The least share that is looked up, 2⁻²³: below it is no boundary.
const LEAST: f32 = 1.0 / 8_388_608.0;
const FIRST: u32 = LEAST.to_bits() >> 16;
/// Cells from the least share to 1, and some more, for whole vectors.
const CELLS: usize = ((1f32.to_bits() >> 16) - FIRST + 1).next_multiple_of(4) as usize;
const WORDS: usize = CODES + CELLS;

/// What a step with moments in 8 bits looks up: of each map the 256 shares that the codes stand for, given in ascending order, and the
/// words of the cells. Signed shares are looked up by their magnitude; code 127 is zero.
pub fn tables(signed: &[f32], unsigned: &[f32], device: &Device) -> Tensor<1, Int> {
    let words = [words(signed, &signed[signed.len() / 2 - 1..]), words(unsigned, unsigned)].concat();
    Tensor::from_data(TensorData::new(words, [2 * WORDS]), (device, DType::U32))
}

fn words(shares: &[f32], magnitudes: &[f32]) -> Vec<u32> {
    let boundaries: Vec<u32> = magnitudes.windows(2).map(|pair| ((pair[0] + pair[1]) / 2.0).to_bits()).collect();
    let word = |cell: u32| {
        let code = boundaries.iter().take_while(|boundary| **boundary >> 16 < cell).count() as u32;
        let boundary = boundaries.iter().find(|boundary| **boundary >> 16 == cell);
        let above = boundary.map_or(0, |boundary| 0xFFFF - (boundary & 0xFFFF));
        ((code << 16) + above).wrapping_sub(cell << 16)
    };
    let cells = (FIRST..FIRST + CELLS as u32).map(word);
    shares.iter().map(|share| share.to_bits()).chain(cells).collect()
}

/// The tables in a cube's shared memory.
#[derive(CubeType)]
pub(super) struct Codes {
    words: Shared<[u32]>,
}

/// Brings the tables there. The cube waits for them.
#[cube]
pub(super) fn read(tables: &[Vector<u32, Const<4>>], #[comptime] units: u32) -> Codes {
    let mut words: Shared<[u32]> = Shared::new_aligned_slice(comptime![2 * WORDS], 16usize);
    #[unroll]
    for turn in 0..comptime![(2 * WORDS as u32 / 4).div_ceil(units)] {
        let at = turn * units + UNIT_POS;
        if at < comptime![2 * WORDS as u32 / 4] {
            let found = tables[at as usize];
            #[unroll]
            for index in 0..4usize {
                words[at as usize * 4 + index] = found.extract(index);
            }
        }
    }
    sync_cube();
    Codes { words }
}

/// The share that a code stands for.
#[cube]
pub(super) fn decode(codes: &Codes, code: u8, #[comptime] signed: bool) -> f32 {
    f32::reinterpret(codes.words[usize::cast_from(code) + comptime![start(signed)]])
}

/// The code of the share that is nearest to one from −1 to 1 (or from 0).
#[cube]
pub(super) fn encode(codes: &Codes, share: f32, #[comptime] signed: bool) -> u8 {
    let bits = u32::reinterpret(f32::max(f32::abs(share), LEAST));
    let word = codes.words[(bits >> 16) as usize + comptime![start(signed) + CODES] - comptime![FIRST as usize]];
    let magnitude = (word + bits) >> 16;
    if comptime![signed] {
        // 0 or −1, which turns the magnitude's sign around. 1 alone has no opposite.
        let sign = i32::reinterpret(share) >> 31;
        u8::cast_from(i32::max((i32::cast_from(magnitude) ^ sign) - sign + 127, 0))
    } else {
        u8::cast_from(magnitude)
    }
}

/// Where a map's words begin.
fn start(signed: bool) -> usize {
    if signed { 0 } else { WORDS }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares as close together as those of the maps are, from zero to 1.
    fn shares() -> Vec<f32> {
        let decade = |decade: i32| {
            let parts = 2 << decade;
            (0..parts).map(move |part| 10f32.powi(decade - 6) * (0.1 + 0.9 * (part as f32 + 0.5) / parts as f32))
        };
        std::iter::once(0.0).chain((0..7).flat_map(decade)).chain([1.0]).collect()
    }

    #[test]
    fn a_look_up_finds_what_comparisons_with_all_boundaries_find() {
        let shares = shares();
        assert_eq!(shares.len(), CODES);
        let words = words(&shares, &shares);
        let boundaries: Vec<f32> = shares.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        let beside = boundaries.iter().flat_map(|boundary| [boundary.next_down(), *boundary, boundary.next_up()]);
        let others = (0..=u16::MAX).map(|index| (f32::from(index) / 65_536.0).powi(3));
        for share in beside.chain(others).chain([0.0, 1.0]) {
            let bits = share.max(LEAST).to_bits();
            let found = words[CODES + (bits >> 16) as usize - FIRST as usize].wrapping_add(bits) >> 16;
            assert_eq!(found as usize, boundaries.iter().filter(|boundary| share > **boundary).count(), "{share}");
        }
    }
}
