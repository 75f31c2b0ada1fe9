//! A ring of tiles in shared memory: the copy engine fills some stages while the warpgroups read others.

use super::tensor::WIDTH;
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

pub(super) const STAGES: usize = 4;
/// Stages that are not filled: those that a slower warpgroup may still read.
const AHEAD: usize = 2;
pub(super) const BYTES: usize = 2;

/// The ring. A stage has a tile of each of two tensors.
#[derive(CubeType)]
pub(super) struct Ring {
    /// That what the cube owns is there; the barrier is made with the others.
    pub(super) own_full: Shared<Barrier>,
    firsts: Shared<[bf16]>,
    seconds: Shared<[bf16]>,
    full: Sequence<Shared<Barrier>>,
    empty: Sequence<Shared<Barrier>>,
    #[cube(comptime)]
    rows: usize,
}

#[cube]
impl Ring {
    /// A ring of tiles of so many rows, read by so many warpgroups. The cube waits until it's there.
    pub(super) fn new(#[comptime] rows: usize, #[comptime] groups: usize) -> Ring {
        let firsts: Shared<[bf16]> = Shared::new_aligned_slice(comptime![STAGES * rows * WIDTH], 1024usize);
        let seconds: Shared<[bf16]> = Shared::new_aligned_slice(comptime![STAGES * rows * WIDTH], 1024usize);
        let own_full = Barrier::shared_uninit();
        let mut full = Sequence::<Shared<Barrier>>::new();
        let mut empty = Sequence::<Shared<Barrier>>::new();
        #[unroll]
        for _ in 0..STAGES {
            full.push(Barrier::shared_uninit());
            empty.push(Barrier::shared_uninit());
        }
        if UNIT_POS == 0 {
            own_full.init_manual(1u32);
            #[unroll]
            for stage in 0..STAGES {
                full[stage].init_manual(1u32);
                empty[stage].init_manual(comptime![groups as u32]);
            }
            sync_async_proxy_shared();
        }
        sync_cube();
        Ring { own_full, firsts, seconds, full, empty, rows }
    }

    /// The tile of the first tensor.
    pub(super) fn first(&self, #[comptime] stage: usize) -> &[bf16] {
        let tile = comptime![self.rows * WIDTH];
        &self.firsts[comptime![stage * tile]..comptime![(stage + 1) * tile]]
    }

    /// The tile of the second.
    pub(super) fn second(&self, #[comptime] stage: usize) -> &[bf16] {
        let tile = comptime![self.rows * WIDTH];
        &self.seconds[comptime![stage * tile]..comptime![(stage + 1) * tile]]
    }

    /// Has the first tiles brought, of tensors that have `end` rows; by one unit. `place` is the batch, and the two tensors' heads.
    pub(super) fn begin(
        &mut self,
        first: &TensorMap<bf16, Tiled>,
        second: &TensorMap<bf16, Tiled>,
        place: (u32, u32, u32),
        end: u32,
    ) {
        #[unroll]
        for stage in 0..STAGES - AHEAD {
            let at = comptime![(stage * self.rows) as u32];
            if at < end {
                self.bring(stage, first, second, place, at);
            }
        }
    }

    /// Has the tiles brought that come so many after those at row `at`, which are this turn's at `stage`: their stage is filled again
    /// once every warpgroup is two tiles past it.
    #[allow(clippy::too_many_arguments, reason = "a kernel's parts take bare numbers")]
    pub(super) fn go_on(
        &mut self,
        #[comptime] stage: usize,
        turn: u32,
        first: &TensorMap<bf16, Tiled>,
        second: &TensorMap<bf16, Tiled>,
        place: (u32, u32, u32),
        at: u32,
        end: u32,
    ) {
        let next = comptime![(stage + STAGES - AHEAD) % STAGES];
        let its_turn = turn + comptime![((stage + STAGES - AHEAD) / STAGES) as u32];
        let its_place = at + comptime![((STAGES - AHEAD) * self.rows) as u32];
        if UNIT_POS == 0 && its_place < end {
            self.empty[next].wait_parity((its_turn & 1) ^ 1);
            self.bring(next, first, second, place, its_place);
        }
    }

    /// Waits for this turn's tiles of a stage.
    pub(super) fn wait(&self, #[comptime] stage: usize, turn: u32) {
        self.full[stage].wait_parity(turn & 1);
    }

    /// A warpgroup, by one of its units, is done with a stage.
    pub(super) fn leave(&self, #[comptime] stage: usize) {
        self.empty[stage].arrive();
    }

    fn bring(
        &mut self,
        #[comptime] stage: usize,
        first: &TensorMap<bf16, Tiled>,
        second: &TensorMap<bf16, Tiled>,
        place: (u32, u32, u32),
        at: u32,
    ) {
        let tile = comptime![self.rows * WIDTH];
        let from = comptime![stage * tile];
        let to = comptime![(stage + 1) * tile];
        let (batch, first_head, second_head) = place;
        let full = &self.full[stage];
        full.arrive_and_expect_tx(1u32, comptime![(2 * tile * BYTES) as u32]);
        full.tma_load_4d(first, &mut self.firsts[from..to], batch as i32, first_head as i32, at as i32, 0);
        full.tma_load_4d(second, &mut self.seconds[from..to], batch as i32, second_head as i32, at as i32, 0);
    }
}
