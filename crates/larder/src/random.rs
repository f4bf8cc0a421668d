//! Random numbers for nonces, tokens and jitter: from the operating system, or from a seed in tests.

use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

/// The source of random numbers.
#[derive(Debug, Clone, Default)]
pub(crate) enum Random {
    /// A generator in each thread, seeded by the operating system.
    #[default]
    System,
    #[cfg_attr(not(any(test, feature = "testing")), expect(dead_code, reason = "tests choose the seed"))]
    Seeded(Arc<Mutex<StdRng>>),
}

impl Random {
    /// Makes a source whose numbers follow from the seed.
    #[cfg(feature = "testing")]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(Mutex::new(rand::SeedableRng::seed_from_u64(seed))))
    }

    /// Returns a number that no other write, claim or version has. Never zero, which means "none" on the wire.
    pub(crate) fn nonce(&self) -> u64 {
        self.with(|rng| {
            loop {
                let number = rng.next_u64();
                if number != 0 {
                    return number;
                }
            }
        })
    }

    /// Returns a number from `[0, 1)`, uniformly distributed.
    pub(crate) fn fraction(&self) -> f64 {
        self.with(|rng| rng.random::<f64>())
    }

    /// Returns a random part of a span, and of a day if the span is longer.
    #[cfg(feature = "tower")]
    pub(crate) fn part_of(&self, most: std::time::Duration) -> std::time::Duration {
        const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
        if most.is_zero() { most } else { most.min(DAY).mul_f64(self.fraction()) }
    }

    fn with<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match self {
            Self::System => draw(&mut rand::rng()),
            Self::Seeded(rng) => draw(&mut *rng.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_seed_decides_every_draw() {
        let seeded = || Random::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(7))));
        let (a, b) = (seeded(), seeded());
        assert_eq!([a.nonce(), a.nonce()], [b.nonce(), b.nonce()]);
        assert_eq!(a.fraction().to_bits(), b.fraction().to_bits());
        assert!((0.0..1.0).contains(&Random::System.fraction()));
    }
}
