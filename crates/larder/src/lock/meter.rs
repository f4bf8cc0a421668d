//! Counters and metrics of all locks together. Lock names are not labels, because their number is unbounded.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::stats::LockStats;
use crate::telemetry::{Counter, Histogram, Instrument};

pub(crate) struct LockMeter {
    pub(super) acquire: Instrument,
    pub(super) extend: Instrument,
    pub(super) release: Instrument,
    pub(super) holder: Instrument,
    pub(super) break_if: Instrument,
    pub(super) job: JobMeter,
    pub(super) in_use: Instrument,
    pub(super) set_permits: Instrument,
    granted: AtomicU64,
    waited: AtomicU64,
    woken: AtomicU64,
    beats: AtomicU64,
    lost: AtomicU64,
    /// Created when the first lock is granted, on the caller's thread.
    facade: OnceLock<Facade>,
}

/// The instruments of all jobs together.
pub(crate) struct JobMeter {
    pub(super) begin: Instrument,
    pub(super) end: Instrument,
    pub(super) status: Instrument,
}

impl JobMeter {
    fn new() -> Self {
        let instrument = |operation| Instrument::new("job", "", operation);
        Self { begin: instrument("begin"), end: instrument("end"), status: instrument("status") }
    }
}

struct Facade {
    wait: Histogram,
    hold: Histogram,
    handover: Histogram,
    woken: Counter,
    beats: Counter,
    lost: Counter,
}

impl Default for Facade {
    fn default() -> Self {
        let facade = Self {
            wait: Histogram::new("larder_lock_wait_seconds"),
            hold: Histogram::new("larder_lock_hold_seconds"),
            handover: Histogram::new("larder_lock_handover_seconds"),
            woken: Counter::new("larder_lock_wakeups_total"),
            beats: Counter::new("larder_lock_heartbeats_total"),
            lost: Counter::new("larder_lock_lost_total"),
        };
        // Register now, on the caller's thread: later counts may happen on the background thread.
        [&facade.wait, &facade.hold, &facade.handover].into_iter().for_each(Histogram::register);
        [&facade.woken, &facade.beats, &facade.lost].into_iter().for_each(|counter| counter.increment(0));
        facade
    }
}

impl Default for LockMeter {
    fn default() -> Self {
        let instrument = |operation| Instrument::new("lock", "", operation);
        Self {
            acquire: instrument("acquire"),
            extend: instrument("extend"),
            release: instrument("release"),
            holder: instrument("holder"),
            break_if: instrument("break_if"),
            job: JobMeter::new(),
            in_use: instrument("in_use"),
            set_permits: instrument("set_permits"),
            granted: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            beats: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            facade: OnceLock::new(),
        }
    }
}

/// Gives the recorder the units and descriptions, as docs/observability.md lists them.
#[cfg(feature = "metrics")]
fn describe() {
    use metrics::{Unit, describe_counter as counter, describe_histogram as histogram};
    histogram!("larder_lock_wait_seconds", Unit::Seconds, "Wait in the queue, of attempts that got the lock");
    histogram!("larder_lock_hold_seconds", Unit::Seconds, "From a grant to the guard's end");
    histogram!("larder_lock_handover_seconds", Unit::Seconds, "From a wake-up to the grant");
    counter!("larder_lock_wakeups_total", Unit::Count, "Waiting attempts that woke up and asked the server");
    counter!("larder_lock_heartbeats_total", Unit::Count, "Requests that keep the places of all waiters");
    counter!("larder_lock_lost_total", Unit::Count, "Locks that expired before they were released");
}

impl LockMeter {
    pub(super) fn new() -> Self {
        #[cfg(feature = "metrics")]
        describe();
        Self::default()
    }

    fn facade(&self) -> &Facade {
        self.facade.get_or_init(Facade::default)
    }

    pub(super) fn granted(&self) {
        self.granted.fetch_add(1, Relaxed);
        let _ = self.facade();
    }

    pub(super) fn waited(&self, span: Duration) {
        self.waited.fetch_add(1, Relaxed);
        self.facade().wait.record(span);
    }

    pub(super) fn handed_over(&self, span: Duration) {
        self.facade().handover.record(span);
    }

    pub(super) fn held(&self, span: Duration) {
        self.facade().hold.record(span);
    }

    pub(super) fn woken(&self) {
        self.woken.fetch_add(1, Relaxed);
        self.facade().woken.increment(1);
    }

    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Relaxed);
        self.facade().beats.increment(1);
    }

    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Relaxed);
        self.facade().lost.increment(1);
    }

    pub(super) fn stats(&self) -> LockStats {
        LockStats {
            granted: self.granted.load(Relaxed),
            waited: self.waited.load(Relaxed),
            wakeups: self.woken.load(Relaxed),
            heartbeats: self.beats.load(Relaxed),
            lost: self.lost.load(Relaxed),
        }
    }
}
