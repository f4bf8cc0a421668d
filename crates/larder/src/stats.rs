//! What a `Larder` has counted, for the program to read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What a [`Larder`](crate::Larder) has counted since it was connected.
///
/// `Serialize`, for a status page: times are seconds and nanoseconds, as serde writes a [`Duration`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// By the cache's name.
    pub caches: BTreeMap<String, CacheStats>,
    /// Locks, semaphores and limiters that were made on a server that evicts.
    pub on_evicting_server: u64,
    /// All locks and semaphores together.
    pub locks: LockStats,
    /// Invalidations that the server did not answer at once.
    pub invalidations: InvalidationStats,
}

/// What the queue of invalidations has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InvalidationStats {
    /// How many are queued at the moment.
    pub waiting: u64,
    /// How often one that was queued was sent and carried out.
    pub sent: u64,
    /// How often the server refused one for a reason that does not pass by itself: the ACL, say. It stays queued.
    pub refused: u64,
    /// How many deletions of `Format::Plain` caches were dropped because the queue was full. The time to live of those
    /// entries bounds how long an older value may be served.
    pub lost: u64,
}

/// What locks have counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockStats {
    /// Locks that were granted.
    pub granted: u64,
    /// Of those, how many had stood in line.
    pub waited: u64,
    /// Waiting attempts that were woken, and asked whether it was their turn.
    pub wakeups: u64,
    /// Requests that kept the places of all that waited.
    pub heartbeats: u64,
    /// Locks whose time was over before they were released.
    pub lost: u64,
}

/// What one cache has counted, over all its handles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// Keys asked for and found, near hits included.
    pub hits: u64,
    /// Of those, how many were found in this process.
    pub near_hits: u64,
    /// Copies in the near tier at the moment.
    pub near_entries: u64,
    /// What those weigh, by their stored sizes.
    pub near_bytes: u64,
    /// Stale values given because a load failed, or took longer than `soft_timeout`.
    pub stale_served: u64,
    /// Keys asked for and not found, each caller that waited for one load included.
    pub misses: u64,
    /// Loaders that ran to their end; one that loads many keys counts once for each of them.
    pub loads: u64,
    /// Of those, how many failed or panicked.
    pub load_failures: u64,
    /// Loaded values that were returned but not stored, because meanwhile the key was written or deleted, or a tag was
    /// invalidated where the loader named some.
    pub fills_voided: u64,
    /// Requests of loads that the store failed, each of which went on without it: to look, to fence, or to keep.
    pub bypassed: u64,
    /// Stored bytes that were no value of this cache: damaged, foreign, or of an unknown layout.
    pub unreadable: u64,
    /// Bytes of stored values that were read, envelopes included.
    pub bytes_read: u64,
    /// Bytes of values that were written, envelopes included.
    pub bytes_written: u64,
    /// By operation, those that were used. Near hits are not among them: they take less time than the clock does to read.
    pub operations: BTreeMap<&'static str, OperationStats>,
}

impl CacheStats {
    /// Hits as a share of all keys asked for, from 0 to 1; `None` before the first.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn hit_ratio(&self) -> Option<f64> {
        let asked = self.hits + self.misses;
        (asked > 0).then(|| self.hits as f64 / asked as f64)
    }
}

/// How often an operation was used and how it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OperationStats {
    /// Calls that ended, with whatever result.
    pub count: u64,
    /// Calls that ended with an error.
    pub errors: u64,
    /// The time of all calls together, from the first poll to the result.
    pub total_time: Duration,
}

impl OperationStats {
    /// The mean time of a call; `None` before the first.
    #[must_use]
    pub fn mean_time(&self) -> Option<Duration> {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        self.total_time.checked_div(count)
    }
}
