//! Medians, and how exact they are.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RESAMPLES: usize = 10_000;

/// A median and the range in which the true median probably lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of `one / x`: turns a rate into a time.
    pub(crate) fn inverted(self, one: f64) -> Self {
        Self { low: one / self.high, median: one / self.median, high: one / self.low }
    }
}

/// The median with its 95 % interval: the percentile bootstrap (Efron 1979), always from the same seed. A median,
/// because a hiccup of the machine affects single rounds strongly and would move a mean.
pub(crate) fn bootstrap(samples: &[f64]) -> Spread {
    let mut rng = StdRng::seed_from_u64(1);
    let resample = |_| {
        let draws: Vec<f64> = (0..samples.len())
            .filter_map(|_| samples.get(rng.random_range(0..samples.len())).copied())
            .collect();
        quantile(&draws, 0.5)
    };
    let medians: Vec<f64> = (0..RESAMPLES).map(resample).collect();
    Spread { low: quantile(&medians, 0.025), median: quantile(samples, 0.5), high: quantile(&medians, 0.975) }
}

/// The median between the first and the third quartile.
pub(crate) fn quartiles(samples: &[f64]) -> Spread {
    Spread { low: quantile(samples, 0.25), median: quantile(samples, 0.5), high: quantile(samples, 0.75) }
}

/// Interpolates between neighbours; NaN without samples.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places in a short list"
)]
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * sorted.len().saturating_sub(1) as f64;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let spread = quartiles(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread, Spread { low: 1.75, median: 2.5, high: 3.25 });
        assert!(quartiles(&[]).median.is_nan());
    }

    #[test]
    fn the_interval_holds_the_median_and_shrinks_with_the_number_of_samples() {
        let samples = |count: u32| (0..count).map(|i| f64::from(i * 7919 % 101)).collect::<Vec<_>>();
        let (few, many) = (bootstrap(&samples(20)), bootstrap(&samples(500)));
        assert!(few.low < few.median && few.median < few.high);
        assert!(many.high - many.low < few.high - few.low);
    }
}
