//! How many keys of which kind a store holds, estimated from a random sample.

use std::collections::HashMap;
use std::time::Duration;

use super::glimpse::{Glimpse, glance};
use super::names::{CacheName, KeyGroup, group_of};
use super::{Admin, Compression, EntryKind, StoredFormat};
use crate::error::Result;
use crate::store::admin::{AdminStore, KeyExpiry, SampledKeys};

/// The most keys of a sample.
const MOST_KEYS: usize = 100_000;
/// How many keys one step of a sampling looks at.
const STEP: usize = 500;
/// A normal variable is within this many standard deviations in 19 of 20 cases.
const Z: f64 = 1.96;

/// A number that was estimated from a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// The estimated number.
    pub value: f64,
    /// Half the width of the interval that contains the true number in 19 of 20 samples. 0 if all keys were counted.
    pub error: f64,
}

/// How many sampled entries have a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormatShare {
    /// The format; `None` for entries that cannot be read.
    pub format: Option<StoredFormat>,
    /// Whether they are compressed.
    pub compressed: bool,
    /// How many entries of the sample have it.
    pub sampled: u64,
}

/// The keys of one group in a [`Sample`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SampledGroup {
    /// What the keys belong to.
    pub group: KeyGroup,
    /// How many keys of the sample belong to it.
    pub sampled: u64,
    /// How many keys of the store belong to it.
    pub keys: Estimate,
    /// How much memory they take, in bytes, by `MEMORY USAGE`. `None` if the server does not say.
    pub bytes: Option<Estimate>,
    /// The group's share of all keys of the store, from 0 to 1.
    pub share: Estimate,
    /// The median of the remaining times to live, of keys that expire. `None` if none of the sample expires.
    pub median_ttl: Option<Duration>,
    /// How many keys have no expiry.
    pub no_expiry: Estimate,
    /// The formats of a cache's entries, most frequent first. Empty for other groups. Placeholders and known absences
    /// are not counted.
    pub formats: Vec<FormatShare>,
}

/// What a store holds. Made by [`Admin::sample`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// The number of all keys (`DBSIZE`), over all masters of a cluster, of every program.
    pub total: u64,
    /// How many keys were looked at.
    pub sampled: u64,
    /// Whether every key was counted, so that nothing is estimated.
    pub exact: bool,
    /// The groups of keys, the one with most bytes first; by number of keys if the server does not say bytes.
    pub groups: Vec<SampledGroup>,
}

impl Sample {
    /// Returns one group of the sample.
    #[must_use]
    pub fn group(&self, group: &KeyGroup) -> Option<&SampledGroup> {
        self.groups.iter().find(|found| found.group == *group)
    }
}

/// A sample that grows. Made by [`Admin::sampling`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let mut sampling = larder.admin().sampling(100_000);
/// while sampling.step().await? {
///     eprintln!("{} keys so far", sampling.so_far().sampled);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sampling {
    admin: Admin,
    /// How many keys are still to be looked at.
    left: usize,
    /// How many keys the whole sample has.
    wanted: usize,
    tally: Tally,
}

impl Sampling {
    /// Looks at up to 500 more keys, and returns whether there are more to look at. If the store is not larger than the
    /// sample, the first step counts all keys.
    ///
    /// Costs a `DBSIZE`, and two round trips for each 100 keys.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// What was sampled before stays.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has added nothing.
    pub async fn step(&mut self) -> Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        let (store, keys) = (self.admin.store()?, self.left.min(STEP));
        // Once there are random keys in the sample, all keys of a store that has shrunk must not be added to it.
        let most = if self.tally.counted.sampled == 0 { self.wanted } else { 0 };
        // Boxed: the future is large, and this is not called often.
        let sampled = Box::pin(store.sample_keys(keys, most, self.admin.max_wait())).await?;
        let is_last = sampled.exact || sampled.keys.is_empty();
        self.left = if is_last { 0 } else { self.left - keys };
        self.tally.add(self.admin.namespace(), &sampled);
        Ok(self.left > 0)
    }

    /// Returns the estimate from the keys that were looked at so far.
    #[must_use]
    pub fn so_far(&self) -> Sample {
        self.tally.sample()
    }
}

impl Admin {
    /// Estimates what the store holds from `keys` random keys (2,000 is usual; at most 100,000). If the store has no
    /// more keys than that, all of them are counted.
    ///
    /// Costs two round trips for each 100 keys: 100 `RANDOMKEY`, then `GETRANGE`, `PTTL` and `MEMORY USAGE` of each;
    /// and a `DBSIZE` for each 500 keys. The nodes of a cluster are sampled in proportion to their `DBSIZE`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn sample(&self, keys: usize) -> Result<Sample> {
        let mut sampling = self.sampling(keys);
        while sampling.step().await? {}
        Ok(sampling.so_far())
    }

    /// Begins a [`sample`](Self::sample) whose estimate can be read before it is complete.
    #[must_use]
    pub fn sampling(&self, keys: usize) -> Sampling {
        let counted = Counted { total: 0, sampled: 0, exact: false };
        let tally = Tally { counted, groups: HashMap::new() };
        let wanted = keys.clamp(1, MOST_KEYS);
        Sampling { admin: self.clone(), left: wanted, wanted, tally }
    }

    /// Estimates the number of entries of one cache: what [`clear`](Self::clear) would invalidate. `cache` without a
    /// schema means all schemas.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a cache.
    pub async fn count_cache(&self, cache: &str, keys: usize) -> Result<Estimate> {
        let name = CacheName::parse(cache)?;
        name.prefix(self.context())?;
        let of_cache = |group: &KeyGroup| match group {
            KeyGroup::Cache(found) if name.schema.is_some() => *found == cache,
            KeyGroup::Cache(found) => found.split('@').next() == Some(name.cache),
            _ => false,
        };
        let sample = self.sample(keys).await?;
        let count =
            sample.groups.iter().filter(|group| of_cache(&group.group)).map(|group| group.sampled).sum();
        let tally = Counted { total: sample.total, sampled: sample.sampled, exact: sample.exact };
        Ok(tally.estimate(count))
    }
}

/// How many keys were counted, of how many.
#[derive(Debug, Clone, Copy)]
struct Counted {
    total: u64,
    sampled: u64,
    exact: bool,
}

#[expect(clippy::cast_precision_loss, reason = "estimates")]
impl Counted {
    /// Estimates how many keys of the store are like these of the sample.
    fn estimate(self, found: u64) -> Estimate {
        let Estimate { value, error } = self.share(found);
        Estimate { value: value * self.total as f64, error: error * self.total as f64 }
    }

    /// Estimates their share. The error is that of Wilson's interval, which is good for small numbers too.
    fn share(self, found: u64) -> Estimate {
        if self.sampled == 0 {
            return Estimate::default();
        }
        let (n, share) = (self.sampled as f64, found as f64 / self.sampled as f64);
        if self.exact {
            return Estimate { value: share, error: 0.0 };
        }
        let spread = share * (1.0 - share) / n + Z * Z / (4.0 * n * n);
        Estimate { value: share, error: Z * spread.sqrt() / (1.0 + Z * Z / n) }
    }

    /// Estimates a sum over the store, from the sum over the sample and the sum of its squares.
    fn sum(self, sum: f64, squares: f64) -> Estimate {
        if self.sampled == 0 {
            return Estimate::default();
        }
        let (n, total) = (self.sampled as f64, self.total as f64);
        if self.exact {
            return Estimate { value: sum, error: 0.0 };
        }
        let mean = sum / n;
        let deviation = (squares / n - mean * mean).max(0.0).sqrt();
        Estimate { value: mean * total, error: Z * deviation / n.sqrt() * total }
    }
}

/// The keys of a group in the sample.
#[derive(Debug, Default)]
struct GroupTally {
    sampled: u64,
    /// The sum of the sizes, the sum of their squares, and how many sizes are known.
    bytes: (f64, f64, u64),
    ttls: Vec<Duration>,
    no_expiry: u64,
    formats: HashMap<(Option<StoredFormat>, bool), u64>,
}

/// A sample as it is counted.
#[derive(Debug)]
struct Tally {
    counted: Counted,
    groups: HashMap<KeyGroup, GroupTally>,
}

impl Tally {
    fn add(&mut self, namespace: &str, keys: &SampledKeys) {
        let Self { counted, groups } = self;
        // Random keys do not become a count because the store is empty by now.
        counted.exact = keys.exact && counted.sampled == 0;
        counted.total = keys.total;
        for key in &keys.keys {
            // It expired or was deleted after it was drawn.
            if key.expiry == KeyExpiry::Gone {
                continue;
            }
            counted.sampled += 1;
            let group = group_of(namespace, &key.name);
            let is_cache = matches!(group, KeyGroup::Cache(_));
            let tally = groups.entry(group).or_default();
            tally.sampled += 1;
            if let Some(bytes) = key.bytes {
                #[expect(clippy::cast_precision_loss, reason = "estimates")]
                let bytes = bytes as f64;
                tally.bytes = (tally.bytes.0 + bytes, tally.bytes.1 + bytes * bytes, tally.bytes.2 + 1);
            }
            match key.expiry {
                KeyExpiry::After(left) => tally.ttls.push(left),
                KeyExpiry::Never => tally.no_expiry += 1,
                KeyExpiry::Unknown | KeyExpiry::Gone => {}
            }
            if let (true, Some(start)) = (is_cache, &key.start) {
                let Glimpse { kind, format, compression } = glance(start);
                if matches!(kind, EntryKind::Value | EntryKind::Unreadable(_)) {
                    *tally.formats.entry((format, compression == Compression::Lz4)).or_default() += 1;
                }
            }
        }
    }

    fn sample(&self) -> Sample {
        let counted = self.counted;
        let mut groups: Vec<SampledGroup> =
            self.groups.iter().map(|(group, tally)| tally.group(group.clone(), counted)).collect();
        let size = |group: &SampledGroup| group.bytes.map_or(0.0, |bytes| bytes.value);
        groups.sort_by(|a, b| {
            let (a_rank, b_rank) = ((size(a), a.keys.value), (size(b), b.keys.value));
            b_rank
                .partial_cmp(&a_rank)
                .unwrap_or(std::cmp::Ordering::Equal)
                .then_with(|| a.group.cmp(&b.group))
        });
        let Counted { total, sampled, exact } = counted;
        Sample { total, sampled, exact, groups }
    }
}

impl GroupTally {
    fn group(&self, group: KeyGroup, counted: Counted) -> SampledGroup {
        let mut ttls = self.ttls.clone();
        ttls.sort_unstable();
        let mut formats: Vec<FormatShare> = self
            .formats
            .iter()
            .map(|(&(format, compressed), &sampled)| FormatShare { format, compressed, sampled })
            .collect();
        formats
            .sort_unstable_by_key(|share| (std::cmp::Reverse(share.sampled), share.format, share.compressed));
        let (sum, squares, known) = self.bytes;
        SampledGroup {
            group,
            sampled: self.sampled,
            keys: counted.estimate(self.sampled),
            bytes: (known > 0).then(|| counted.sum(sum, squares)),
            share: counted.share(self.sampled),
            median_ttl: ttls.get(ttls.len() / 2).copied(),
            no_expiry: counted.estimate(self.no_expiry),
            formats,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_has_an_error_and_a_count_has_none() {
        let counted = Counted { total: 1_000_000, sampled: 2000, exact: false };
        let half = counted.estimate(1000);
        assert!(
            (half.value - 500_000.0).abs() < 1.0 && (20_000.0..23_000.0).contains(&half.error),
            "{half:?}"
        );
        // A few of a rare kind: the error is no smaller than the number allows.
        assert!(counted.estimate(1).error > 1000.0);
        let exact = Counted { total: 10, sampled: 10, exact: true };
        assert_eq!(exact.estimate(4), Estimate { value: 4.0, error: 0.0 });
        assert_eq!(exact.sum(40.0, 400.0), Estimate { value: 40.0, error: 0.0 });
    }
}
