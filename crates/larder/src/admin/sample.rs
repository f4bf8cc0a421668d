//! How many keys of which kind a store holds, estimated from a random sample.

use std::time::Duration;

use super::{Admin, StoredFormat};
use crate::error::Result;

/// What a key on the server belongs to, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyGroup {
    /// Entries of a cache: `user`, or `user@2` for schema 2.
    Cache(String),
    /// Versions of caches, tags, and the epoch.
    Versions,
    /// Claims of loads, marks of runs, and fences of entries.
    Loads,
    /// Locks, lock groups, read-write locks, semaphores and elections, with their queues and fences.
    Locks,
    /// Jobs and their records.
    Jobs,
    /// Records of rate limiters.
    Limits,
    /// Records of processes that announced themselves.
    Processes,
    /// Keys of larder in other namespaces.
    OtherNamespaces,
    /// Keys of other programs.
    Foreign,
}

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

impl Admin {
    /// Estimates what the store holds from `keys` random keys (2,000 is usual; at most 100,000). If the store has no
    /// more keys than that, all of them are counted.
    ///
    /// Costs two round trips for each 100 keys: 100 `RANDOMKEY`, then `GETRANGE`, `PTTL` and `MEMORY USAGE` of each. The
    /// nodes of a cluster are sampled in proportion to their `DBSIZE`.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub async fn sample(&self, keys: usize) -> Result<Sample> {
        let _ = keys;
        super::unfinished()
    }

    /// Estimates the number of entries of one cache: what [`clear`](Self::clear) would invalidate. `cache` without a
    /// schema means all schemas.
    ///
    /// # Errors
    ///
    /// The same as [`sample`](Self::sample); and [`InvalidSetting`](crate::ErrorKind::InvalidSetting) if the name is
    /// not that of a cache.
    pub async fn count_cache(&self, cache: &str, keys: usize) -> Result<Estimate> {
        let _ = (cache, keys);
        super::unfinished()
    }
}
