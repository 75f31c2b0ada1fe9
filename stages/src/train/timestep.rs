//! The level of noise that each sample of an optimizer step gets.

use crate::{
    random::Draws,
    train::{TrainJob, order::Turn, parameters::Train, weighting::SMALLEST},
};

impl Train {
    /// The sigma in [0.001, 1] of a `u` of the density: `shift·u / (1 + (shift − 1)·u)` (SD3 paper, equation 23), put between the first and
    /// the last timestep. The network is given `1000·sigma` as its timestep.
    fn sigma(&self, u: f64) -> f64 {
        let shifted = self.shift * u / (1.0 + (self.shift - 1.0) * u);
        let [low, high] = [self.min_timestep, self.max_timestep].map(|timestep| f64::from(timestep) / 1000.0);
        (low + (high - low) * shifted).clamp(SMALLEST, 1.0)
    }
}

impl TrainJob {
    /// The turns of an optimizer step (counted from 0 over all epochs), batch by batch, each with its sigma.
    ///
    /// Stratified, the samples share the unit interval among them: each gets one of as many equal parts, which a permutation drawn by
    /// (seed, step) deals out, and a place within it that is drawn by (seed, step, item).
    pub fn levels(&self, step: u64, batches: &[Vec<Turn>]) -> Vec<Vec<(Turn, f32)>> {
        let Train { density, stratified, seed, .. } = self.parameters;
        let count = batches.iter().map(Vec::len).sum::<usize>();
        let mut strata: Vec<usize> = (0..count).collect();
        Draws::new(seed, "timestep strata", step, "").shuffle(&mut strata);
        let mut strata = strata.into_iter();
        let mut level = |turn: &Turn| {
            let mut draws = self.draws("timestep", step, turn);
            let u = match strata.next().filter(|_| stratified) {
                Some(stratum) => density.of_uniform((stratum as f64 + draws.uniform()) / count as f64),
                None => density.draw(&mut draws),
            };
            (*turn, self.parameters.sigma(u) as f32)
        };
        batches.iter().map(|turns| turns.iter().map(&mut level).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{density::Density, job::tests::job};

    fn drawn(parameters: &Train, steps: u64, samples: u32) -> Vec<Vec<f32>> {
        let job = job(parameters);
        let turns: Vec<Turn> = (0..samples).map(|repeat| Turn { item: 0, repeat }).collect();
        (0..steps)
            .map(|step| {
                job.levels(step, std::slice::from_ref(&turns)).concat().iter().map(|(_, sigma)| *sigma).collect()
            })
            .collect()
    }

    fn mean(parameters: &Train) -> f64 {
        let all = drawn(parameters, 5000, 4).concat();
        all.iter().map(|sigma| f64::from(*sigma)).sum::<f64>() / all.len() as f64
    }

    #[test]
    fn the_densities_have_their_means() {
        let of = |density, shift| mean(&Train { density, shift, ..Train::default() });
        assert!((of(Density::Uniform, 1.0) - 0.5).abs() < 0.01);
        assert!((of(Density::default(), 1.0) - 0.5).abs() < 0.01);
        // The integral of 3u/(1+2u) over (0, 1) is 3/2 − (3/4)·ln 3.
        assert!((of(Density::Uniform, 3.0) - 0.676_041).abs() < 0.01);
        // Numerically, the mean of 3s/(1+2s) for s the logistic function of a standard normal.
        assert!((of(Density::default(), 3.0) - 0.713).abs() < 0.01);
        assert!(of(Density::LogitNormal { mean: 1.0, standard_deviation: 1.0 }, 1.0) > 0.6);
    }

    #[test]
    fn timesteps_stay_in_their_range_and_fill_it() {
        for density in [Density::default(), Density::Mode { scale: 1.29 }, Density::CosMap, Density::Uniform] {
            let parameters = Train { density, min_timestep: 200, max_timestep: 600, shift: 1.0, ..Train::default() };
            let all = drawn(&parameters, 2000, 1).concat();
            assert!(all.iter().all(|sigma| (0.2..=0.6).contains(sigma)), "{density:?}");
            assert!((mean(&parameters) - 0.4).abs() < 0.01, "{density:?}");
        }
        let whole = Train { density: Density::Uniform, ..Train::default() };
        assert!(drawn(&whole, 2000, 4).concat().iter().all(|sigma| (0.001..=1.0).contains(sigma)));
    }

    #[test]
    fn each_stratum_is_met_once_a_step_and_dealt_anew_at_each() {
        let parameters = Train { stratified: true, density: Density::Uniform, shift: 1.0, ..Train::default() };
        let steps = drawn(&parameters, 200, 8);
        let strata = |step: &Vec<f32>| step.iter().map(|sigma| (sigma * 8.0) as usize).collect::<Vec<_>>();
        for step in &steps {
            let mut met = strata(step);
            met.sort_unstable();
            assert_eq!(met, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
        assert_ne!(strata(&steps[0]), strata(&steps[1]));
        // Each sample still follows the law on its own.
        let first = steps.iter().map(|step| step[0]).sum::<f32>() / 200.0;
        assert!((first - 0.5).abs() < 0.1, "{first}");
        assert_eq!(drawn(&parameters, 200, 8), steps);
        assert_ne!(drawn(&Train { seed: 1, ..parameters }, 200, 8), steps);
    }

    /// The strata go over the whole step, however it is cut into batches.
    #[test]
    fn strata_go_over_all_batches_of_a_step() {
        let job = job(&Train { stratified: true, ..Train::default() });
        let turn = |repeat| Turn { item: 0, repeat };
        let cut = job.levels(3, &[vec![turn(0), turn(1)], vec![turn(2)]]);
        assert_eq!(cut.concat(), job.levels(3, &[vec![turn(0), turn(1), turn(2)]]).concat());
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
