//! The noise levels that a sampler steps through.

/// `shift·u / (1 + (shift − 1)·u)`.
fn shifted(u: f64, shift: f64) -> f64 {
    shift * u / (1.0 + (shift - 1.0) * u)
}

/// `steps` levels from 1 down, and 0 at the end (`FlowMatchEulerDiscreteScheduler.set_timesteps` of diffusers, `get_sigmas` of
/// Stability's reference): evenly spaced between the shifted ends of training's 1,000 levels, and shifted once more.
pub fn sigmas(steps: u32, shift: f64) -> Vec<f64> {
    let (largest, smallest) = (1.0, shifted(0.001, shift));
    let last = f64::from(steps.max(2) - 1);
    let level = |step: u32| shifted(largest + (smallest - largest) * f64::from(step) / last, shift);
    (0..steps).map(level).chain([0.0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables that sd-scripts, Stability's reference and diffusers agree on.
    #[test]
    fn the_levels_are_those_of_the_reference() {
        let tables: [&[f64]; 3] = [
            &[1.0, 0.85769, 0.60215, 0.00893, 0.0],
            &[1.0, 0.96013, 0.91335, 0.85769, 0.79037, 0.70728, 0.60215, 0.46488, 0.27805, 0.00893, 0.0],
            &[
                1.0, 0.98738, 0.97411, 0.96013, 0.94539, 0.92982, 0.91335, 0.89590, 0.87738, 0.85769, 0.83672, 0.81432,
                0.79037, 0.76468, 0.73706, 0.70728, 0.67508, 0.64016, 0.60215, 0.56062, 0.51507, 0.46488, 0.40929,
                0.34739, 0.27805, 0.19983, 0.11091, 0.00893, 0.0,
            ],
        ];
        for table in tables {
            let found = sigmas(table.len() as u32 - 1, 3.0);
            assert_eq!(found.len(), table.len());
            for (found, expected) in found.iter().zip(table) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn one_step_goes_from_noise_to_the_image() {
        assert_eq!(sigmas(1, 3.0), [1.0, 0.0]);
    }
}
