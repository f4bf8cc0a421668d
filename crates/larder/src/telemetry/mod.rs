//! The names and counters of everything that larder counts.
//!
//! Counting is always on and costs a few atomic additions; [`Stats`](crate::Stats) reads the counts. With the feature
//! `metrics` they also reach the `metrics` facade, under the names in docs/observability.md. Install a recorder
//! before anything is counted: the handle of a counter or histogram is made on first use, so that events that never
//! happen do not appear among the metrics. Labels are names that the program chose. Keys and lock names never become
//! labels, because their number is not bounded.

mod cache;
#[cfg(feature = "redis")]
mod connections;
mod counters;

#[cfg(feature = "metrics")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::error::Error;
use crate::stats::OperationStats;
pub(crate) use cache::CacheMeter;
#[cfg(feature = "redis")]
pub(crate) use connections::ConnectionMeter;
pub(crate) use counters::{Counter, Histogram, SAMPLED};

/// The targets of events. They say what an event is about, not which module made it.
pub(crate) mod target {
    /// Connections to servers.
    pub(crate) const CONNECTION: &str = "larder::connection";
    /// Queued invalidations.
    pub(crate) const INVALIDATION: &str = "larder::invalidation";
    /// Locks, semaphores and elections.
    pub(crate) const LOCK: &str = "larder::lock";
    /// Rate limits.
    pub(crate) const LIMIT: &str = "larder::limit";
    /// The layers for HTTP.
    #[cfg(feature = "tower")]
    pub(crate) const HTTP: &str = "larder::http";
    /// Values of caches.
    pub(crate) const CACHE: &str = "larder::cache";
    /// Calls that failed.
    pub(crate) const OPERATION: &str = "larder::operation";
}

/// Counts one operation of one named thing: calls, errors and time.
pub(crate) struct Instrument {
    kind: &'static str,
    name: Box<str>,
    operation: &'static str,
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    /// Made on first use.
    #[cfg(feature = "metrics")]
    seconds: OnceLock<metrics::Histogram>,
}

impl Instrument {
    /// `kind` is `cache`, `lock`, `limiter`, `tag` or `larder`; `name` is the cache's or the limiter's.
    pub(crate) fn new(kind: &'static str, name: &str, operation: &'static str) -> Self {
        Self {
            kind,
            name: name.into(),
            operation,
            count: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            seconds: OnceLock::new(),
        }
    }

    #[cfg(feature = "metrics")]
    fn labels(&self) -> Vec<metrics::Label> {
        vec![
            metrics::Label::from_static_parts("kind", self.kind),
            metrics::Label::new("name", self.name.to_string()),
            metrics::Label::from_static_parts("operation", self.operation),
        ]
    }

    pub(crate) fn finished(&self, elapsed: Duration, error: Option<&Error>) {
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        #[cfg(feature = "metrics")]
        self.seconds
            .get_or_init(|| metrics::histogram!("larder_operation_seconds", self.labels()))
            .record(elapsed);
        if let Some(error) = error {
            self.failed(error);
        }
    }

    fn failed(&self, error: &Error) {
        self.errors.fetch_add(1, Relaxed);
        tracing::debug!(
            target: target::OPERATION,
            of = self.kind,
            name = %self.name,
            operation = self.operation,
            kind = %error.kind(),
            error = error.unnamed(),
            "operation failed"
        );
        #[cfg(feature = "metrics")]
        {
            let mut labels = self.labels();
            labels.push(metrics::Label::from_static_parts("error", error.kind().as_str()));
            metrics::counter!("larder_errors_total", labels).increment(1);
        }
    }

    fn read(&self) -> OperationStats {
        OperationStats {
            count: self.count.load(Relaxed),
            errors: self.errors.load(Relaxed),
            total_time: Duration::from_nanos(self.nanos.load(Relaxed)),
        }
    }
}

/// Gives the recorder the units and descriptions, as docs/observability.md lists them.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    {
        use metrics::{Unit, describe_counter as counter};
        // Reads, by their result.
        counter!("larder_cache_hits_total", Unit::Count, "Keys asked for and found in the store");
        counter!("larder_cache_near_hits_total", Unit::Count, "Keys asked for and found in the near tier");
        counter!(
            "larder_cache_stale_served_total",
            Unit::Count,
            "Stale values returned because a load failed or was slow"
        );
        counter!("larder_cache_misses_total", Unit::Count, "Keys asked for and not found");
        // Loads, and values that were loaded and not stored.
        counter!("larder_cache_loads_total", Unit::Count, "Loaders that ran to their end");
        counter!("larder_cache_load_failures_total", Unit::Count, "Loaders that failed or panicked");
        counter!(
            "larder_cache_fills_invalidated_total",
            Unit::Count,
            "Loaded values that a write or an invalidation kept from being stored"
        );
        counter!("larder_cache_bypassed_total", Unit::Count, "Requests of loads that failed in the store");
        counter!(
            "larder_cache_unreadable_total",
            Unit::Count,
            "Stored bytes that were not a value of the cache"
        );
        // Bytes to and from the store.
        counter!("larder_cache_read_bytes_total", Unit::Bytes, "Stored values read, envelopes included");
        counter!("larder_cache_written_bytes_total", Unit::Bytes, "Values stored, envelopes included");
        // All calls, limiters and connections.
        counter!("larder_errors_total", Unit::Count, "Calls that ended in an error");
        counter!("larder_limiter_decisions_total", Unit::Count, "Decisions of a rate limiter");
        counter!(
            "larder_on_evicting_server_total",
            Unit::Count,
            "Locks and limiters made on a server that evicts"
        );
        counter!("larder_reconnects_total", Unit::Count, "Connections that were opened again");
        metrics::describe_gauge!("larder_connections", Unit::Count, "Open connections");
        metrics::describe_histogram!(
            "larder_operation_seconds",
            Unit::Seconds,
            "Each call, from its first poll to its result"
        );
    }
}

/// Counts a lock or a limiter that was made on a server that evicts.
pub(crate) fn on_evicting_server() {
    #[cfg(feature = "metrics")]
    metrics::counter!("larder_on_evicting_server_total").increment(1);
}
