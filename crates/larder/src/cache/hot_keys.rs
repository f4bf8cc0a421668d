//! The keys that are read most, estimated in bounded space.
//!
//! The algorithm is Space-Saving: Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements
//! in Data Streams", ICDT 2005. A table counts a fixed number of keys. A new key replaces the one with the lowest
//! count and inherits that count, so a count is never too low, and too high by at most what was inherited.
//!
//! A near hit is sampled, one in [`SAMPLED`](crate::telemetry::SAMPLED), and counts for all of them. Every other read
//! costs a round trip and is counted itself. No read waits: if another thread is counting, the read is left out.

use std::collections::HashMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::sync::Mutex;

/// How many keys are counted for each key that is reported. More of them make the estimate more exact.
const COUNTED: usize = 8;
/// The most keys that are reported.
const MOST: usize = 100;
/// After this many reads all counts are halved, so that old reads lose weight.
const HALVED_AT: u64 = 1 << 20;

/// A key that is read often. Returned by [`Cache::hot_keys`](super::Cache::hot_keys).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HotKey {
    /// The text of the key.
    pub key: String,
    /// The estimated share of this process's reads of the cache that were for this key, from 0 to 1. Never too low,
    /// apart from sampling.
    pub share: f64,
    /// By how much `share` may be too high.
    pub error: f64,
}

/// The counts of one cache's keys.
pub(super) struct HotKeys {
    reported: usize,
    counts: Mutex<ReadCounts>,
}

#[derive(Default)]
struct ReadCounts {
    keys: HashMap<Box<str>, KeyReads>,
    total: u64,
}

#[derive(Debug, Clone, Copy)]
struct KeyReads {
    reads: u64,
    /// The part of `reads` that was inherited from other keys.
    inherited: u64,
}

/// Checks the setting of a builder.
pub(super) fn check(reported: usize) -> Result<()> {
    if reported > MOST {
        return Err(Error::invalid(format!("hot_keys reports at most {MOST} keys, not {reported}")));
    }
    Ok(())
}

impl HotKeys {
    pub(super) fn new(reported: usize) -> Self {
        Self { reported, counts: Mutex::default() }
    }

    /// Counts reads of a key, unless another thread is counting.
    pub(super) fn count(&self, key: &str, reads: u64) {
        if let Some(mut counts) = self.counts.try_lock() {
            counts.add(key, reads, self.reported * COUNTED);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shares for people")]
    pub(super) fn report(&self) -> Vec<HotKey> {
        let (mut keys, total) = {
            let counts = self.counts.lock();
            let keys = counts.keys.iter().map(|(key, count)| (key.to_string(), *count));
            (keys.collect::<Vec<_>>(), counts.total.max(1) as f64)
        };
        keys.sort_by(|(one, a), (other, b)| b.reads.cmp(&a.reads).then_with(|| one.cmp(other)));
        keys.truncate(self.reported);
        let hot = keys.into_iter().map(|(key, count)| HotKey {
            key,
            share: count.reads as f64 / total,
            error: count.inherited as f64 / total,
        });
        hot.collect()
    }
}

impl ReadCounts {
    fn add(&mut self, key: &str, reads: u64, room: usize) {
        self.total += reads;
        if let Some(count) = self.keys.get_mut(key) {
            count.reads += reads;
        } else {
            let lowest = (self.keys.len() >= room)
                .then(|| self.keys.iter().min_by_key(|(_, count)| count.reads))
                .flatten()
                .map(|(key, count)| (key.clone(), count.reads));
            let inherited = lowest.map_or(0, |(key, reads)| {
                self.keys.remove(&key);
                reads
            });
            self.keys.insert(key.into(), KeyReads { reads: inherited + reads, inherited });
        }
        if self.total >= HALVED_AT {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.total /= 2;
        self.keys.retain(|_, count| {
            count.reads /= 2;
            count.inherited /= 2;
            count.reads > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_read_keys_are_found_among_many_and_no_share_is_too_low() {
        let hot = HotKeys::new(2);
        // Two keys of ten thousand get a third of all reads.
        for round in 0..10_000 {
            hot.count(&format!("key-{round}"), 1);
            hot.count(&format!("rare-{}", round % 500), 1);
            hot.count(if round % 4 == 0 { "second" } else { "first" }, 1);
        }
        let reported = hot.report();
        assert_eq!(reported.iter().map(|key| key.key.as_str()).collect::<Vec<_>>(), ["first", "second"]);
        for (key, share) in reported.iter().zip([0.25, 1.0 / 12.0]) {
            assert!(key.share >= share - 1e-9 && key.share - key.error <= share + 1e-9, "{key:?} {share}");
        }
    }

    #[test]
    fn old_reads_lose_weight_and_the_table_stays_small() {
        let hot = HotKeys::new(1);
        hot.count("old", HALVED_AT - 1);
        for round in 0..HALVED_AT * 3 / 64 {
            hot.count(if round % 2 == 0 { "new" } else { "old" }, 1);
            hot.count("new", 63);
        }
        assert_eq!(hot.report()[0].key, "new");
        (0..1000).for_each(|key| hot.count(&key.to_string(), 1));
        assert_eq!(hot.counts.lock().keys.len(), COUNTED);
    }

    #[test]
    fn a_read_never_waits_for_another_thread_that_counts() {
        let hot = HotKeys::new(1);
        let counting = hot.counts.lock();
        hot.count("a", 1);
        drop(counting);
        assert!(hot.report().is_empty());
    }
}
