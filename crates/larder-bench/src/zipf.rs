//! Keys drawn as real traffic draws them: a few of them often, most of them rarely.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::lane::Ids;

/// The number of keys in every measurement that draws keys.
pub(crate) const KEYS: u64 = 10_000;
/// The skew that YCSB uses: the first key gets a tenth of all reads, the first hundred get half.
const SKEW: f64 = 0.99;
/// A power of two, so that wrapping around costs nothing.
const DRAWS: usize = 1 << 18;

/// Ids drawn beforehand: drawing one takes longer than a near hit.
#[derive(Clone)]
pub(crate) struct Draws {
    ids: Arc<[u32]>,
}

impl Draws {
    pub(crate) fn new() -> Self {
        Self::of(KEYS)
    }

    pub(crate) fn of(keys: u64) -> Self {
        let mut shares = Vec::new();
        let mut total = 0.0;
        for rank in 1..=u32::try_from(keys).unwrap_or(u32::MAX) {
            total += f64::from(rank).powf(-SKEW);
            shares.push(total);
        }
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = || {
            let at = rng.random_range(0.0..total);
            let id = shares.partition_point(|share| *share <= at).min(shares.len() - 1);
            u32::try_from(id).unwrap_or_default()
        };
        Self { ids: (0..DRAWS).map(|_| draw()).collect() }
    }

    /// As many as `ids`; each task starts at a different position.
    pub(crate) fn walk(&self, ids: &Ids) -> Walk {
        let (start, left) = ids.start_and_count();
        let start = usize::try_from(start.wrapping_mul(7919)).unwrap_or_default();
        self.from(start, left)
    }

    pub(crate) fn from(&self, start: usize, left: u64) -> Walk {
        Walk { ids: self.ids.clone(), at: start, left }
    }
}

pub(crate) struct Walk {
    ids: Arc<[u32]>,
    at: usize,
    left: u64,
}

impl Iterator for Walk {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        self.at = (self.at + 1) & (DRAWS - 1);
        self.ids.get(self.at).map(|id| u64::from(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_has_a_tenth_of_the_reads_and_the_first_hundred_half() {
        let draws = Draws::new();
        let share = |below: u64| {
            let hits = draws.from(0, 100_000).filter(|id| *id < below).count();
            hits / 1000
        };
        assert!((9..=11).contains(&share(1)), "{}", share(1));
        assert!((48..=58).contains(&share(100)), "{}", share(100));
        assert_eq!(share(KEYS), 100);
    }
}
