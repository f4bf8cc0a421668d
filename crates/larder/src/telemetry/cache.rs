//! What one cache counts, and its warnings.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::counters::{Count, NearCount};
use super::{Instrument, target};
use crate::error::Error;
use crate::stats::CacheStats;

/// Lets a warning through once a second, so that a failure of every request does not fill the log. Each warning has
/// its own throttle, so that a frequent one does not hide another.
#[derive(Default)]
struct WarningThrottle(Mutex<Option<Instant>>);

impl WarningThrottle {
    fn lets_through(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if due {
            *last = Some(now);
        }
        due
    }
}

/// The counters of one cache.
pub(crate) struct CacheMeter {
    name: String,
    hits: Count,
    near_hits: NearCount,
    misses: Count,
    stale_served: Count,
    loads: Count,
    load_failures: Count,
    fills_invalidated: Count,
    bypassed: Count,
    unreadable: Count,
    bypassed_warning: WarningThrottle,
    unreadable_warning: WarningThrottle,
    bytes_read: Count,
    bytes_written: Count,
    pub(crate) get: Instrument,
    pub(crate) get_many: Instrument,
    pub(crate) set: Instrument,
    pub(crate) set_many: Instrument,
    pub(crate) delete: Instrument,
    pub(crate) delete_many: Instrument,
    pub(crate) exists: Instrument,
    pub(crate) touch: Instrument,
    pub(crate) ttl: Instrument,
    pub(crate) get_or_load: Instrument,
    pub(crate) get_or_load_many: Instrument,
    pub(crate) run_once: Instrument,
    pub(crate) expire: Instrument,
    pub(crate) clear: Instrument,
}

impl CacheMeter {
    pub(crate) fn new(name: &str) -> Self {
        let count = |metric| Count::new(metric, name);
        let instrument = |operation| Instrument::new("cache", name, operation);
        Self {
            name: name.to_owned(),
            hits: count("larder_cache_hits_total"),
            near_hits: NearCount::new(name),
            stale_served: count("larder_cache_stale_served_total"),
            misses: count("larder_cache_misses_total"),
            loads: count("larder_cache_loads_total"),
            load_failures: count("larder_cache_load_failures_total"),
            fills_invalidated: count("larder_cache_fills_invalidated_total"),
            bypassed: count("larder_cache_bypassed_total"),
            unreadable: count("larder_cache_unreadable_total"),
            bypassed_warning: WarningThrottle::default(),
            unreadable_warning: WarningThrottle::default(),
            bytes_read: count("larder_cache_read_bytes_total"),
            bytes_written: count("larder_cache_written_bytes_total"),
            get: instrument("get"),
            get_many: instrument("get_many"),
            set: instrument("set"),
            set_many: instrument("set_many"),
            delete: instrument("delete"),
            delete_many: instrument("delete_many"),
            exists: instrument("exists"),
            touch: instrument("touch"),
            ttl: instrument("ttl"),
            get_or_load: instrument("get_or_load"),
            get_or_load_many: instrument("get_or_load_many"),
            run_once: instrument("run_once"),
            expire: instrument("expire"),
            clear: instrument("clear"),
        }
    }

    pub(crate) fn hits(&self, count: usize) {
        self.hits.add(count);
    }

    /// Counts a near hit. Returns true for one hit in a while, whose name should be recorded as used.
    #[inline]
    pub(crate) fn near_hit(&self) -> bool {
        self.near_hits.add_one()
    }

    pub(crate) fn served_stale(&self) {
        self.stale_served.add(1);
    }

    pub(crate) fn misses(&self, count: usize) {
        self.misses.add(count);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes_read.add(bytes);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes_written.add(bytes);
    }

    pub(crate) fn loaded(&self, succeeded: bool) {
        self.loads.add(1);
        if !succeeded {
            self.load_failures.add(1);
        }
    }

    pub(crate) fn fill_invalidated(&self) {
        self.fills_invalidated.add(1);
    }

    /// Counts a load that could not use the store to read, to claim or to store, and goes on without it.
    pub(crate) fn bypassed(&self, error: &Error) {
        self.bypassed.add(1);
        if self.bypassed_warning.lets_through() {
            tracing::warn!(
                target: target::CACHE,
                cache = %self.name,
                kind = %error.kind(),
                %error,
                "a load could not use the store: its value is not stored"
            );
        }
    }

    /// Counts stored bytes that are not a value of the cache. The key is not logged, because it may be personal data.
    pub(crate) fn unreadable(&self, reason: &'static str) {
        self.unreadable.add(1);
        if self.unreadable_warning.lets_through() {
            tracing::warn!(
                target: target::CACHE,
                cache = %self.name,
                reason,
                "a stored value cannot be read and counts as a miss"
            );
        }
    }

    pub(crate) fn stats(&self, near_entries: usize, near_bytes: u64) -> CacheStats {
        let near_hits = self.near_hits.get();
        CacheStats {
            hits: self.hits.get() + near_hits,
            near_hits,
            near_entries: u64::try_from(near_entries).unwrap_or(u64::MAX),
            near_bytes,
            stale_served: self.stale_served.get(),
            misses: self.misses.get(),
            loads: self.loads.get(),
            load_failures: self.load_failures.get(),
            fills_invalidated: self.fills_invalidated.get(),
            bypassed: self.bypassed.get(),
            unreadable: self.unreadable.get(),
            bytes_read: self.bytes_read.get(),
            bytes_written: self.bytes_written.get(),
            operations: [
                ("get", &self.get),
                ("get_many", &self.get_many),
                ("set", &self.set),
                ("set_many", &self.set_many),
                ("delete", &self.delete),
                ("delete_many", &self.delete_many),
                ("exists", &self.exists),
                ("touch", &self.touch),
                ("ttl", &self.ttl),
                ("get_or_load", &self.get_or_load),
                ("get_or_load_many", &self.get_or_load_many),
                ("run_once", &self.run_once),
                ("expire", &self.expire),
                ("clear", &self.clear),
            ]
            .into_iter()
            .map(|(operation, instrument)| (operation, instrument.read()))
            .filter(|(_, stats)| stats.count > 0)
            .collect(),
        }
    }
}
