//! The names and counters of everything that larder counts.
//!
//! Counting is always on and costs a few atomic additions; [`Stats`](crate::Stats) reads the counts. With the feature
//! `metrics` they also reach the `metrics` facade, under the names in docs/observability.md. Install a recorder
//! before anything is counted: the handle of a counter or histogram is made on first use, so that events that never
//! happen do not appear among the metrics. Labels are names that the program chose. Keys and lock names never become
//! labels, because their number is not bounded.

#[cfg(feature = "metrics")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::stats::{CacheStats, OperationStats};

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

/// A counter of the facade, made when something is first added.
pub(crate) struct Counter {
    #[cfg(feature = "metrics")]
    name: &'static str,
    #[cfg(feature = "metrics")]
    label: Option<(&'static str, Box<str>)>,
    #[cfg(feature = "metrics")]
    counter: OnceLock<metrics::Counter>,
}

impl Counter {
    /// Makes a counter without labels.
    pub(crate) const fn new(name: &'static str) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = name;
        Self {
            #[cfg(feature = "metrics")]
            name,
            #[cfg(feature = "metrics")]
            label: None,
            #[cfg(feature = "metrics")]
            counter: OnceLock::new(),
        }
    }

    /// Makes a counter with the cache's label.
    #[cfg(feature = "metrics")]
    fn of_cache(name: &'static str, cache: &str) -> Self {
        Self { label: Some(("cache", cache.into())), ..Self::new(name) }
    }

    /// Makes a counter of a cache, whose label only the facade needs.
    #[cfg(not(feature = "metrics"))]
    const fn of_cache(name: &'static str, _: &str) -> Self {
        Self::new(name)
    }

    #[inline]
    pub(crate) fn increment(&self, amount: u64) {
        #[cfg(feature = "metrics")]
        self.counter.get_or_init(|| self.make()).increment(amount);
        #[cfg(not(feature = "metrics"))]
        let _ = amount;
    }

    #[cfg(feature = "metrics")]
    #[cold]
    fn make(&self) -> metrics::Counter {
        match &self.label {
            Some((label, value)) => metrics::counter!(self.name, *label => value.to_string()),
            None => metrics::counter!(self.name),
        }
    }
}

/// A histogram of the facade without labels, made when something is first recorded.
pub(crate) struct Histogram {
    #[cfg(feature = "metrics")]
    name: &'static str,
    #[cfg(feature = "metrics")]
    histogram: OnceLock<metrics::Histogram>,
}

impl Histogram {
    pub(crate) const fn new(name: &'static str) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = name;
        Self {
            #[cfg(feature = "metrics")]
            name,
            #[cfg(feature = "metrics")]
            histogram: OnceLock::new(),
        }
    }

    /// Makes the histogram before anything is recorded.
    pub(crate) fn register(&self) {
        #[cfg(feature = "metrics")]
        self.histogram.get_or_init(|| metrics::histogram!(self.name));
    }

    pub(crate) fn record(&self, span: Duration) {
        #[cfg(feature = "metrics")]
        self.histogram.get_or_init(|| metrics::histogram!(self.name)).record(span);
        #[cfg(not(feature = "metrics"))]
        let _ = span;
    }
}

/// A count that is also reported to the facade.
struct Count {
    value: AtomicU64,
    counter: Counter,
}

impl Count {
    fn new(metric: &'static str, cache: &str) -> Self {
        Self { value: AtomicU64::new(0), counter: Counter::of_cache(metric, cache) }
    }

    fn add(&self, amount: usize) {
        let amount = u64::try_from(amount).unwrap_or(u64::MAX);
        self.value.fetch_add(amount, Relaxed);
        self.counter.increment(amount);
    }

    fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

/// One near hit in this many is recorded. A power of two.
pub(crate) const SAMPLED: u64 = 64;

/// A count that all threads add to, millions of times a second. Each thread adds to its own part, so the processors
/// do not pass one cache line around.
struct NearCount {
    parts: [CounterShard; 16],
    counter: Counter,
}

/// A part in its own cache line.
#[repr(align(128))]
#[derive(Default)]
struct CounterShard(AtomicU64);

thread_local! {
    static PART: usize = {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        usize::try_from(NEXT.fetch_add(1, Relaxed) % 16).unwrap_or(0)
    };
}

impl NearCount {
    fn new(cache: &str) -> Self {
        let counter = Counter::of_cache("larder_cache_near_hits_total", cache);
        Self { parts: Default::default(), counter }
    }

    /// Adds one, and returns whether this hit is one of the sample.
    #[inline]
    fn add_one(&self) -> bool {
        let before = self.parts.get(PART.with(|part| *part)).map_or(1, |part| part.0.fetch_add(1, Relaxed));
        self.counter.increment(1);
        before.is_multiple_of(SAMPLED)
    }

    fn get(&self) -> u64 {
        self.parts.iter().map(|part| part.0.load(Relaxed)).sum()
    }
}

/// Gives the recorder the units and descriptions, as docs/observability.md lists them.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    {
        use metrics::{Unit, describe_counter as counter};
        counter!("larder_cache_hits_total", Unit::Count, "Keys asked for and found in the store");
        counter!("larder_cache_near_hits_total", Unit::Count, "Keys asked for and found in the near tier");
        counter!(
            "larder_cache_stale_served_total",
            Unit::Count,
            "Stale values returned because a load failed or was slow"
        );
        counter!("larder_cache_misses_total", Unit::Count, "Keys asked for and not found");
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
        counter!("larder_cache_read_bytes_total", Unit::Bytes, "Stored values read, envelopes included");
        counter!("larder_cache_written_bytes_total", Unit::Bytes, "Values stored, envelopes included");
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

/// Counts a lock or a limiter that was made on a server that evicts.
pub(crate) fn on_evicting_server() {
    #[cfg(feature = "metrics")]
    metrics::counter!("larder_on_evicting_server_total").increment(1);
}

/// An open connection. The gauge counts it until this is dropped, however its supervisor ends.
#[cfg(feature = "redis")]
#[must_use]
pub(crate) struct Connected {
    #[cfg(feature = "metrics")]
    gauge: metrics::Gauge,
}

/// Counts the connections of a store. The caller of `connect` makes it, and its recorder is used on every thread.
#[cfg(feature = "redis")]
#[derive(Clone)]
pub(crate) struct ConnectionMeter {
    #[cfg(feature = "metrics")]
    reconnects: metrics::Counter,
    #[cfg(feature = "metrics")]
    gauge: metrics::Gauge,
}

#[cfg(feature = "redis")]
impl ConnectionMeter {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            reconnects: metrics::counter!("larder_reconnects_total"),
            #[cfg(feature = "metrics")]
            gauge: metrics::gauge!("larder_connections"),
        }
    }

    /// Counts a new connection; `again` if it is not the link's first.
    pub(crate) fn connected(&self, server: &str, role: &'static str, again: bool) -> Connected {
        tracing::info!(target: target::CONNECTION, server, role, again, "connected");
        #[cfg(feature = "metrics")]
        {
            if again {
                self.reconnects.increment(1);
            }
            self.gauge.increment(1.0);
            Connected { gauge: self.gauge.clone() }
        }
        #[cfg(not(feature = "metrics"))]
        Connected {}
    }
}

#[cfg(feature = "redis")]
impl std::fmt::Debug for ConnectionMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionMeter").finish_non_exhaustive()
    }
}

#[cfg(feature = "redis")]
impl Drop for Connected {
    fn drop(&mut self) {
        #[cfg(feature = "metrics")]
        self.gauge.decrement(1.0);
    }
}
