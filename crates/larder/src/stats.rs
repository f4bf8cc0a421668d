//! The counts of a `Larder`, for the program to read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// The counts of a [`Larder`](crate::Larder) since it was made.
///
/// Implements `Serialize`, for a status page. Times are seconds and nanoseconds, as serde writes a [`Duration`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The counts of each cache, by its name.
    pub caches: BTreeMap<String, CacheStats>,
    /// How many locks, semaphores and limiters were made on a server that evicts.
    pub on_evicting_server: u64,
    /// The counts of all locks and semaphores together.
    pub locks: LockStats,
    /// The counts of invalidations that the server did not answer at once.
    pub invalidations: InvalidationStats,
}

/// The counts of the queue of invalidations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InvalidationStats {
    /// How many are queued now.
    pub waiting: u64,
    /// How many times a queued invalidation was sent and carried out.
    pub sent: u64,
    /// How many times the server refused one for a lasting reason, for example the ACL. It stays queued.
    pub refused: u64,
    /// How many deletions of `Format::Plain` caches were dropped because the queue was full. The entries' time to
    /// live bounds how long an older value may be served.
    pub lost: u64,
}

/// The counts of locks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockStats {
    /// Locks that were granted.
    pub granted: u64,
    /// Of those, how many had waited in the queue.
    pub waited: u64,
    /// Waiting attempts that were woken and asked whether it was their turn.
    pub wakeups: u64,
    /// Requests that kept the places of all waiters.
    pub heartbeats: u64,
    /// Locks that expired before they were released.
    pub lost: u64,
}

/// The counts of one cache, over all its handles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// Keys that were read and found, near hits included.
    pub hits: u64,
    /// Of those, how many were found in this process.
    pub near_hits: u64,
    /// Copies in the near tier now.
    pub near_entries: u64,
    /// The size of those copies, by their stored sizes.
    pub near_bytes: u64,
    /// Stale values that were returned because a load failed or took longer than `soft_timeout`.
    pub stale_served: u64,
    /// Keys that were read and not found. Each caller that waited for a load counts.
    pub misses: u64,
    /// Loaders that ran to their end. A loader of many keys counts once for each key.
    pub loads: u64,
    /// Of those, how many failed or panicked.
    pub load_failures: u64,
    /// Loaded values that were returned but not stored, because the key was written or deleted during the load, or
    /// because a tag was invalidated and the loader named tags.
    pub fills_invalidated: u64,
    /// Requests of loads (to read, to claim or to store) that failed. Each of those loads went on without the store.
    pub bypassed: u64,
    /// Stored bytes that were not a value of this cache: damaged, foreign, or of an unknown layout.
    pub unreadable: u64,
    /// Bytes of stored values that were read, envelopes included.
    pub bytes_read: u64,
    /// Bytes of values that were written, envelopes included.
    pub bytes_written: u64,
    /// The counts of each operation that was used. Near hits are not included: they take less time than reading the
    /// clock.
    pub operations: BTreeMap<&'static str, OperationStats>,
}

impl CacheStats {
    /// Returns the share of reads that were hits, from 0 to 1; `None` before the first read.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn hit_ratio(&self) -> Option<f64> {
        let asked = self.hits + self.misses;
        (asked > 0).then(|| self.hits as f64 / asked as f64)
    }
}

/// The counts of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OperationStats {
    /// Calls that ended, with any result.
    pub count: u64,
    /// Calls that ended with an error.
    pub errors: u64,
    /// The total time of all calls, from the first poll to the result.
    pub total_time: Duration,
}

impl OperationStats {
    /// Returns the mean time of a call; `None` before the first.
    #[must_use]
    pub fn mean_time(&self) -> Option<Duration> {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        self.total_time.checked_div(count)
    }
}
